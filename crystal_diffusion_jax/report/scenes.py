"""Frames of a sampling trajectory as scenes to draw: atoms, bonds and cell edges.

All frames share the rotation, reflection and origin shift that make the last one upright and
right-handed, with its largest atom at the corner of the cell. The reverse process is invariant
under all three.
"""

import dataclasses
import itertools
import warnings
from pathlib import Path

import ase
import ase.cell
import ase.io
import numpy as np
import scipy.linalg
from ase.data import covalent_radii

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_CELL_LENGTH

# Periodic images fade out over this distance (Angstrom) outside a face, so that nothing jumps when
# an atom leaves through one face and re-enters through the opposite one.
_FADE = 1.0
# Bonds appear while the diffusion time falls from the first to the second fraction of its maximum.
_BONDS_BEGIN, _BONDS_FULL = 0.3, 0.05
# A bond is at most this factor longer than the shortest contact of either atom ...
_SHELL = 1.15
# ... and than the sum of the covalent radii.
_REACH = 1.3
# Corners of the unit cube, and the pairs of corners joined by an edge.
CUBE = np.array(list(itertools.product((0, 1), repeat=3)))
EDGES = np.array(
    [(i, j) for i, j in itertools.combinations(range(8), 2) if abs(CUBE[i] - CUBE[j]).sum() == 1]
)
SHIFTS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))


@dataclasses.dataclass(frozen=True)
class Scene:
    """One frame, centred on the middle of the cell; lengths in Angstrom.

    Attributes:
      t: diffusion time.
      formula: reduced formula of this state.
      positions: [M, 3] atoms in the cell and their periodic images close to it.
      atomic_numbers: [M] int.
      sizes: [M] fraction of its full radius at which each atom is drawn, in (0, 1].
      bonds: [P, 2] int, pairs of these atoms.
      bond_size: fraction of their full width at which bonds are drawn, 0 to 1.
      corners: [8, 3] corners of the cell, in the order of CUBE.
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
    """Evenly spaced frames of a file written by `experiments.sample --trajectory`.

    Args:
      path: the file.
      max_frames: return at most this many; the first and last are always among them.

    Raises:
      UserError: the file cannot be read or drawn.
    """
    if not path.is_file():
        raise UserError(f"--trajectory={path} is not a file: give one of OUT/trajectories.")
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise UserError(f"--trajectory={path} is larger than any trajectory.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = list(ase.io.iread(path, index=":", format="extxyz"))
    except Exception as error:  # ASE's parser fails in many ways
        raise UserError(
            f"--trajectory={path} is not an extended XYZ file: {printable(str(error), 200)}."
        ) from error
    if len(frames) < 2:
        raise UserError(f"--trajectory={path} is not a trajectory: {len(frames)} frames.")
    for number, frame in enumerate(frames):
        if defect := _defect(frame, len(frames[0])):
            raise UserError(f"--trajectory={path}, frame {number}: {defect}.")
    chosen = np.unique(np.linspace(0, len(frames) - 1, max_frames).round().astype(int))
    return [frames[index] for index in chosen]


def _defect(frame: ase.Atoms, num_atoms: int) -> str | None:
    if not isinstance(frame.info.get("t"), int | np.integer):
        return "its comment line has no diffusion time t"
    if not 1 <= len(frame) == num_atoms <= MAX_ATOMS:
        return f"{len(frame)} atoms; every frame must have the same number, 1 to {MAX_ATOMS}"
    if not frame.numbers.all():
        return "an unknown element"
    numbers = np.concatenate([frame.cell.array, frame.positions])
    if not np.isfinite(numbers).all():
        return "its coordinates are not finite"
    if np.abs(numbers).max() > MAX_CELL_LENGTH:
        return f"a length beyond {MAX_CELL_LENGTH:g} A"
    return None


def make_scenes(frames: list[ase.Atoms]) -> list[Scene]:
    """The scenes of a trajectory whose last frame is the crystal."""
    last = frames[-1]
    turn = _upright(last.cell.array)
    largest = int(np.argmax(covalent_radii[last.numbers]))
    origin = _frac_coords(last)[largest]
    start = max(frame.info["t"] for frame in frames)
    return [_scene(frame, turn, origin, frame.info["t"] / max(start, 1)) for frame in frames]


def _upright(lattice: np.ndarray) -> np.ndarray:
    """The rotation, possibly with a reflection, into the cell's standard orientation, [3, 3]."""
    if abs(np.linalg.det(lattice)) < 1e-3:
        return np.eye(3)
    standard = ase.cell.Cell.new(ase.cell.Cell(lattice).cellpar()).array
    return np.asarray(scipy.linalg.polar(np.linalg.solve(lattice, standard))[0])


def _frac_coords(frame: ase.Atoms) -> np.ndarray:
    # A flat cell has no inverse; the coordinates then lie in its plane.
    return np.asarray(frame.positions @ np.linalg.pinv(frame.cell.array))


def _scene(frame: ase.Atoms, turn: np.ndarray, origin: np.ndarray, time: float) -> Scene:
    lattice = frame.cell.array @ turn
    frac_coords = np.mod(_frac_coords(frame) - origin, 1.0)
    images = frac_coords[:, None] + SHIFTS  # [N, 27, 3]
    outside = np.maximum(np.maximum(-images, images - 1.0), 0.0)
    distance = np.max(outside * np.linalg.norm(lattice, axis=-1), axis=-1)
    inside = np.clip(1.0 - distance / _FADE, 0.0, 1.0)
    size = inside**2 * (3.0 - 2.0 * inside)
    atom, shift = np.nonzero(size > 0.05)
    positions = (images[atom, shift] - 0.5) @ lattice
    bond_size = float(np.clip((_BONDS_BEGIN - time) / (_BONDS_BEGIN - _BONDS_FULL), 0.0, 1.0))
    return Scene(
        t=int(frame.info["t"]),
        formula=reduced_formula(frame.numbers),
        positions=positions,
        atomic_numbers=frame.numbers[atom],
        sizes=size[atom, shift],
        bonds=_bonds(positions, frame.numbers[atom]) if bond_size else np.zeros((0, 2), int),
        bond_size=bond_size,
        corners=(CUBE - 0.5) @ lattice,
    )


def _bonds(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    nearest = np.where(distance > 0, distance, np.inf).min(axis=1)
    radii = covalent_radii[atomic_numbers]
    longest = np.minimum(
        _SHELL * np.minimum(nearest[:, None], nearest), _REACH * (radii[:, None] + radii)
    )
    return np.argwhere(np.triu(distance <= longest, k=1))
