"""What `discover` decided about each crystal, in their samples.db."""

from pathlib import Path
from typing import Any

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures import database

_MAX_CHECK = 100  # characters


def read_shortlist(structures: Path) -> tuple[dict[int, int], dict[int, str]]:
    """Ranks and failed checks by index, both empty without a shortlist.

    Args:
      structures: folder of samples, its samples.db, which may come from a stranger, or other
        crystals.

    Returns:
      Place on the shortlist, from 1, and the check that kept a crystal off it.

    Raises:
      UserError: the database cannot be read.
    """
    if (path := database.find(structures)) is None:
        return {}, {}
    with database.reading(path) as db, database.damage():
        rows = database.row_ids(db)

        def values(kind: str, name: str) -> dict[int, Any]:
            sql = f"SELECT id, value FROM {kind}_key_values WHERE key = '{name}'"
            by_row = dict(database.query(db, sql))
            return {index: by_row[row] for index, row in rows if row in by_row}

        ranks = {index: int(rank) for index, rank in values("number", "rank").items()}
        checks = values("text", "failed_check")
    return ranks, {index: printable(str(text), _MAX_CHECK) for index, text in checks.items()}
