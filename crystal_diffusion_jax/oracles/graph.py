"""pymatgen structure -> directed bonds by CrystalNN, as in the training of the networks.

CDVAE's graphs come from CrystalNN without distance and electronegativity factors. Bonds of an atom
with its own image follow pymatgen 2020.12.31: (i, i, n) and (i, i, -n) count as two bonds, so that
each directed one occurs twice. Later versions of pymatgen fold them into one, which shifts the
predictions.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32
from pymatgen.core import Element, Lattice, Structure
from pymatgen.core.local_env import CrystalNN

from crystal_diffusion_jax.structures.conversion import array_defect

# Part of the cache's key: increase it with every change of the bonds or reasons made here.
GRAPH_VERSION = 1

MAX_ATOMIC_NUMBER = 94  # rows of the networks' table of elements
MAX_CELLS_AWAY = 1e6  # there, float64 still resolves nine digits within the cell

# Atoms around a site that CrystalNN may have to search. Diamond has 250 within its 7 Angstrom;
# only cells of a few Angstrom^3, and thin ones whose search radius is doubled several times, have
# more than this. Measured without the limit for five atoms: 4 s in 1 Angstrom^3, 32 s in 0.1
# Angstrom^3, minutes in 3 x 3 x 1000 Angstrom.
MAX_NEIGHBORS = 4_000
# Translations times atoms that pymatgen lays out to find them.
_MAX_CANDIDATES = 200_000


class NoGraph(Exception):
    """Why a structure has no bond graph: "reason" in a few words, or "reason: details"."""


class _TooManyAtoms(BaseException):
    """A BaseException, as CrystalNN catches some exceptions and goes on."""


class _BoundedStructure(Structure):
    """A structure that refuses to list far too many atoms in a sphere."""

    def get_sites_in_sphere(self, pt: Any, r: Any, *args: Any, **kwargs: Any) -> Any:
        spacings = self.lattice.reciprocal_lattice_crystallographic.lengths
        translations = math.prod(2 * math.ceil(r * inverse) + 1 for inverse in spacings)
        if translations * len(self) > _MAX_CANDIDATES:
            raise _TooManyAtoms(
                f"too dense or too thin a cell: over {_MAX_CANDIDATES} atoms to search for "
                f"those within {r:.0f} A"
            )
        sites = super().get_sites_in_sphere(pt, r, *args, **kwargs)
        if len(sites) > MAX_NEIGHBORS:
            raise _TooManyAtoms(
                f"too dense or too thin a cell: over {MAX_NEIGHBORS} atoms within {r:.0f} A"
            )
        return sites


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
    structure = _BoundedStructure(Lattice(lattice), species, frac_coords - cell)
    finder = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    try:
        with warnings.catch_warnings():
            # pymatgen warns of each element without an electronegativity, which is not used.
            warnings.simplefilter("ignore")
            neighbors = finder.get_all_nn_info(structure)
    except _TooManyAtoms as error:
        raise NoGraph(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # qhull and pymatgen fail in many ways on impossible crystals
        raise NoGraph(f"CrystalNN failed: {in_one_line(error)}") from error
    listed = []
    for i, found in enumerate(neighbors):
        for neighbor in found:
            j = int(neighbor["site_index"])
            image = np.asarray(neighbor["image"], dtype=np.int64) + cell[i] - cell[j]
            listed.append((i, j, *image.tolist()))
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
