"""relaxed.db: what is in it, and reading it.

Next to ase.db's tables, `crystals` lists the crystals that were requested and `failures` those that
could not be relaxed. The settings are in ase.db's metadata.
"""

import dataclasses
import hashlib
import math
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.potentials.relaxation import (
    Relaxation,
    RelaxedCrystal,
    RelaxSettings,
    failed,
)
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import checked_structure
from crystal_diffusion_jax.structures.csv_tables import join_names
from crystal_diffusion_jax.structures.database import Content
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS, MAX_NAME
from crystal_diffusion_jax.structures.reading import Inputs

RELAXED = "relaxed.db"
CONTENT = Content(
    "relaxed crystals",
    "relax",
    (
        # `digest` identifies the structure; without one, `failure` says why there is none.
        "crystals (crystal INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT, failure TEXT)",
        "failures (crystal INTEGER PRIMARY KEY, reason TEXT NOT NULL, "
        "initial_energy_per_atom REAL, steps INTEGER NOT NULL)",
    ),
)
UNFINISHED = "not relaxed: the relaxing command has not finished"
NOT_CHOSEN = "not relaxed: it did not pass the screen"  # of `discover`
# Numbers of a `RelaxedCrystal` beside its relaxation.
MEASURED = ("rmsd", "volume_change", "formation_energy_per_atom", "energy_above_hull")
MAX_REASON = 400


@dataclasses.dataclass(frozen=True)
class StoredSettings:
    """The settings of a relaxed.db, the version of each package, and the format."""

    settings: RelaxSettings
    versions: dict[str, str]
    format_version: Literal[1] = 1


def stored_settings(db: Any) -> StoredSettings:
    """The settings of a database that has them.

    Raises:
      sqlite3.DatabaseError: it is damaged or of another version.
    """
    with database.damage():
        stored: StoredSettings = msgspec.convert(db.metadata, StoredSettings)
    return stored


def differences(ours: RelaxSettings, theirs: RelaxSettings) -> list[str]:
    """The settings that differ, as "fmax (there 0.05, now 0.02)"."""
    return [
        f"{field.name} (there {there}, now {now})"
        for field in dataclasses.fields(ours)
        if (now := getattr(ours, field.name)) != (there := getattr(theirs, field.name))
    ]


def digest(structure: Structure) -> str:
    """Identifies exactly these numbers."""
    arrays = (structure.lattice.matrix, structure.frac_coords)
    content = b"".join(np.ascontiguousarray(array, "<f8").tobytes() for array in arrays)
    numbers = np.asarray(structure.atomic_numbers, np.uint8).tobytes()
    return hashlib.sha256(content + numbers).hexdigest()[:32]


def require_same(db: Any, out: Path, inputs: Inputs) -> None:
    """Checks that the crystals are those that the database has already, or more.

    Raises:
      UserError: they are not.
    """
    sql = "SELECT crystal, name, digest FROM crystals WHERE digest IS NOT NULL ORDER BY crystal"
    different = []
    for index, name, stored in database.query(db, sql):
        same = (
            0 <= index < len(inputs.names)
            and inputs.names[index] == name
            and (structure := inputs.structures[index]) is not None
            and digest(structure) == stored
        )
        if not same:
            different.append(printable(str(name), MAX_NAME))
    if different:
        raise UserError(
            f"{out} holds the relaxation of other crystals ({len(different)} differ or are "
            f"missing: {join_names(different)}): choose another folder."
        )


def read(db: Any) -> list[RelaxedCrystal]:
    """The outcome of every requested crystal.

    Raises:
      sqlite3.DatabaseError: it is damaged.
    """
    sql = "SELECT crystal, name, failure FROM crystals ORDER BY crystal"
    results: list[RelaxedCrystal] = []
    for index, name, failure in database.query(db, sql):
        if index != len(results) or index >= MAX_CRYSTALS:
            raise sqlite3.DatabaseError(f"crystal {index} is not in its place")
        reason = printable(str(failure), MAX_REASON) if failure else UNFINISHED
        results.append(RelaxedCrystal(printable(str(name), MAX_NAME), failed(reason)))
    sql = "SELECT crystal, reason, initial_energy_per_atom, steps FROM failures"
    for index, reason, energy, steps in database.query(db, sql):
        with database.damage():
            at = place(index, results)
            failure = failed(printable(str(reason), MAX_REASON), _number(energy), int(steps))
            results[at] = RelaxedCrystal(results[at].name, failure)
    for index, row_id in database.row_ids(db):
        with database.damage():
            at = place(index, results)
            results[at] = _read_row(results[at].name, db.get(id=row_id))
    return results


def place(index: int, results: Sequence[RelaxedCrystal]) -> int:
    """The index of a requested crystal.

    Raises:
      sqlite3.DatabaseError: it was not requested.
    """
    if not 0 <= index < len(results):
        raise sqlite3.DatabaseError(f"crystal {index} was not requested")
    return index


def _read_row(name: str, row: Any) -> RelaxedCrystal:
    structure = checked_structure(
        np.array(row.cell), np.asarray(row.data["frac_coords"], np.float64), row.numbers
    )
    return relaxed_crystal(name, structure, row.data["magnetic_moments"], row.key_value_pairs)


def relaxed_crystal(
    name: str, structure: Structure, magnetic_moments: Any, values: Mapping[str, Any]
) -> RelaxedCrystal:
    """A relaxed crystal from what a database holds.

    Args:
      name: of the crystal.
      structure: relaxed.
      magnetic_moments: one per atom.
      values: numbers and texts by name; those that are missing are unknown.

    Raises:
      LookupError, TypeError, ValueError: they are damaged.
    """
    moments = np.asarray(magnetic_moments, np.float64)
    if moments.shape != (len(structure),):
        raise ValueError("magnetic moments do not fit the atoms")
    relaxation = Relaxation(
        structure=structure,
        initial_energy_per_atom=_number(values.get("initial_energy_per_atom")),
        energy_per_atom=_number(values.get("energy_per_atom")),
        steps=int(values["steps"]),
        converged=bool(values["converged"]),
        magnetic_moments=moments,
        failure=None,
    )
    measured = {name: _number(values.get(name)) for name in MEASURED}
    decomposition = printable(str(values.get("decomposition", "")), MAX_REASON)
    return RelaxedCrystal(name, relaxation, **measured, decomposition=decomposition)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
