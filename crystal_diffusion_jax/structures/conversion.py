"""Arrays, pymatgen structures and ASE atoms: one into the other."""

import io
from collections.abc import Mapping, Sequence

import ase
import ase.io
import numpy as np
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures.limits import MAX_CELL_LENGTH, MIN_VOLUME

# Above this |cos| of the angle between two cell vectors the cell is numerically flat: 2.6 degrees.
MAX_ABS_COSINE = 0.999


def cell_defect(lattice: np.ndarray, frac_coords: np.ndarray) -> str | None:
    """Why a generated crystal must not be written as a structure; None when it may be.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] fractional coordinates.
    """
    lattice = np.asarray(lattice, dtype=np.float64)
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        return "non-finite numbers"
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(lattice, axis=-1)
    if lengths.max() > MAX_CELL_LENGTH:
        return f"cell vector longer than {MAX_CELL_LENGTH:g} A"
    if abs(np.linalg.det(lattice)) < MIN_VOLUME:
        return f"volume below {MIN_VOLUME} A^3"
    unit = lattice / lengths[:, None]
    cosines = (unit @ unit.T)[np.triu_indices(3, k=1)]
    if np.abs(cosines).max() > MAX_ABS_COSINE:
        return f"collinear cell vectors (|cos| > {MAX_ABS_COSINE})"
    return None


def to_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The crystal in canonical form: right-handed cell of fixed orientation, coordinates in [0, 1).

    The cell is rebuilt from its lengths and angles. A left-handed cell thereby turns into its
    mirror image, which has the same distances, energy and properties; the denoiser cannot tell
    the two apart, because it sees the lattice through its Gram matrix.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom, without a `cell_defect`.
      frac_coords: [N, 3] fractional coordinates, any real numbers.
      atomic_numbers: [N] int.
    """
    canonical = Lattice.from_parameters(*Lattice(np.asarray(lattice, np.float64)).parameters)
    wrapped = np.mod(np.asarray(frac_coords, np.float64), 1.0)
    # A tiny negative number leaves exactly 1.0, which is the same point as 0.
    wrapped[wrapped >= 1.0] = 0.0
    return restore_structure(canonical.matrix, wrapped, atomic_numbers)


def restore_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The structure with exactly these numbers, to restore a recorded `to_structure` bit by bit.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] fractional coordinates in [0, 1).
      atomic_numbers: [N] int.
    """
    return Structure(Lattice(lattice), _elements(atomic_numbers), frac_coords)


def to_extxyz(structures: Sequence[Structure], infos: Sequence[Mapping[str, float | str]]) -> str:
    """Extended XYZ text with one frame a structure, as written by ASE.

    Args:
      structures: the frames.
      infos: for each frame, what its comment line says besides the cell, e.g. {"index": 3}.
    """
    frames = []
    for structure, info in zip(structures, infos, strict=True):
        frames.append(to_ase(structure))
        frames[-1].info.update(info)
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue()


def to_ase(structure: Structure) -> ase.Atoms:
    """The structure as ASE has it, periodic in all directions."""
    return ase.Atoms(
        numbers=structure.atomic_numbers,
        cell=structure.lattice.matrix,
        positions=structure.cart_coords,  # scaled ones would need a cell that has a volume
        pbc=True,
    )


def from_ase(atoms: ase.Atoms) -> Structure:
    """ASE's crystal as pymatgen has it.

    Raises:
      UserError: it is not periodic in all directions.
    """
    if not atoms.pbc.all():
        raise UserError("a crystal must be periodic in all directions (pbc)")
    return Structure.from_ase_atoms(atoms)


def minimum_distance(structure: Structure) -> float:
    """Smallest distance of two different atoms in the periodic crystal, in Angstrom.

    Infinite for one atom: distances of an atom to its own images are not counted.
    """
    distances = structure.distance_matrix  # [N, N], minimum image
    return float(np.min(distances[np.triu_indices(len(structure), k=1)], initial=np.inf))


def _elements(atomic_numbers: np.ndarray) -> list[Element]:
    return [Element.from_Z(int(number)) for number in atomic_numbers]
