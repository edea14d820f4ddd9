"""pymatgen structure -> directed bonds of CrystalNN, as the published networks were trained.

CDVAE's graphs come from CrystalNN without distance and electronegativity factors. Bonds of an atom
with its own image follow pymatgen 2020.12.31: (i, i, n) and (i, i, -n) count as two bonds, so that
each directed one occurs twice. Later versions of pymatgen fold them into one, which shifts the
predictions.
"""

import math
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure
from pymatgen.core.local_env import CrystalNN

# To be raised whenever this file would make other bonds of the same structure.
GRAPH_VERSION = 1

MAX_ATOMIC_NUMBER = 94  # rows of the networks' table of elements
MIN_VOLUME = 0.1  # Angstrom^3; CDVAE discards cells below it

# Atoms around a site that CrystalNN may have to look through. Diamond has 250 within its 7
# Angstrom; only cells of a few Angstrom^3, and thin ones whose search radius has to be doubled
# several times, have more than this. Measured without the limit for five atoms: 4 s of processor
# time in 1 Angstrom^3, 32 s in 0.1 Angstrom^3, minutes in 3 x 3 x 1000 Angstrom.
MAX_NEIGHBORS = 4_000
# Translations times atoms that pymatgen lays out to find them.
_MAX_CANDIDATES = 200_000

TIME_LIMIT = 60.0  # seconds of processor time for one structure


class NoGraph(Exception):
    """The reason, in a few words, why a structure has no bond graph."""


class _Interrupt(BaseException):
    """Leaves pymatgen from anywhere: a BaseException, as some of it catches every Exception."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _BoundedStructure(Structure):
    """A structure that refuses to list atoms in a sphere when there are far too many."""

    def get_sites_in_sphere(self, pt: Any, r: float, *args: Any, **kwargs: Any) -> Any:
        spacings = self.lattice.reciprocal_lattice_crystallographic.lengths
        translations = math.prod(2 * math.ceil(r * inverse) + 1 for inverse in spacings)
        if translations * len(self) <= _MAX_CANDIDATES:
            sites = super().get_sites_in_sphere(pt, r, *args, **kwargs)
            if len(sites) <= MAX_NEIGHBORS:
                return sites
        raise _Interrupt(f"too dense or too thin a cell: over {MAX_NEIGHBORS} atoms in {r:.0f} A")


def arrays(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice [3, 3] in Angstrom, fractional coordinates [N, 3] and atomic numbers [N].

    Raises:
      NoGraph: the networks cannot judge this structure.
    """
    if len(structure) == 0:
        raise NoGraph("no atoms")
    if not structure.is_ordered:
        raise NoGraph("partial occupancy")
    lattice, frac_coords = structure.lattice.matrix, structure.frac_coords
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise NoGraph("non-finite numbers")
    # `Z` of a species without one, a dummy, is 0 or missing.
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure], dtype=np.int64)
    for site, number in zip(structure, numbers, strict=True):
        if not 1 <= number <= MAX_ATOMIC_NUMBER:
            raise NoGraph(f"element {site.specie}: only 1 to {MAX_ATOMIC_NUMBER} are known")
    if not structure.lattice.volume >= MIN_VOLUME:
        raise NoGraph(f"volume below {MIN_VOLUME} A^3")
    return lattice, frac_coords, numbers


def bonds(
    lattice: np.ndarray,
    frac_coords: np.ndarray,
    atomic_numbers: np.ndarray,
    time_limit: float = TIME_LIMIT,
) -> np.ndarray:
    """Directed bonds of one crystal.

    Args:
      lattice: [3, 3] in Angstrom.
      frac_coords: [N, 3]; not wrapped here, so that the images refer to them as they are.
      atomic_numbers: [N].
      time_limit: seconds of processor time; kept in the main thread of a process.

    Returns:
      [E, 5] int32: source, target, and the image of the source; at least one row.

    Raises:
      NoGraph: CrystalNN fails, takes too long, or finds no bonds.
    """
    species = [Element.from_Z(number) for number in atomic_numbers]
    structure = _BoundedStructure(Lattice(lattice), species, frac_coords)
    finder = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    try:
        with warnings.catch_warnings(), _processor_time_limit(time_limit):
            # pymatgen warns of each element without an electronegativity, which is not used.
            warnings.simplefilter("ignore")
            neighbors = finder.get_all_nn_info(structure)
    except _Interrupt as interrupt:
        raise NoGraph(interrupt.reason) from None
    except Exception as error:  # qhull and pymatgen fail in many ways on impossible crystals
        detail = (str(error).splitlines() or [""])[0][:120]
        raise NoGraph(f"CrystalNN failed: {type(error).__name__} {detail}".rstrip()) from error
    directed = directed_bonds(
        (site, neighbor["site_index"], *(int(n) for n in neighbor["image"]))
        for site, found in enumerate(neighbors)
        for neighbor in found
    )
    if len(directed) == 0:
        raise NoGraph("CrystalNN finds no bonds")
    return directed


def directed_bonds(neighbors: Iterator[tuple[int, int, int, int, int]]) -> np.ndarray:
    """The union of all neighbour lists, each bond in both directions.

    Args:
      neighbors: (i, j, n1, n2, n3): atom j, shifted by n, is a neighbour of atom i.

    Returns:
      [E, 5] int32 as `bonds`, sorted.
    """
    unique = set()
    for i, j, *image in neighbors:
        # Between two atoms, the smaller index first. An atom and its own image have no order, so
        # both directions of such a bond stay, and are doubled below.
        unique.add((j, i, *(-n for n in image)) if j < i else (i, j, *image))
    rows = [row for i, j, *n in unique for row in ((j, i, *n), (i, j, *(-x for x in n)))]
    return np.array(sorted(rows), dtype=np.int32).reshape(-1, 5)


@contextmanager
def _processor_time_limit(seconds: float) -> Iterator[None]:
    """Raises `_Interrupt` in the main thread when the process has computed for so long."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _Interrupt(f"no result after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    # Once more each second, should the first one be lost in a finaliser.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
