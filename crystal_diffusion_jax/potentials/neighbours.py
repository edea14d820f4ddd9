"""One crystal -> the bonds and angles that CHGNet sees.

A bond joins two atoms at most 6 A apart, and has no direction; a short bond is at most 3 A long. An
angle is an ordered pair of two different short bonds seen from an atom that both end at.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from crystal_diffusion_jax.structures.conversion import cell_defect
from crystal_diffusion_jax.structures.limits import MAX_FRACTIONAL

CUTOFF = 6.0  # Angstrom
SHORT_CUTOFF = 3.0
MAX_ATOMIC_NUMBER = 94

# Beyond the cutoffs in lists that are used for several steps of a relaxation; every contribution is
# zero beyond its cutoff, so longer lists give the same numbers. The one of the short bonds is thin,
# as angles cost the most, and their number grows with the sixth power of the distance.
SKIN = 0.2
SHORT_SKIN = 0.03

# Closer atoms have no direction from one to the other in float32.
_MIN_DISTANCE = 0.01
# Atoms within 6 A; the densest crystals have about 250.
_MAX_NEIGHBOURS = 2_000
# Short bonds of one atom; the densest crystals have about 25.
_MAX_SHORT = 100
# The network takes some 17 kB for each. 1,000 atoms of diamond have 240,000 of them.
_MAX_ANGLES = 2**18


class CannotEvaluate(Exception):
    """Why the potential cannot be applied to a crystal: "reason" or "reason: details"."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Sizes of a crystal or of a padded batch."""

    crystals: int
    atoms: int
    long_bonds: int
    short_bonds: int
    angles: int

    def __add__(self, other: "Capacity") -> "Capacity":
        return Capacity(*np.add(dataclasses.astuple(self), dataclasses.astuple(other)).tolist())

    def fits(self, capacity: "Capacity") -> bool:
        """Whether a batch of this capacity has room for it, with a row of padding everywhere."""
        return bool(np.all(np.less(dataclasses.astuple(self), dataclasses.astuple(capacity))))


@dataclasses.dataclass(frozen=True)
class AtomGraph:
    """One crystal, its bonds and its angles.

    Attributes:
      lattice: cell vectors as rows, in Angstrom.
      frac_coords: not wrapped; the images of the bonds refer to these.
      atomic_numbers: of the atoms.
      bonds: first atom, second atom and the image (three integers) of the second; each bond stands
        here once, the short ones first.
      num_short: number of short bonds.
      angles: two directed short bonds that start at one atom, ascending. Directed bond
        b < num_short leads from the first to the second atom of bond b, num_short + b back.
    """

    lattice: Float[np.ndarray, "3 3"]
    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    bonds: Int[np.ndarray, "bonds 5"]
    num_short: int
    angles: Int[np.ndarray, "angles 2"]

    @functools.cached_property
    def size(self) -> Capacity:
        """The room that it takes in a batch."""
        return Capacity(
            crystals=1,
            atoms=len(self.atomic_numbers),
            long_bonds=len(self.bonds) - self.num_short,
            short_bonds=self.num_short,
            angles=len(self.angles),
        )


def atom_graph(
    lattice: Float[np.ndarray, "3 3"],
    frac_coords: Float[np.ndarray, "atoms 3"],
    atomic_numbers: Int[np.ndarray, " atoms"],
    skin: bool = False,
) -> AtomGraph:
    """Bonds and angles of one crystal.

    Args:
      lattice: cell vectors as rows, in Angstrom.
      frac_coords: any real numbers.
      atomic_numbers: of the atoms.
      skin: use lists that stay complete while atoms move a little.

    Raises:
      CannotEvaluate: not a crystal, an element beyond plutonium, an atom without neighbours, atoms
        in one place, or far too many neighbours.
    """
    # In C order, as the search for neighbours needs it; a strained lattice often is not.
    lattice = np.asarray(lattice, np.float64, order="C")
    frac_coords = np.asarray(frac_coords, np.float64)
    if len(atomic_numbers) == 0:
        raise CannotEvaluate("no atoms")
    if defect := cell_defect(lattice, frac_coords):
        raise CannotEvaluate(defect)
    if np.abs(frac_coords).max() > MAX_FRACTIONAL:
        raise CannotEvaluate(f"coordinate beyond {MAX_FRACTIONAL:g}")
    unknown = [number for number in atomic_numbers if not 1 <= number <= MAX_ATOMIC_NUMBER]
    if unknown:
        raise CannotEvaluate(f"element unknown to the potential: number {unknown[0]}")
    cutoff = CUTOFF + (SKIN if skin else 0.0)
    expected = 4 / 3 * np.pi * cutoff**3 * len(atomic_numbers) / abs(np.linalg.det(lattice))
    if expected > _MAX_NEIGHBOURS:
        raise CannotEvaluate(f"too dense: about {expected:.0f} neighbours within {cutoff:g} A")
    bonds, distances = _bonds(lattice, frac_coords, cutoff)
    if distances.min(initial=np.inf) < _MIN_DISTANCE:
        raise CannotEvaluate(f"atoms in one place: {distances.min():.3f} A apart")
    alone = np.setdiff1d(np.arange(len(atomic_numbers)), bonds[:, :2])
    if len(alone):
        raise CannotEvaluate(f"isolated atom: nothing within {cutoff:g} A of atom {alone[0]}")
    is_short = distances <= SHORT_CUTOFF + (SHORT_SKIN if skin else 0.0)
    bonds = np.concatenate([bonds[is_short], bonds[~is_short]])
    num_short = int(is_short.sum())
    angles = _angles(bonds[:num_short], len(atomic_numbers))
    return AtomGraph(lattice, frac_coords, np.asarray(atomic_numbers), bonds, num_short, angles)


