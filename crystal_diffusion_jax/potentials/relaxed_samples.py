"""Relaxed crystals in a samples.db: columns with a prefix, and arrays in each row's data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.potentials.relaxation import (
    RelaxedCrystal,
    RelaxSettings,
    failed,
)
from crystal_diffusion_jax.potentials.relaxed_database import (
    MAX_REASON,
    UNFINISHED,
    place,
    relaxed_crystal,
)
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import checked_structure

_PREFIX = "relaxed_"


def sample_columns(
    relaxed: Sequence[RelaxedCrystal], settings: RelaxSettings
) -> dict[str, list[float | str | bool | None]]:
    """Columns for samples.db, by name; the values of every crystal, None or NaN if unknown.

    All of them each time, so that nothing stays of an earlier relaxation.
    """
    outcomes = [one.relaxation for one in relaxed]
    columns: dict[str, list[float | str | bool | None]] = {
        "initial_energy_per_atom": [x.initial_energy_per_atom for x in outcomes],
        "energy_per_atom": [x.energy_per_atom for x in outcomes],
        "energy_gain": [one.energy_gain for one in relaxed],
        "rmsd": [one.rmsd for one in relaxed],
        "volume_change": [one.volume_change for one in relaxed],
        "steps": [float(x.steps) for x in outcomes],
        "converged": [x.converged for x in outcomes],
        "failure": [x.failure for x in outcomes],
        "formation_energy_per_atom": [one.formation_energy_per_atom for one in relaxed],
        "energy_above_hull": [one.energy_above_hull for one in relaxed],
        "decomposition": [one.decomposition or None for one in relaxed],
    }
    for name, value in dataclasses.asdict(settings).items():
        columns[name] = [value] * len(relaxed)
    return {_PREFIX + name: values for name, values in columns.items()}


def sample_data(relaxed: Sequence[RelaxedCrystal]) -> dict[int, dict[str, np.ndarray]]:
    """Arrays for the rows of samples.db: the relaxed crystal, its atoms in the order of the row."""
    return {
        index: {
            "relaxed_cell": structure.lattice.matrix,
            "relaxed_frac_coords": structure.frac_coords,
            "magnetic_moments": one.relaxation.magnetic_moments,
        }
        for index, one in enumerate(relaxed)
        if (structure := one.relaxation.structure) is not None
    }


def read_relaxed_samples(path: Path) -> tuple[list[RelaxedCrystal], RelaxSettings | None]:
    """The outcome of every crystal that was requested, and the settings.

    Args:
      path: output folder of `sample`, its samples.db, which may come from a stranger, or any other
        path.

    Returns:
      No outcome and no settings if none of its crystals was relaxed.

    Raises:
      UserError: the database cannot be read.
    """
    if (found := database.find(path)) is None:
        return [], None
    settings = None
    with database.reading(found) as db:
        num = database.stored_request(db).request.num
        results = [RelaxedCrystal(f"sample {index}", failed(UNFINISHED)) for index in range(num)]
        for index, row_id in database.row_ids(db):
            with database.damage():
                row = db.get(id=row_id)
                values = {
                    name.removeprefix(_PREFIX): value
                    for name, value in row.key_value_pairs.items()
                    if name.startswith(_PREFIX)
                }
                if values:
                    at = place(index, results)
                    results[at] = _outcome(results[at].name, row, values)
                    settings = msgspec.convert(values, RelaxSettings, strict=False)
    return (results, settings) if settings is not None else ([], None)


def _outcome(name: str, row: Any, values: Mapping[str, Any]) -> RelaxedCrystal:
    if "failure" in values:
        reason = printable(str(values["failure"]), MAX_REASON)
        initial = float(values.get("initial_energy_per_atom", math.nan))
        return RelaxedCrystal(name, failed(reason, initial, int(values["steps"])))
    frac_coords = np.asarray(row.data["relaxed_frac_coords"], np.float64)
    structure = checked_structure(row.data["relaxed_cell"], frac_coords, row.numbers)
    return relaxed_crystal(name, structure, row.data["magnetic_moments"], values)
