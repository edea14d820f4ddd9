"""What an oracle was trained on, and whether a crystal is anything like it.

The networks answer anything: of one carbon atom in a box of 30 Angstrom that it has -6e10 eV. So
a crystal is outside an oracle's domain, and has a reason instead of a prediction, if one of its
elements, its number of atoms, its volume per atom, the distance of an atom to its nearest
neighbour or the prediction itself is beyond the training data by more than a margin, or if a bond
is beyond the networks' cutoff. The margins are chosen so that the crystals of the data sets and
those of the shipped models are inside; docs/scores.md has the shares.

The networks were trained on the official training files. The ranges are those of a part of the
same data, measured by `studies/domains.py`.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pymatgen.core import Element

from crystal_diffusion_jax.oracles.basis import CUTOFF
from crystal_diffusion_jax.oracles.batching import CrystalGraph
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json
from crystal_diffusion_jax.structures.distances import nearest_neighbours

FOLDER = Path(__file__).parent / "domains"

# Factors by which a range is wider on both sides. That of the atoms lets in cells of one, as MP-20
# has elements, which are missing in the part that was measured.
ATOMS_FACTOR = 2.0
VOLUME_FACTOR = 1.5
DISTANCE_FACTOR = 1.5
# Multiples of the oracle's error below the smallest training value. Below, a mistake makes a
# success of a failure.
LOW_ERRORS = 3.0
# Widths of the training range above its largest value. A bad crystal is rightly predicted above the
# range, and leaving it out of a mean would flatter the set; only the absurd is left out.
HIGH_WIDTHS = 1.0

# The beginning of each reason, by which such crystals are counted.
OUTSIDE = "outside the oracle's training"


@dataclasses.dataclass(frozen=True)
class Domain:
    """Ranges of the training data of one oracle, smallest and largest.

    Attributes:
      dataset: name of the data set and the oracle.
      command: that measured them.
      date: day of the measurement.
      num_crystals: of the training split, that they were measured on.
      elements: atomic numbers in the training split, and those whose rows in the network's table of
        elements have left the range in which they were initialised.
      num_atoms: in the cell.
      volume_per_atom: in Angstrom^3.
      nearest: distance of an atom to its nearest neighbour, in units of the sum of both covalent
        radii.
      values: of the property, in its own unit.
      error: mean absolute error of the oracle on the test split.
      outside: split -> crystals outside, and all of its crystals.
    """

    dataset: str
    command: str
    date: str
    num_crystals: int
    elements: list[int]
    num_atoms: tuple[int, int]
    volume_per_atom: tuple[float, float]
    nearest: tuple[float, float]
    values: tuple[float, float]
    error: float
    outside: dict[str, tuple[int, int]]

    @property
    def believed_values(self) -> tuple[float, float]:
        """The smallest and largest prediction that is believed."""
        low, high = self.values
        return low - LOW_ERRORS * self.error, high + HIGH_WIDTHS * (high - low)

    def cell_defect(
        self,
        lattice: Float[np.ndarray, "3 3"],
        frac_coords: Float[np.ndarray, "atoms 3"],
        atomic_numbers: Int[np.ndarray, " atoms"],
    ) -> str | None:
        """Why a crystal is outside; None if it is not.

        Args:
          lattice: in Angstrom.
          frac_coords: not wrapped.
          atomic_numbers: from 1 to 94.
        """
        known = set(self.elements)
        for number in atomic_numbers.tolist():
            if number not in known:
                return f"{OUTSIDE} (element): {Element.from_Z(number).symbol}"
        num_atoms = len(atomic_numbers)
        if not _within(num_atoms, self.num_atoms, ATOMS_FACTOR):
            return _beyond("number of atoms", f"{num_atoms} in the cell", self.num_atoms)
        volume = float(abs(np.linalg.det(lattice))) / num_atoms
        if not _within(volume, self.volume_per_atom, VOLUME_FACTOR):
            return _beyond("volume per atom", f"{volume:.4g} A^3", self.volume_per_atom)
        _, nearest = nearest_neighbours(lattice, frac_coords, atomic_numbers, CUTOFF)
        shortest, longest = float(nearest.min()), float(nearest.max())
        if longest == np.inf:
            return f"{OUTSIDE} (atom without neighbours): none within {CUTOFF:g} A"
        for distance in (shortest, longest):
            if not _within(distance, self.nearest, DISTANCE_FACTOR):
                what = f"{distance:.4g} times the covalent radii"
                return _beyond("distance of nearest neighbours", what, self.nearest)
        return None

    def value_defect(self, value: float) -> str | None:
        """Why a prediction is not believed; None if it is."""
        low, high = self.believed_values
        if low <= value <= high:
            return None
        return _beyond("predicted value", f"{value:.6g}", self.values)


def bond_defect(graph: CrystalGraph) -> str | None:
    """Why a crystal's bonds are nothing for any of the networks; None if they are.

    Beyond the cutoff the envelope of the basis functions grows with the seventh power of the
    distance.
    """
    source, target, image = graph.bonds[:, 0], graph.bonds[:, 1], graph.bonds[:, 2:]
    vectors = graph.frac_coords[source] + image - graph.frac_coords[target]
    longest = float(np.linalg.norm(vectors @ graph.lattice, axis=1).max())
    if longest <= CUTOFF:
        return None
    return f"{OUTSIDE} (bond beyond the cutoff): {longest:.4g} A, cutoff {CUTOFF:g} A"


@functools.cache
def load(oracle: str) -> Domain:
    """The domain of "perov5", "carbon24" or "mp20"."""
    return read_json(FOLDER / f"{oracle}.json", MAX_RECORD_BYTES, Domain)


def _within(value: float, limits: tuple[float, float], factor: float) -> bool:
    low, high = limits
    return low / factor <= value <= high * factor


def _beyond(what: str, value: str, limits: tuple[float, float]) -> str:
    low, high = limits
    return f"{OUTSIDE} ({what}): {value}, trained on {low:.4g} to {high:.4g}"
