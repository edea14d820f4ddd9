"""pymatgen structure -> directed bonds by CrystalNN, as in the training of the networks.

CDVAE's graphs come from CrystalNN without distance and electronegativity factors. Bonds of an atom
with its own image follow pymatgen 2020.12.31: (i, i, n) and (i, i, -n) count as two bonds, so that
each directed one occurs twice. Later versions of pymatgen fold them into one, which shifts the
predictions.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, Int32
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax.oracles.crystal_nn import BoundedStructure, SearchTooLarge, neighbors
from crystal_diffusion_jax.structures.conversion import array_defect

# Part of the cache's key: increase it with every change of the bonds or reasons made here.
GRAPH_VERSION = 1

MAX_ATOMIC_NUMBER = 94  # rows of the networks' table of elements
MAX_CELLS_AWAY = 1e6  # there, float64 still resolves nine digits within the cell


class NoGraph(Exception):
    """Why a structure has no bond graph: "reason" in a few words, or "reason: details"."""


def arrays(
    structure: Structure,
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "atoms 3"], Int[np.ndarray, " atoms"]]:
    """Lattice in Angstrom, fractional coordinates and atomic numbers.

    Raises:
      NoGraph: the networks cannot be applied to this structure.
    """
    if len(structure) == 0:
        raise NoGraph("no atoms")
    if not structure.is_ordered:
        raise NoGraph("partial occupancy")
    lattice, frac_coords = structure.lattice.matrix, structure.frac_coords
    if defect := array_defect(lattice, frac_coords):
        raise NoGraph(defect)
    if np.abs(frac_coords).max() > MAX_CELLS_AWAY:
        raise NoGraph(f"an atom over {MAX_CELLS_AWAY:.0f} cells away from the origin")
    # `Z` of a species without one, a dummy, is 0 or missing.
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure], dtype=np.int64)
    for site, number in zip(structure, numbers, strict=True):
        if not 1 <= number <= MAX_ATOMIC_NUMBER:
            raise NoGraph(f"element unknown to the networks: {site.specie}")
    return lattice, frac_coords, numbers


def bonds(
    lattice: Float[np.ndarray, "3 3"],
    frac_coords: Float[np.ndarray, "atoms 3"],
    atomic_numbers: Int[np.ndarray, " atoms"],
) -> Int32[np.ndarray, "bonds 5"]:
    """Directed bonds of one crystal.

    Args:
      lattice: in Angstrom.
      frac_coords: up to `MAX_CELLS_AWAY`, not wrapped; the images refer to these.
      atomic_numbers: of the atoms.

    Returns:
      Source, target, and the image of the source; at least one row.

    Raises:
      NoGraph: CrystalNN fails or finds no bonds.
      MemoryError: out of memory, which is not a property of the crystal.
    """
    # pymatgen's search walks through all cells between two atoms.
    cell = np.floor(frac_coords).astype(np.int64)
    species = [Element.from_Z(number) for number in atomic_numbers]
    structure = BoundedStructure(Lattice(lattice), species, frac_coords - cell)
    try:
        around = neighbors(structure)
    except SearchTooLarge as error:
        raise NoGraph(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # qhull and pymatgen fail in many ways on impossible crystals
        raise NoGraph(f"CrystalNN failed: {in_one_line(error)}") from error
    listed = []
    for i, (index, image) in enumerate(around):
        moved = image + cell[i] - cell[index]
        listed += [(i, j, *n) for j, n in zip(index.tolist(), moved.tolist(), strict=True)]
    directed = directed_bonds(listed)
    if len(directed) == 0:
        raise NoGraph("CrystalNN finds no bonds")
    return directed


def directed_bonds(
    neighbors: Iterable[tuple[int, int, int, int, int]],
) -> Int32[np.ndarray, "bonds 5"]:
    """The union of all neighbour lists, each bond in both directions.

    Args:
      neighbors: (i, j, n1, n2, n3): atom j, shifted by n, is a neighbour of atom i.

    Returns:
      As `bonds`, sorted.
    """
    unique = set()
    for i, j, *image in neighbors:
        # The smaller index comes first. An atom and its own image have no order, so both directions
        # of such a bond stay, and are doubled below.
        unique.add((j, i, *(-n for n in image)) if j < i else (i, j, *image))
    rows = [row for i, j, *n in unique for row in ((j, i, *n), (i, j, *(-x for x in n)))]
    return np.array(sorted(rows), dtype=np.int32).reshape(-1, 5)


def in_one_line(error: Exception) -> str:
    """Type of an error and the beginning of its message."""
    detail = (str(error).splitlines() or [""])[0][:120]
    return f"{type(error).__name__} {detail}".rstrip()
