"""Distances between the atoms of a crystal and of its images."""

import numpy as np
from ase.data import covalent_radii
from jaxtyping import Float, Int
from pymatgen.core import Lattice, Structure

# Sums of covalent radii. Atoms that are closer to their own images are not searched for other
# neighbours, which takes long in cells so thin.
_THIN = 0.1


def nearest_neighbours(
    lattice: Float[np.ndarray, "3 3"],
    frac_coords: Float[np.ndarray, "atoms 3"],
    atomic_numbers: Int[np.ndarray, " atoms"],
    reach: float,
) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, " atoms"]]:
    """Distance of each atom to its nearest neighbour, which may be an image of itself.

    Args:
      lattice: in Angstrom.
      frac_coords: not wrapped.
      atomic_numbers: of the atoms.
      reach: of the search, in Angstrom.

    Returns:
      In Angstrom, and in units of the sum of both covalent radii (Cordero et al.,
      doi:10.1039/b801115j, as in ASE), which may be that of another neighbour; infinite for an atom
      without one within reach. In a cell so thin that it would take long to search, all are that
      between the largest atom and its own image.
    """
    radii = covalent_radii[atomic_numbers]
    reduced = Lattice(lattice).get_lll_reduced_lattice()
    own_image, widest = min(reduced.abc), 2 * radii.max()
    if own_image < _THIN * widest:
        return np.full(len(radii), own_image), np.full(len(radii), own_image / widest)
    positions = (frac_coords - np.floor(frac_coords)) @ lattice
    crystal = Structure(
        reduced, atomic_numbers.tolist(), positions, coords_are_cartesian=True, to_unit_cell=True
    )
    center, neighbor, _, distance = crystal.get_neighbor_list(reach)
    nearest, in_radii = np.full((2, len(radii)), np.inf)
    np.minimum.at(nearest, center, distance)
    np.minimum.at(in_radii, center, distance / (radii[center] + radii[neighbor]))
    return nearest, in_radii
