"""Templates: training crystals of the same anonymous formula with their elements exchanged.

A crystal of A2BC4 is guessed from the training crystals with as many atoms of each of three
elements in the cell. Every way to exchange the elements that keeps the numbers of atoms is a
candidate, and its cost is the mean distance between old and new elements. The distance is Euclidean
in properties that are scaled to unit variance: Pauling's electronegativity, the atomic and the mean
ionic radius, the Mendeleev number (Pettifor's order of the elements), group and period.

The cheapest candidates vote. Those that are one structure (`radial_fingerprints`) stand behind the
cheapest of them, with a weight that decreases with their cost, and structures are ranked by weight.
So one near relative does not outvote many that are nearly as near: where both cations of a
perovskite may be in its centre, the nearest neighbour is hardly better than a coin. The distance
was chosen among seven with three ways to average (MP-20, 0.67 to 0.73), the two constants are the
best of nine, on the validation splits of Perov-5 and MP-20 (150 crystals each):

                       Perov-5, best of 1, 3, 6   MP-20
  nearest               0.40  0.93  1.00           0.73  0.85  0.88
  votes                 0.54  1.00  1.00           0.73  0.86  0.89

It is the baseline that a model for crystal structure prediction has to beat, and a start for one.
"""

import dataclasses
import functools
import itertools
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Element

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.structures.canonical import Cell
from crystal_diffusion_jax.structures.radial_fingerprints import (
    fingerprint_difference,
    radial_fingerprint,
)

# Candidates that vote, the cheapest first.
_VOTERS = 80
# A vote counts exp(-(cost - lowest cost) / this).
_DECAY = 0.3
# Difference of fingerprints below which candidates are one structure.
_SAME = 0.2


@dataclasses.dataclass(frozen=True)
class Template:
    """A training crystal with exchanged elements.

    Attributes:
      cell: lattice, coordinates and the new elements.
      row: of the training crystal.
      cost: mean distance between old and new elements; 0 if none is new.
    """

    cell: Cell
    row: int
    cost: float


