"""What is exported from a samples.db: CIFs, an extended XYZ file and a table."""

import csv
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.request import Trajectory
from crystal_diffusion_jax.runtime.files import replace_pieces, replace_text
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.conversion import (
    minimum_distance,
    restore_structure,
    to_extxyz,
)

EXTXYZ = "samples.extxyz"
CSV = "samples.csv"
CIF_FOLDER = "cif"
TRAJECTORIES = "trajectories"


class Stored(NamedTuple):
    """A crystal of a database: its index, structure and values by name."""

    index: int
    structure: Structure
    values: dict[str, Any]


def cif_name(index: int, structure: Structure) -> str:
    """File name of a crystal's CIF, e.g. 00042_BaTiO3.cif."""
    return f"{index:05d}_{reduced_formula(np.array(structure.atomic_numbers))}.cif"


def write_missing_cifs(out: Path, crystals: Iterable[Stored], symprec: float) -> None:
    """Writes the CIFs that are not in OUT/cif yet; each is complete once it has its name."""
    folder = out / CIF_FOLDER
    folder.mkdir(exist_ok=True)
    for index, structure, _ in crystals:
        path = folder / cif_name(index, structure)
        if not path.exists():
            replace_text(path, to_cif(structure, symprec))


def write_extxyz(out: Path, crystals: Iterable[Stored], model: str) -> None:
    """Writes samples.extxyz, with the values of each crystal in the comment line of its frame."""
    frames = (
        to_extxyz([structure], [{"model": model, **values}]) for _, structure, values in crystals
    )
    replace_pieces(out / EXTXYZ, frames)


def write_csv(out: Path, crystals: Iterable[Stored], names: Sequence[str]) -> None:
    """Writes samples.csv, one row per crystal.

    Args:
      out: the folder.
      crystals: in the order of the rows.
      names: of the values that become columns; empty cells stand for values that are not there.
    """
    header = ["index", "formula", "num_atoms", "a", "b", "c", "alpha", "beta", "gamma", "volume"]
    header += ["min_distance", "cif", *names]
    rows = (
        [
            index,
            reduced_formula(np.array(structure.atomic_numbers)),
            len(structure),
            *structure.lattice.parameters,
            structure.volume,
            # A single atom has no neighbour.
            distance if math.isfinite(distance := minimum_distance(structure)) else None,
            f"{CIF_FOLDER}/{cif_name(index, structure)}",
            *(values.get(name) for name in names),
        ]
        for index, structure, values in crystals
    )
    replace_pieces(out / CSV, map(_csv_line, itertools.chain([header], rows)))


def _csv_line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def trajectory_path(out: Path, index: int) -> Path:
    """Where the trajectory of a crystal is, e.g. OUT/trajectories/00042.extxyz."""
    return out / TRAJECTORIES / f"{index:05d}.extxyz"


def write_trajectory(path: Path, states: Trajectory) -> None:
    """Writes an extended XYZ file with one frame per state and its diffusion time as `t`.

    Cells are written as they are, even if they are left-handed, flat or not finite.
    """
    structures = [
        restore_structure(np.asarray(lattice, np.float64), np.asarray(coords, np.float64), numbers)
        for lattice, coords, numbers in zip(
            states.lattice, states.frac_coords, states.atomic_numbers, strict=True
        )
    ]
    path.parent.mkdir(exist_ok=True)
    replace_text(path, to_extxyz(structures, [{"t": int(t)} for t in states.times]))
