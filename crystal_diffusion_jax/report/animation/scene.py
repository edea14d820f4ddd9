"""A trajectory as scenes in space: balls, bonds and the edges of the cell, frame by frame.

All frames are turned, mirrored and shifted as the last one needs it to stand upright, right-handed
and with its largest atom in the corner of the cell: the reverse process knows none of the three.
"""

import dataclasses
import io
import itertools
import math
import warnings
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Lattice

from crystal_diffusion_jax.errors import UserError, shown
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.extxyz import TooManyAtoms, check_columns, split_frames
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_CELL_LENGTH

# More states than any process that is asked for has.
_MAX_FRAMES = 100_000
# Angstrom outside a face over which the image of an atom shrinks to nothing: so nothing jumps when
# an atom leaves through one face and comes in through the opposite one.
_FADE = 1.0
# Bonds grow from this share of the diffusion time to that one.
_BONDS_BEGIN, _BONDS_FULL = 0.3, 0.05
# A bond is as short as the shortest one of both its atoms, to this factor ...
_SHELL = 1.15
# ... and no longer than so many times the sum of the covalent radii.
_REACH = 1.3
# Corners of the unit cube, and the pairs of them that an edge joins.
CUBE = np.array(list(itertools.product((0, 1), repeat=3)))
EDGES = [
    (i, j) for i, j in itertools.combinations(range(8), 2) if abs(CUBE[i] - CUBE[j]).sum() == 1
]
_SHIFTS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))


@dataclasses.dataclass(frozen=True)
class Scene:
    """One frame, centred on the middle of the cell.

    Attributes:
      t: diffusion time.
      formula: reduced, of the state.
      positions: [M, 3] of the atoms in the cell, and of their images close to it, in Angstrom.
      atomic_numbers: [M] int.
      sizes: [M] share of its radius that an atom is drawn with, in (0, 1].
      bonds: [P, 2] int, pairs of these atoms.
      bond_size: share of their thickness that the bonds have, 0 to 1.
      corners: [8, 3] of the cell, in the order of CUBE, in Angstrom.
    """

    t: int
    formula: str
    positions: np.ndarray
    atomic_numbers: np.ndarray
    sizes: np.ndarray
    bonds: np.ndarray
    bond_size: float
    corners: np.ndarray


def read_trajectory(path: Path, max_frames: int) -> list[ase.Atoms]:
    """Frames of a file that `experiments.sample --trajectory` wrote, evenly spaced.

    Args:
      path: the file.
      max_frames: how many of its frames at most; the first and the last are always among them.

    Raises:
      UserError: it cannot be read, or cannot be drawn.
    """
    try:
        if not path.is_file():
            raise UserError(f"--trajectory={path} is no file: give one of OUT/trajectories.")
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise UserError(f"--trajectory={path} is larger than any trajectory.")
        frames = _frames(path)
    except UserError:
        raise
    except Exception as error:  # as open-ended as the text may be
        raise UserError(
            f"--trajectory={path} is no extended XYZ file: {shown(str(error), 200)}."
        ) from error
    if len(frames) < 2:
        raise UserError(f"--trajectory={path} holds no trajectory, but {len(frames)} frames.")
    for number, frame in enumerate(frames):
        if defect := _defect(frame, len(frames[0])):
            raise UserError(f"--trajectory={path}, frame {number}: {defect}.")
    chosen = np.unique(np.linspace(0, len(frames) - 1, max_frames).round().astype(int))
    return [frames[index] for index in chosen]


def _frames(path: Path) -> list[ase.Atoms]:
    frames: list[ase.Atoms] = []
    with path.open(encoding="utf-8", errors="replace") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in split_frames(file):
            if isinstance(text, TooManyAtoms):
                raise ValueError(text)
            if len(frames) == _MAX_FRAMES:
                raise ValueError(f"more than {_MAX_FRAMES:,} frames")
            check_columns(text)
            # One frame's text; without index=":" ASE gives one Atoms.
            frames.append(ase.io.read(io.StringIO(text), format="extxyz"))  # type: ignore[arg-type]
    return frames


