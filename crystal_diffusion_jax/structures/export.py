"""What is exported from a samples.db: CIFs, an extended XYZ file, a table and a summary of it."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.request import Trajectory
from crystal_diffusion_jax.runtime.files import replace_pieces, replace_text
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.conversion import (
    minimum_distance,
    restore_structure,
    to_ase,
    to_extxyz,
)
from crystal_diffusion_jax.structures.database import StoredCrystal
from crystal_diffusion_jax.structures.limits import MIN_VALID_DISTANCE

EXTXYZ = "samples.extxyz"
CSV = "samples.csv"
CIF_FOLDER = "cif"
TRAJECTORIES = "trajectories"


def cif_name(index: int, structure: Structure) -> str:
    """File name of a crystal's CIF, e.g. 00042_BaTiO3.cif."""
    return f"{index:05d}_{reduced_formula(structure.atomic_numbers)}.cif"


def write_missing_cifs(out: Path, crystals: Iterable[StoredCrystal], symprec: float) -> None:
    """Writes the CIFs that are not in OUT/cif yet; each is complete once it has its name."""
    folder = out / CIF_FOLDER
    folder.mkdir(exist_ok=True)
    for crystal in crystals:
        path = folder / cif_name(crystal.index, crystal.structure)
        if not path.exists():
            replace_text(path, to_cif(crystal.structure, symprec))


def write_extxyz(out: Path, crystals: Iterable[StoredCrystal], model: str) -> None:
    """Writes samples.extxyz, with the values of each crystal in the comment line of its frame."""

    def frame(crystal: StoredCrystal) -> ase.Atoms:
        formula = reduced_formula(crystal.structure.atomic_numbers)
        return to_ase(crystal.structure, model=model, formula=formula, **crystal.values)

    replace_pieces(out / EXTXYZ, (to_extxyz([frame(crystal)]) for crystal in crystals))


def write_csv(out: Path, crystals: Iterable[StoredCrystal], names: Sequence[str]) -> None:
    """Writes samples.csv, one row per crystal.

    Args:
      out: the folder.
      crystals: in the order of the rows.
      names: of the values that become columns; a missing value leaves its cell empty.
    """
    header = ["index", "formula", "num_atoms", "a", "b", "c", "alpha", "beta", "gamma", "volume"]
    header += ["min_distance", "cif", *names]

    def lines() -> Iterator[str]:
        yield csv_line(header)
        for crystal in crystals:
            distance = minimum_distance(crystal.structure)
            yield csv_line(
                [
                    crystal.index,
                    reduced_formula(crystal.structure.atomic_numbers),
                    len(crystal.structure),
                    *crystal.structure.lattice.parameters,
                    crystal.structure.volume,
                    distance if math.isfinite(distance) else None,  # a single atom has none
                    f"{CIF_FOLDER}/{cif_name(crystal.index, crystal.structure)}",
                    *(crystal.values.get(name) for name in names),
                ]
            )

    replace_pieces(out / CSV, lines())


def csv_line(values: Sequence[Any]) -> str:
    """One line of a csv table, with its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def summary(table: Path) -> list[str]:
    """Validity, compositions and cell sizes of the crystals in a samples.csv, as lines of text."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return []
    valid = sum(
        not row["min_distance"] or float(row["min_distance"]) >= MIN_VALID_DISTANCE for row in rows
    )
    formulas = Counter(row["formula"] for row in rows)
    common = ", ".join(f"{formula} {count}" for formula, count in formulas.most_common(5))
    per_atom = sorted(float(row["volume"]) / int(row["num_atoms"]) for row in rows)
    return [
        f"no pair of atoms closer than {MIN_VALID_DISTANCE} A: {valid} of {len(rows)}",
        f"{len(formulas)} unique compositions; most common: {common}",
        f"volume per atom: median {per_atom[len(rows) // 2]:.1f} A^3, "
        f"{per_atom[0]:.1f} to {per_atom[-1]:.1f}",
    ]


def trajectory_path(out: Path, index: int) -> Path:
    """Where the trajectory of a crystal is, e.g. OUT/trajectories/00042.extxyz."""
    return out / TRAJECTORIES / f"{index:05d}.extxyz"


def write_trajectory(path: Path, states: Trajectory) -> None:
    """Writes an extended XYZ file with one frame per state and its diffusion time as `t`.

    Cells are written as they are, even if they are left-handed, flat or not finite.
    """
    frames = []
    for index, time in enumerate(states.times):
        lattice, coords = states.lattice[index], states.frac_coords[index]
        structure = restore_structure(
            np.asarray(lattice, np.float64),
            np.asarray(coords, np.float64),
            states.atomic_numbers[index],
        )
        frames.append(to_ase(structure, t=int(time)))
    path.parent.mkdir(exist_ok=True)
    replace_text(path, to_extxyz(frames))
