"""What `discover` decided about each crystal, in their samples.db."""

from pathlib import Path
from typing import Any

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.database import DATABASE

_MAX_CHECK = 100  # characters


def read_ranks(structures: Path) -> dict[int, int]:
    """Index -> place on the shortlist, from 1; empty without a shortlist.

    Args:
      structures: folder of samples, its samples.db, which may come from a stranger, or other
        crystals.

    Raises:
      UserError: the database cannot be read.
    """
    return {index: int(rank) for index, rank in _read(structures, "number", "rank").items()}


def read_failed_checks(structures: Path) -> dict[int, str]:
    """Index -> the check that kept a crystal off the shortlist; empty without a shortlist.

    Args:
      structures: as for `read_ranks`.

    Raises:
      UserError: the database cannot be read.
    """
    found = _read(structures, "text", "failed_check")
    return {index: printable(str(text), _MAX_CHECK) for index, text in found.items()}


def _read(structures: Path, kind: str, name: str) -> dict[int, Any]:
    path = structures / DATABASE if structures.is_dir() else structures
    if path.suffix != ".db" or not path.is_file():
        return {}
    sql = f"SELECT id, value FROM {kind}_key_values WHERE key = '{name}'"
    with database.reading(path) as db, database.damage():
        by_row = dict(database.query(db, sql))
        return {index: by_row[row] for index, row in database.row_ids(db) if row in by_row}
