"""A crystal as generated or as relaxed: symmetry, cell, closest atoms, CIF, and what is drawn."""

import dataclasses

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Structure

from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.distances import nearest_neighbours
from crystal_diffusion_jax.structures.space_groups import space_group

# Atoms this close to a face of the cell (fractional) are drawn on the opposite face too.
_EDGE = 0.02
# Angstrom; no two atoms of a crystal worth looking at are further apart than this.
_REACH = 6.0


@dataclasses.dataclass(frozen=True)
class State:
    """One state of a crystal; None where unknown.

    Attributes:
      space_group: symbol and number, within the tolerance of symmetry.
      cell: lengths in Angstrom and angles in degrees.
      volume_per_atom: Angstrom^3.
      density: g/cm^3.
      closest: shortest distance between two atoms, images included, Angstrom.
      closest_in_radii: shortest such distance in units of the sum of both covalent radii.
      value: predicted property.
      energy: of the potential, eV/atom.
      cif: content of the file to download.
      lattice: [3][3] cell vectors as rows, Angstrom.
      symbols: [N] elements.
      frac_coords: [N][3] relative to the largest atom.
    """

    space_group: str
    cell: tuple[float, ...]
    volume_per_atom: float
    density: float
    closest: float | None
    closest_in_radii: float | None
    value: float | None
    energy: float | None
    cif: str
    lattice: list[list[float]]
    symbols: list[str]
    frac_coords: list[list[float]]


def state(
    structure: Structure,
    frac_coords: np.ndarray,
    symprec: float,
    value: float = np.nan,
    energy: float = np.nan,
) -> State:
    """What the page shows of a structure.

    Args:
      structure: the crystal.
      frac_coords: [N, 3] where its atoms are drawn, see `cell_of_largest_atom`.
      symprec: tolerance of symmetry in Angstrom, for the space group and the CIF.
      value: predicted property, NaN without a prediction.
      energy: of the potential in eV/atom, NaN if unknown.
    """
    closest, in_radii = closest_pair(structure)
    found = space_group(structure, symprec)
    return State(
        space_group="{} ({})".format(*found) if found else "unknown",
        cell=tuple(round(x, 4) for x in structure.lattice.parameters),
        volume_per_atom=round(structure.volume / len(structure), 3),
        density=round(float(structure.density), 3),
        closest=rounded(closest),
        closest_in_radii=rounded(in_radii),
        value=rounded(value),
        energy=rounded(energy),
        cif=to_cif(structure, symprec),
        lattice=np.round(structure.lattice.matrix, 5).tolist(),
        symbols=[site.specie.symbol for site in structure],
        frac_coords=np.round(frac_coords, 5).tolist(),
    )


def rounded(value: float) -> float | None:
    """A number for JSON, with five decimals; None for one that is not finite."""
    return round(float(value), 5) if np.isfinite(value) else None


def closest_pair(structure: Structure) -> tuple[float, float]:
    """Shortest distances between two atoms, or between an atom and its own image.

    Returns:
      In Angstrom, and in units of the sum of both covalent radii, which may be that of another
      pair; infinite where no two are within 6 Angstrom.
    """
    distances, in_radii = nearest_neighbours(
        structure.lattice.matrix,
        structure.frac_coords,
        np.array(structure.atomic_numbers),
        _REACH,
    )
    return float(distances.min()), float(in_radii.min())


def cell_of_largest_atom(structure: Structure) -> np.ndarray:
    """[N, 3] fractional coordinates relative to the largest atom, in [-0.02, 0.98].

    The first of the largest atoms is the origin, because that of a generated cell is arbitrary.
    """
    largest = np.argmax(covalent_radii[np.array(structure.atomic_numbers)])
    frac = np.mod(structure.frac_coords - structure.frac_coords[largest], 1.0)
    return np.where(frac > 1.0 - _EDGE, frac - 1.0, frac)


def beside(initial: Structure, relaxed: Structure) -> np.ndarray:
    """[N, 3] fractional coordinates of a relaxed crystal, each atom next to where it started.

    Args:
      initial: the generated crystal.
      relaxed: the same atoms in the same order.
    """
    start = cell_of_largest_atom(initial)
    step = cell_of_largest_atom(relaxed) - start
    return np.asarray(start + step - np.round(step))
