"""trajectories/00042.extxyz: how crystal 42 came out of the noise, one frame a kept state.

A file is written before its crystal counts as done, and those of crystals that do not count are
removed when the folder is opened: no file tells of another crystal than the folder holds.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.runtime.files import replace_text
from crystal_diffusion_jax.structures.conversion import restore_structure, to_extxyz

FOLDER = "trajectories"
_NAME = re.compile(r"(\d{5,})\.extxyz")


def file_name(index: int) -> str:
    """Name of a crystal's file, e.g. 00042.extxyz."""
    return f"{index:05d}.extxyz"


def to_text(
    times: np.ndarray, lattices: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> str:
    """Extended XYZ text of one trajectory.

    Cells are written as they are, be they left-handed, flat or not finite; the diffusion time of
    each frame is its `t`.

    Args:
      times: [F] diffusion time of each state, decreasing to 0.
      lattices: [F, 3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [F, N, 3].
      atomic_numbers: [F, N] int.
    """
    structures = [
        restore_structure(np.asarray(lattice, np.float64), np.asarray(coords, np.float64), numbers)
        for lattice, coords, numbers in zip(lattices, frac_coords, atomic_numbers, strict=True)
    ]
    return to_extxyz(structures, [{"t": int(t)} for t in times])


def write(out: Path, trajectories: Mapping[int, str]) -> None:
    """Writes the files of a batch, each whole or not at all, in place of any other.

    Args:
      out: the folder of the request.
      trajectories: index of each crystal -> its text.

    Raises:
      OSError: they cannot be written.
    """
    if trajectories:
        (out / FOLDER).mkdir(exist_ok=True)
    for index, text in trajectories.items():
        replace_text(out / FOLDER / file_name(index), text)


def mend(out: Path, missing: Sequence[int]) -> None:
    """Removes what an interrupted command left: half files, and those of crystals still missing.

    Args:
      out: the folder of the request.
      missing: indices of the crystals that are not there yet.

    Raises:
      OSError: they cannot be removed.
    """
    folder = out / FOLDER
    for leftover in folder.glob(".*.extxyz.tmp"):
        leftover.unlink()
    to_come = set(missing)
    for path in folder.glob("*.extxyz"):
        if (match := _NAME.fullmatch(path.name)) and int(match[1]) in to_come:
            path.unlink()
