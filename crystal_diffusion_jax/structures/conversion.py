"""Arrays <-> pymatgen structures <-> ASE atoms, and which arrays are a crystal."""

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures.limits import (
    MAX_ATOMS,
    MAX_CELL_LENGTH,
    MAX_FRACTIONAL,
    MIN_CELL_LENGTH,
    MIN_VOLUME,
)

# Above this |cos| of the angle between two cell vectors (2.6 degrees) the cell is numerically flat.
MAX_ABS_COSINE = 0.999
# An occupancy above 1 minus this is 1: 0.9999 is written for it.
MAX_VACANCY = 1e-3


def lattice_defect(lattice: np.ndarray) -> str | None:
    """Why [3, 3] cell vectors in Angstrom are not the cell of a crystal; None if they are."""
    lattice = np.asarray(lattice, dtype=np.float64)
    if not np.isfinite(lattice).all():
        return "non-finite numbers"
    with np.errstate(over="ignore"):
        if np.linalg.norm(lattice, axis=-1).max() > MAX_CELL_LENGTH:
            return f"cell vector longer than {MAX_CELL_LENGTH:g} A"
    if abs(np.linalg.det(lattice)) < MIN_VOLUME:
        return f"volume below {MIN_VOLUME} A^3"
    return None


def array_defect(lattice: np.ndarray, frac_coords: np.ndarray) -> str | None:
    """Why a cell and [N, 3] fractional coordinates do not describe a crystal; None if they do."""
    return lattice_defect(lattice) if np.isfinite(frac_coords).all() else "non-finite numbers"


def cell_defect(lattice: np.ndarray, frac_coords: np.ndarray) -> str | None:
    """Why a generated crystal is rejected: `array_defect`, or a nearly flat cell; None if kept."""
    if defect := array_defect(lattice, frac_coords):
        return defect
    lattice = np.asarray(lattice, dtype=np.float64)
    unit = lattice / np.linalg.norm(lattice, axis=-1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(3, k=1)]
    if np.abs(cosines).max() > MAX_ABS_COSINE:
        return f"collinear cell vectors (|cos| > {MAX_ABS_COSINE})"
    return None


def checked_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The structure with these numbers, which may come from any file.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] fractional coordinates.
      atomic_numbers: [N] int.

    Raises:
      ValueError: they do not describe a crystal; the message is the reason.
    """
    num_atoms = np.size(atomic_numbers)
    shapes = np.shape(lattice), np.shape(frac_coords), np.shape(atomic_numbers)
    if shapes != ((3, 3), (num_atoms, 3), (num_atoms,)):
        raise ValueError("cell, coordinates and elements do not fit together")
    if num_atoms == 0:
        raise ValueError("no atoms")
    if num_atoms > MAX_ATOMS:
        raise ValueError(f"too many atoms: {num_atoms}, the limit is {MAX_ATOMS}")
    if defect := array_defect(lattice, frac_coords):
        raise ValueError(defect)
    if np.abs(frac_coords).max() > MAX_FRACTIONAL:
        raise ValueError(f"coordinate beyond {MAX_FRACTIONAL:g}")
    if np.linalg.norm(lattice, axis=-1).min() < MIN_CELL_LENGTH:
        raise ValueError(f"cell vector shorter than {MIN_CELL_LENGTH} A")
    if min(atomic_numbers) < 1 or max(atomic_numbers) > 118:
        raise ValueError("unknown element")
    return restore_structure(np.asarray(lattice), np.asarray(frac_coords), atomic_numbers)


def wrap_array(frac_coords: np.ndarray) -> np.ndarray:
    """Maps fractional coordinates of any shape into [0, 1); `crystals.wrap` for numpy."""
    wrapped = frac_coords - np.floor(frac_coords)
    wrapped[wrapped >= 1.0] = 0.0  # a tiny negative number rounds to 1, the same point as 0
    return wrapped


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
    wrapped = wrap_array(np.asarray(frac_coords, np.float64))
    return restore_structure(canonical.matrix, wrapped, atomic_numbers)


def restore_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The structure with exactly these numbers; arguments as in `to_structure`."""
    elements = [_element(int(number)) for number in atomic_numbers]
    return Structure(Lattice(lattice), elements, frac_coords)


