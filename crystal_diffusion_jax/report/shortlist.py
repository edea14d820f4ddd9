"""The places of crystals on the shortlist of `discover`, in their samples.db."""

from pathlib import Path

from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.database import DATABASE


def read_ranks(structures: Path) -> dict[int, int]:
    """Index -> place on the shortlist, from 1; empty without a shortlist.

    Args:
      structures: folder of samples, its samples.db, which may come from a stranger, or other
        crystals.

    Raises:
      UserError: the database cannot be read.
    """
    path = structures / DATABASE if structures.is_dir() else structures
    if path.suffix != ".db" or not path.is_file():
        return {}
    sql = "SELECT id, value FROM number_key_values WHERE key = 'rank'"
    with database.reading(path) as db, database.damage():
        by_row = {row: int(rank) for row, rank in database.query(db, sql)}
        return {index: by_row[row] for index, row in database.row_ids(db) if row in by_row}
