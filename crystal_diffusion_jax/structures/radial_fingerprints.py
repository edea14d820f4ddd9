"""Fingerprints by which crystals in any cells are compared quickly: distances between elements.

For each pair of elements, how many atoms of the second one an atom of the first has around it, as a
function of the distance: a partial radial distribution, smeared out. Distances are in units of the
cube root of the volume per atom, so the fingerprint does not change if the crystal is scaled,
moved, rotated or described in another cell.
"""

from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.structures.canonical import Cell
from crystal_diffusion_jax.structures.conversion import restore_structure

# In units of the cube root of the volume per atom, about 2.5 A.
_WIDTH = 0.1
_DISTANCES = np.arange(0.3, 2.2, _WIDTH / 2)
_CUTOFF = 2.2 + 2 * _WIDTH


def radial_fingerprint(cell: Cell, elements: Sequence[int]) -> np.ndarray:
    """[E, E, distances] of the elements in the order given, divided by the number of atoms.

    Args:
      cell: the crystal.
      elements: the E different atomic numbers in it.
    """
    place = {number: index for index, number in enumerate(elements)}
    kinds = np.array([place[int(number)] for number in cell.atomic_numbers])
    unit = np.cbrt(abs(np.linalg.det(cell.lattice)) / len(kinds))
    structure = restore_structure(cell.lattice / unit, cell.frac_coords, cell.atomic_numbers)
    atoms, neighbours, _, lengths = structure.get_neighbor_list(_CUTOFF)
    counts = np.zeros((len(elements), len(elements), len(_DISTANCES)))
    smeared = np.exp(-0.5 * ((_DISTANCES - lengths[:, None]) / _WIDTH) ** 2)
    np.add.at(counts, (kinds[atoms], kinds[neighbours]), smeared)
    return counts / len(kinds)


def fingerprint_difference(one: np.ndarray, other: np.ndarray) -> float:
    """0 for equal fingerprints, 2 for those without anything in common."""
    total = 0.5 * (one.sum() + other.sum())
    return float(np.abs(one - other).sum() / total) if total else 0.0