@functools.cache
def _element(atomic_number: int) -> Element:
    # pymatgen goes through all elements to find one.
    return Element.from_Z(atomic_number)


def to_ase(structure: Structure, **info: Any) -> ase.Atoms:
    """The structure as ASE atoms, periodic in all directions, with entries of its `info`."""
    return ase.Atoms(
        numbers=structure.atomic_numbers,
        cell=structure.lattice.matrix,
        positions=structure.cart_coords,  # scaled positions would need a cell with a volume
        pbc=True,
        info=info,
    )


def to_extxyz(frames: Sequence[ase.Atoms]) -> str:
    """Extended XYZ text, each frame's `info` in its comment line."""
    import ase.io  # all formats of ASE, a tenth of a second

    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue()


def from_ase(atoms: ase.Atoms) -> Structure:
    """ASE atoms as a pymatgen structure.

    Raises:
      UserError: they are not a crystal: not periodic in all directions, without a cell that has a
        volume, or with sites that are not fully occupied.
    """
    try:
        refuse_open(atoms.pbc)
        refuse_disorder(atoms.info)
        if defect := lattice_defect(atoms.cell.array):
            raise ValueError(defect)
    except ValueError as error:
        raise UserError(f"ASE atoms that are not a crystal: {error}") from error
    return Structure.from_ase_atoms(atoms)


def periodic_structure(
    atomic_numbers: np.ndarray, positions: np.ndarray, lattice: np.ndarray, pbc: np.ndarray
) -> Structure:
    """The structure with the numbers of ASE's atoms, which may come from any file.

    Args:
      atomic_numbers: [N] int.
      positions: [N, 3] in Angstrom.
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      pbc: [3] bool, periodic along each of them.

    Raises:
      ValueError: they do not describe a crystal; the message is the reason.
    """
    refuse_open(pbc)
    lattice, positions = np.asarray(lattice, np.float64), np.asarray(positions, np.float64)
    numbers = np.asarray(atomic_numbers)
    if lattice.shape != (3, 3) or positions.shape != (numbers.size, 3):
        raise ValueError("cell, coordinates and elements do not fit together")
    if not np.isin(numbers, np.arange(119)).all():
        raise ValueError("unknown element")
    if defect := lattice_defect(lattice):
        raise ValueError(defect)
    with np.errstate(all="ignore"):  # overflow gives non-finite numbers, which are refused
        # Not ASE's get_scaled_positions(): it wraps coordinates into the cell.
        frac_coords = positions @ np.linalg.inv(lattice)
        return checked_structure(lattice, frac_coords, numbers.astype(np.int64))


def refuse_open(pbc: Sequence[bool] | np.ndarray) -> None:
    """Raises ValueError with the reason unless [3] flags say periodic in all directions."""
    flags = np.asarray(pbc, bool)
    if flags.shape != (3,) or not flags.all():
        letters = " ".join("FT"[int(flag)] for flag in flags.ravel()[:3])
        raise ValueError(f"no periodic cell: pbc is {letters}, all three are needed")


def refuse_disorder(info: Mapping[str, Any]) -> None:
    """Raises ValueError if ASE's `info` of a crystal states occupancies other than one.

    ASE keeps one of the elements at each mixed site.
    """
    occupancies = info.get("occupancy")
    for site in occupancies.values() if isinstance(occupancies, Mapping) else ():
        if not isinstance(site, Mapping) or len(site) != 1 or not is_full(*site.values()):
            raise ValueError("disorder: an occupancy is not 1")


def is_full(occupancy: Any) -> bool:
    """Whether a site's occupancy is one, within the digits of files."""
    return isinstance(occupancy, int | float) and abs(occupancy - 1.0) < MAX_VACANCY


def minimum_distance(structure: Structure) -> float:
    """Smallest distance between two different atoms in the periodic crystal, in Angstrom.

    Infinite for one atom: distances of an atom to its own images do not count.
    """
    distances = structure.distance_matrix  # [N, N], minimum image
    return float(np.min(distances[np.triu_indices(len(structure), k=1)], initial=np.inf))
