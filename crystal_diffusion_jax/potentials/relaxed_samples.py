"""Reads what `relax` adds to a samples.db: columns with a prefix, and the relaxed crystals."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.potentials.relaxation import Relaxation
from crystal_diffusion_jax.potentials.relaxed_crystals import RelaxedCrystal, failed
from crystal_diffusion_jax.potentials.relaxed_database import MEASURED, UNFINISHED
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import checked_structure
from crystal_diffusion_jax.structures.database import DATABASE

PREFIX = "relaxed_"
_MAX_TEXT = 400


def read_relaxed_samples(path: Path) -> list[RelaxedCrystal]:
    """The outcome of every crystal that was requested; none at all if no crystal was relaxed.

    Args:
      path: output folder of `sample`, its samples.db, which may come from a stranger, or any other
        path.

    Raises:
      UserError: the database cannot be read.
    """
    path = path / DATABASE if path.is_dir() else path
    if path.suffix != ".db" or not path.is_file():
        return []
    with database.reading(path) as db:
        num = database.stored_request(db).request.num
        results = [RelaxedCrystal(f"sample {index}", failed(UNFINISHED)) for index in range(num)]
        tried = False
        for index, row_id in database.row_ids(db):
            with database.damage():
                row = db.get(id=row_id)
                values = {
                    name.removeprefix(PREFIX): value
                    for name, value in row.key_value_pairs.items()
                    if name.startswith(PREFIX)
                }
                if values:
                    tried = True
                    results[index] = _outcome(results[index].name, row, values)
    return results if tried else []


def _outcome(name: str, row: Any, values: Mapping[str, Any]) -> RelaxedCrystal:
    def number(key: str) -> float:
        return float(values.get(key, math.nan))

    initial, steps = number("initial_energy_per_atom"), int(values["steps"])
    if "failure" in values:
        reason = printable(str(values["failure"]), _MAX_TEXT)
        return RelaxedCrystal(name, failed(reason, initial, steps))
    frac_coords = np.asarray(row.data["relaxed_frac_coords"], np.float64)
    relaxation = Relaxation(
        structure=checked_structure(row.data["relaxed_cell"], frac_coords, row.numbers),
        initial_energy_per_atom=initial,
        energy_per_atom=number("energy_per_atom"),
        steps=steps,
        converged=bool(values["converged"]),
        magnetic_moments=np.asarray(row.data["magnetic_moments"], np.float64),
        failure=None,
    )
    return RelaxedCrystal(
        name,
        relaxation,
        **{key: number(key) for key in MEASURED},
        decomposition=printable(str(values.get("decomposition", "")), _MAX_TEXT),
    )
