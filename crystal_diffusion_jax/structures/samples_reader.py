"""What the samples.db of a sampling command holds: the request, the crystals and their values.

The file may come from a stranger, so nothing in it is trusted. `store` writes it.
"""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import checked_structure
from crystal_diffusion_jax.structures.database import StoredRequest
from crystal_diffusion_jax.structures.limits import MAX_NAME

# In place of crystals that were asked for.
REJECTED = "rejected when sampled"  # and why
NOT_SAMPLED = "not sampled: the sampling command has not finished"


def read_request(path: Path) -> StoredRequest | None:
    """The request of sampled crystals; None for other crystals, or before the request is stored.

    Args:
      path: output folder, its samples.db or any other path.

    Raises:
      UserError: the database cannot be read.
    """
    if (found := database.find(path)) is None:
        return None
    with database.reading(found) as db:
        return database.stored_request(db) if db.metadata else None


def read_samples(path: Path) -> list[Structure | str]:
    """The structure of each requested crystal, or the reason why it is missing.

    Args:
      path: samples.db.

    Raises:
      UserError: it cannot be read or holds no samples, or an index is out of range or repeated.
    """
    with database.reading(path) as db:
        results: list[Any] = [None] * database.stored_request(db).request.num
        found = [(index, _read(db, row_id)) for index, row_id in database.row_ids(db)]
        for index, reason in database.query(db, "SELECT crystal, reason FROM rejected"):
            found.append((index, f"{REJECTED}: {printable(str(reason), 300)}"))
        for index, result in found:
            if not 0 <= index < len(results) or results[index] is not None:
                raise sqlite3.DatabaseError(f"crystal {index} occurs twice or was not requested")
            results[index] = result
    return [result or NOT_SAMPLED for result in results]


def read_material_ids(path: Path) -> list[str]:
    """Identifier of the reference crystal that each requested crystal predicts, "" for none.

    They are those of the request, which rejected crystals have, too; or else the column
    `material_id` of the written crystals; empty if there is no such column. ase.db keeps whole
    numbers, the identifiers of Perov-5, only as numbers.

    Args:
      path: samples.db.

    Raises:
      UserError: it cannot be read or holds no samples.
    """
    sql = "SELECT id, value FROM {}_key_values WHERE key = 'material_id'"
    with database.reading(path) as db, database.damage():
        request = database.stored_request(db).request
        if asked := request.material_ids:
            return [printable(own, MAX_NAME) for own in asked]
        by_row = {row: str(text) for row, text in database.query(db, sql.format("text"))}
        for row, number in database.query(db, sql.format("number")):
            by_row[row] = f"{number:.15g}"
        ids = [""] * (request.num if by_row else 0)
        for index, row_id in database.row_ids(db) if by_row else ():
            ids[index] = printable(by_row.get(row_id, ""), MAX_NAME)
    return ids


def read_values(path: Path) -> dict[int, dict[str, Any]]:
    """Index of each written crystal -> its values by name, requested and added ones.

    Args:
      path: samples.db.

    Raises:
      UserError: it cannot be read or holds no samples.
    """
    with database.reading(path) as db:
        return {crystal.index: crystal.values for crystal in database.crystals(db)}


def _read(db: Any, row_id: int) -> Structure | str:
    try:
        row = db.get(id=row_id)
        frac_coords = np.asarray(row.data["frac_coords"], np.float64)
        return checked_structure(np.array(row.cell), frac_coords, row.numbers)
    except Exception as error:  # ase.db fails in many ways on a damaged row
        return f"unreadable entry: {printable(str(error), 200)}"