def structure_graph(structure: Structure, skin: bool = False) -> AtomGraph:
    """`atom_graph` of a structure.

    Raises:
      CannotEvaluate: see there; or sites that no single element occupies.
    """
    if not structure.is_ordered:
        raise CannotEvaluate("partial occupancy")
    # `Z` of a species without one, a dummy, is 0 or missing.
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure], dtype=np.int64)
    return atom_graph(structure.lattice.matrix, structure.frac_coords, numbers, skin)


def _bonds(
    lattice: np.ndarray, frac_coords: np.ndarray, cutoff: float
) -> tuple[Int[np.ndarray, "bonds 5"], Float[np.ndarray, " bonds"]]:
    """Each bond once, and its length."""
    # pymatgen's search walks through all cells between two atoms.
    cell = np.floor(frac_coords).astype(np.int64)
    coords = np.ascontiguousarray((frac_coords - cell) @ lattice)
    first, second, image, distances = find_points_in_spheres(
        coords, coords, r=cutoff, pbc=np.ones(3, dtype=np.int64), lattice=lattice, tol=1e-8
    )
    rows = np.column_stack([first, second, np.rint(image)]).astype(np.int64)
    itself = (rows[:, 0] == rows[:, 1]) & ~rows[:, 2:].any(axis=1)
    rows, distances = rows[~itself], distances[~itself]
    backward = rows[:, [1, 0, 2, 3, 4]] * [1, 1, -1, -1, -1]
    # Of a bond and its reverse the one that leads to the larger index, or along the first non-zero
    # image, is kept.
    difference = np.column_stack([rows[:, 1] - rows[:, 0], rows[:, 2:]])
    leading = difference[np.arange(len(rows)), (difference != 0).argmax(axis=1)]
    forward = leading > 0
    # At exactly the cutoff rounding can lose one direction, where the bond contributes nothing.
    keys = np.concatenate([rows[forward], backward[~forward]])
    unique, index, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    both = count == 2
    bonds, lengths = unique[both], distances[forward][index[both]]
    bonds[:, 2:] += cell[bonds[:, 0]] - cell[bonds[:, 1]]
    return bonds, lengths


def _angles(short: Int[np.ndarray, "short 5"], num_atoms: int) -> Int[np.ndarray, "angles 2"]:
    """All ordered pairs of directed short bonds from one atom."""
    start = np.concatenate([short[:, 0], short[:, 1]])
    count = np.bincount(start, minlength=num_atoms)
    if (most := count.max(initial=0)) > _MAX_SHORT:
        raise CannotEvaluate(f"too dense: {most} bonds within {SHORT_CUTOFF:g} A at one atom")
    total = int(np.sum(count * (count - 1)))
    if total > _MAX_ANGLES:
        raise CannotEvaluate(f"too dense: {total} angles between bonds within {SHORT_CUTOFF:g} A")
    by_start = np.argsort(start, kind="stable")
    first = np.cumsum(count) - count
    left = np.repeat(np.arange(len(start)), count[start])
    rank = np.arange(len(left)) - np.repeat(np.cumsum(count[start]) - count[start], count[start])
    right = by_start[first[start[left]] + rank]
    different = left != right
    return np.column_stack([left[different], right[different]])