class Templates:
    """The training crystals by anonymous formula."""

    def __init__(self, train: CrystalDataset) -> None:
        """Sorts the crystals of a training split."""
        self._train = train
        self._offsets = train.offsets
        self._fingerprints: dict[int, np.ndarray] = {}
        rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        elements: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
        # By name, so that the order of the rows decides nothing.
        for row in np.argsort(train.material_ids, kind="stable").tolist():
            counts, own = _anonymous(self._numbers(row))
            rows[counts].append(row)
            elements[counts].append(own)
        self._groups = {
            counts: (np.array(rows[counts]), np.array(elements[counts])) for counts in rows
        }

    def __contains__(self, atomic_numbers: Sequence[int] | np.ndarray) -> bool:
        """Whether there is a template for a cell with these [N] atomic numbers."""
        return anonymous_formula(atomic_numbers) in self._groups

    def find(self, atomic_numbers: Sequence[int] | np.ndarray, k: int) -> list[Template]:
        """The k best templates for a cell, the best first; fewer if there are no more.

        Args:
          atomic_numbers: [N] of the cell, in any order.
          k: at least 1.
        """
        if atomic_numbers not in self:
            return []
        counts, elements = _anonymous(atomic_numbers)
        rows, own = self._groups[counts]
        exchanges = np.array(_orders(counts, elements))  # [E, elements]
        distances = element_distances()
        # [rows, E]; the mean over elements, however many atoms each has.
        costs = distances[own[:, None, :], exchanges[None, :, :]].mean(axis=-1)
        best = np.argsort(costs, axis=None, kind="stable")[: max(k, _VOTERS)]
        candidates = [
            self._exchanged(int(rows[place]), own[place], exchanges[way], float(costs[place, way]))
            for place, way in zip(*np.unravel_index(best, costs.shape), strict=True)
        ]
        return [candidates[index] for index in self._vote(candidates)[:k]]

    def _vote(self, candidates: Sequence[Template]) -> list[int]:
        """The candidates' order: the cheapest of each structure by weight, then the others."""
        found = [self._fingerprint(each) for each in candidates[:_VOTERS]]
        weights: dict[int, float] = {}  # of structures, by their cheapest candidate
        for index, (candidate, own) in enumerate(zip(candidates, found, strict=False)):
            differences = {first: fingerprint_difference(own, found[first]) for first in weights}
            nearest = min(differences, key=lambda first: differences[first], default=index)
            if differences.get(nearest, 0.0) >= _SAME:
                nearest = index
            vote = math.exp((candidates[0].cost - candidate.cost) / _DECAY)
            weights[nearest] = weights.get(nearest, 0.0) + vote
        ranked = sorted(weights, key=lambda first: -weights[first])  # stable
        return ranked + [index for index in range(len(candidates)) if index not in weights]

    def _fingerprint(self, template: Template) -> np.ndarray:
        """Of the exchanged crystal, its elements by atomic number."""
        old = _anonymous(self._numbers(template.row))[1]
        if template.row not in self._fingerprints:
            cell = Cell(*template.cell[:2], self._numbers(template.row))
            self._fingerprints[template.row] = radial_fingerprint(cell, old)
        new = dict(
            zip(self._numbers(template.row).tolist(), template.cell.atomic_numbers, strict=True)
        )
        order = np.argsort([new[number] for number in old])
        fingerprint: np.ndarray = self._fingerprints[template.row][np.ix_(order, order)]
        return fingerprint

    def _numbers(self, row: int) -> np.ndarray:
        return self._train.atomic_numbers[self._offsets[row] : self._offsets[row + 1]]

    def _exchanged(self, row: int, old: np.ndarray, new: np.ndarray, cost: float) -> Template:
        replacement = dict(zip(old.tolist(), new.tolist(), strict=True))
        numbers = np.array([replacement[int(number)] for number in self._numbers(row)], np.int64)
        atoms = slice(self._offsets[row], self._offsets[row + 1])
        cell = Cell(
            np.array(self._train.lattice[row]), np.array(self._train.frac_coords[atoms]), numbers
        )
        return Template(cell, row, cost)


def anonymous_formula(atomic_numbers: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """Numbers of atoms of each element, ascending: (1, 1, 3) for BaTiO3."""
    return _anonymous(atomic_numbers)[0]


def _anonymous(
    atomic_numbers: Sequence[int] | np.ndarray,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of atoms, ascending, and the element that each belongs to."""
    counted = Counter(int(number) for number in atomic_numbers)
    pairs = sorted((count, number) for number, count in counted.items())
    return tuple(count for count, _ in pairs), tuple(number for _, number in pairs)


def _orders(counts: Sequence[int], elements: Sequence[int]) -> list[tuple[int, ...]]:
    """All orders of the elements in which those of equal counts change places."""
    blocks = itertools.groupby(zip(counts, elements, strict=True), key=lambda pair: pair[0])
    orders = [itertools.permutations([element for _, element in block]) for _, block in blocks]
    return [tuple(itertools.chain.from_iterable(parts)) for parts in itertools.product(*orders)]


@functools.cache
def element_distances() -> np.ndarray:
    """[119, 119] distances between elements, by atomic numbers; see the module."""
    with warnings.catch_warnings():
        # He, Ne and Ar have no electronegativity.
        warnings.simplefilter("ignore", UserWarning)
        table = np.array([_properties(Element.from_Z(number)) for number in range(1, 119)])
    # An unknown value is an average one.
    table = np.where(np.isnan(table), np.nanmean(table, axis=0), table)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    distances = np.full((119, 119), np.inf)
    distances[1:, 1:] = np.linalg.norm(table[:, None] - table[None], axis=-1)
    return distances


def _properties(element: Element) -> list[float]:
    known = (
        element.X,
        element.atomic_radius,
        element.average_ionic_radius or None,  # 0 stands for unknown
        element.mendeleev_no,
        element.group,
        element.row,
    )
    return [np.nan if value is None else float(value) for value in known]
