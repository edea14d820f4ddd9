"""ase.db databases in SQLite that anybody wrote -> crystals row by row."""

import sqlite3
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import periodic_structure
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_CRYSTALS

_TABLES = {
    "systems",
    "species",
    "keys",
    "text_key_values",
    "number_key_values",
    "information",
    "sqlite_sequence",
}


def read_rows(path: Path) -> list[tuple[str, Structure | str]]:
    """The name of each row and its structure, or the reason why it could not be read.

    Raises:
      UserError: no database of ASE, a damaged one, or one with tables of another program.
    """
    with database.reading(path, database.ANY) as db:
        tables = database.query(db, "SELECT name FROM sqlite_master WHERE type = 'table'")
        names = {name for (name,) in tables}
        if others := sorted(names - _TABLES):
            raise sqlite3.DatabaseError(f"tables beside ASE's: {', '.join(others)}")
        rows = database.query(db, "SELECT id, natoms FROM systems ORDER BY id")
        if len(rows) > MAX_CRYSTALS:
            raise sqlite3.DatabaseError(f"more than {MAX_CRYSTALS:,} rows")
        return [(f"row {row_id}", _structure(db, row_id, natoms)) for row_id, natoms in rows]


def is_samples(path: Path) -> bool:
    """Whether a file is the samples.db of `experiments.sample`, by whatever name."""
    try:
        with database.reading(path, database.SAMPLES):
            return True
    except ValueError:
        return False


def _structure(db: Any, row_id: int, natoms: int) -> Structure | str:
    if not isinstance(natoms, int) or natoms > MAX_ATOMS:
        return f"too many atoms: {natoms}, the limit is {MAX_ATOMS}"
    with database.damage():
        row = db.get(id=row_id)
        try:
            return periodic_structure(row.numbers, row.positions, row.cell, row.pbc)
        except ValueError as error:
            return printable(str(error), 300)
