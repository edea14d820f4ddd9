"""Structure -> canonical crystal for training: Niggli cell in a fixed orientation."""

import warnings
from typing import NamedTuple

import numpy as np
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.structures.conversion import wrap_array
from crystal_diffusion_jax.structures.limits import MAX_ATOMS

# Angstrom; closer atoms are one atom listed twice. The shortest bond (H-H) is 0.74 long; two
# listings of one site, rounded differently to two decimals in a cell of 10, differ by up to 0.1.
MIN_DISTANCE = 0.1


class Cell(NamedTuple):
    """One canonical crystal of N atoms.

    Attributes:
      lattice: [3, 3] float64, cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] float64 in [0, 1).
      atomic_numbers: [N] int64.
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray


def canonical_cell(structure: Structure, max_num_atoms: int = 0) -> Cell:
    """Brings a structure into canonical form; handedness is preserved.

    Deuterium and tritium count as hydrogen: the model knows only atomic numbers.

    Args:
      structure: the crystal, ordered.
      max_num_atoms: largest number of atoms in its cell; 0 for MAX_ATOMS.

    Raises:
      ValueError: it has too many atoms, or one of them twice; the message is the reason.
    """
    limit = min(max_num_atoms or MAX_ATOMS, MAX_ATOMS)
    if len(structure) > limit:
        raise ValueError(f"too many atoms: {len(structure)}, the limit is {limit}")
    try:
        with warnings.catch_warnings():
            # He, Ne and Ar have no electronegativity to sort them by.
            warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
            return _reduce(structure.get_sorted_structure())
    except ValueError:
        raise
    except Exception as error:  # pymatgen may raise anything on odd cells
        raise ValueError(f"no reduced cell: {type(error).__name__}: {error}") from error


def _reduce(structure: Structure) -> Cell:
    reduced = structure.get_reduced_structure(reduction_algo="niggli")
    lengths = reduced.lattice.lengths
    distances = reduced.distance_matrix
    shortest = min(*lengths, *distances[np.triu_indices(len(reduced), k=1)])
    if shortest < MIN_DISTANCE:
        raise ValueError(f"duplicate atoms at one site: two atoms only {shortest:.2g} A apart")
    lattice = Lattice.from_parameters(*lengths, *reduced.lattice.angles).matrix
    atomic_numbers = np.array([site.specie.Z for site in reduced], dtype=np.int64)
    return Cell(np.array(lattice), wrap_array(reduced.frac_coords), atomic_numbers)