def _defect(frame: ase.Atoms, num_atoms: int) -> str | None:
    if not isinstance(frame.info.get("t"), int | np.integer):
        return "its comment line has no diffusion time t"
    if not 1 <= len(frame) == num_atoms <= MAX_ATOMS:
        return f"{len(frame)} atoms, where 1 to {MAX_ATOMS}, in all frames as many, can be drawn"
    if not frame.numbers.all():
        return "an atom of no known element"
    numbers = np.concatenate([frame.cell.array, frame.positions])
    if not np.isfinite(numbers).all():
        return "its numbers are not finite, so there is nothing to draw"
    if np.abs(numbers).max() > MAX_CELL_LENGTH:
        return f"a length beyond {MAX_CELL_LENGTH:g} A"
    return None


def make_scenes(frames: list[ase.Atoms]) -> list[Scene]:
    """The frames as they are drawn; the last one is the crystal."""
    last = frames[-1]
    turn = _upright(last.cell.array)
    largest = int(np.argmax(covalent_radii[last.numbers]))
    origin = _frac_coords(last)[largest]
    start = max(frame.info["t"] for frame in frames)
    return [_scene(frame, turn, origin, frame.info["t"] / max(start, 1)) for frame in frames]


def _upright(lattice: np.ndarray) -> np.ndarray:
    """The rotation, maybe with a mirror, that gives a cell its standard orientation, [3, 3]."""
    if abs(np.linalg.det(lattice)) < 1e-3:
        return np.eye(3)
    standard = Lattice.from_parameters(*Lattice(lattice).parameters).matrix
    left, _, right = np.linalg.svd(np.linalg.solve(lattice, standard))
    return np.asarray(left @ right)


def _frac_coords(frame: ase.Atoms) -> np.ndarray:
    # A flat cell has no inverse: the coordinates then lie in its plane.
    return np.asarray(frame.positions @ np.linalg.pinv(frame.cell.array))


def _scene(frame: ase.Atoms, turn: np.ndarray, origin: np.ndarray, time: float) -> Scene:
    lattice = frame.cell.array @ turn
    frac_coords = np.mod(_frac_coords(frame) - origin, 1.0)
    images = frac_coords[:, None] + _SHIFTS  # [N, 27, 3]
    outside = np.maximum(np.maximum(-images, images - 1.0), 0.0)
    distance = np.max(outside * np.linalg.norm(lattice, axis=-1), axis=-1)
    inside = np.clip(1.0 - distance / _FADE, 0.0, 1.0)
    size = inside**2 * (3.0 - 2.0 * inside)
    atom, shift = np.nonzero(size > 0.05)
    positions = (images[atom, shift] - 0.5) @ lattice
    strength = np.clip((_BONDS_BEGIN - time) / (_BONDS_BEGIN - _BONDS_FULL), 0.0, 1.0)
    bonds = np.zeros((0, 2), int)
    if strength > 0:
        nearest = _nearest_distances(frac_coords, lattice)[atom]
        bonds = _bonds(positions, covalent_radii[frame.numbers[atom]], nearest)
    return Scene(
        t=int(frame.info["t"]),
        formula=reduced_formula(frame.numbers),
        positions=positions,
        atomic_numbers=frame.numbers[atom],
        sizes=size[atom, shift],
        bonds=bonds,
        bond_size=float(strength),
        corners=(CUBE - 0.5) @ lattice,
    )


def _nearest_distances(frac_coords: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """[N] distance of each atom to the nearest atom or image, its own ones too."""
    difference = frac_coords[:, None] - frac_coords
    nearest = np.full(len(frac_coords), math.inf)
    for shift in _SHIFTS:
        distance = np.linalg.norm((difference - np.round(difference) + shift) @ lattice, axis=-1)
        if not shift.any():
            np.fill_diagonal(distance, math.inf)
        nearest = np.minimum(nearest, distance.min(axis=1))
    return nearest


def _bonds(positions: np.ndarray, radii: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    longest = np.minimum(
        _SHELL * np.minimum(nearest[:, None], nearest), _REACH * (radii[:, None] + radii)
    )
    return np.argwhere(np.triu(distance <= longest, k=1))
