"""Which cells can be neutral, by common oxidation states of their elements.

Each atom has one of the states of its element, which atoms of one element need not share, as in
`sampling.charges`. An element alone is neutral. The sums that the states of some atoms can have are
the bits of a whole number, so that one more atom is a few shifts of it.
"""

import functools
import math
import operator
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.compositions import SYMBOLS, common_oxidation_states

# Beyond it enumeration takes more than seconds; four elements in 20 atoms have 4,845.
MAX_COMPOSITIONS = 200_000


def _one_more(sums: int, states: Collection[int], reach: int) -> int:
    """The sums with one more atom; sum s of n atoms is bit s + n * reach."""
    return functools.reduce(operator.or_, (sums << (state + reach) for state in states))


def _reach(states: Sequence[Collection[int]]) -> int:
    return max(abs(state) for of_one in states for state in of_one)


def can_be_neutral(atomic_numbers: np.ndarray) -> bool:
    """Whether a cell of these atoms can be neutral."""
    elements, counts = np.unique(atomic_numbers, return_counts=True)
    if len(elements) == 1:
        return True
    states = common_oxidation_states(elements.tolist())
    reach, sums = _reach(states), 1
    for of_one, count in zip(states, counts.tolist(), strict=True):
        for _ in range(count):
            sums = _one_more(sums, of_one, reach)
    return bool(sums >> (len(atomic_numbers) * reach) & 1)


def sizes_that_balance(
    states: Sequence[Collection[int]], sizes: Collection[int], each: bool = False
) -> list[int]:
    """The numbers of atoms, of those given, with which a cell of these elements can be neutral.

    Args:
      states: oxidation states of each element.
      sizes: numbers of atoms, ascending.
      each: with each of the elements at least once.
    """
    if len(states) == 1:
        return list(sizes)
    reach = _reach(states)
    every = sorted({state for of_one in states for state in of_one})
    sums, num_atoms, found = 1, 0, []
    if each:
        for of_one in states:
            sums, num_atoms = _one_more(sums, of_one, reach), num_atoms + 1
    wanted = set(sizes)
    while num_atoms <= max(wanted):
        if num_atoms in wanted and sums >> (num_atoms * reach) & 1:
            found.append(num_atoms)
        sums, num_atoms = _one_more(sums, every, reach), num_atoms + 1
    return found


def neutral_sizes(request: Request, statistics: DatasetStatistics) -> list[int]:
    """The numbers of atoms between the model's limits with which a requested cell can be neutral.

    Those of the allowed elements, or of the chemical system; of numbers within the limits that no
    training crystal has only the requested one.
    """
    symbols = request.allowed_elements
    allowed = [z for z in statistics.vocabulary if symbols is None or SYMBOLS[z] in symbols]
    sizes = {size for size, _ in statistics.num_atoms_histogram}
    if request.num_atoms is not None:
        sizes.add(request.num_atoms)
    states = common_oxidation_states(allowed)
    return sizes_that_balance(states, sorted(sizes), request.chemical_system is not None)


def check_neutral(request: Request, possible: Sequence[int]) -> None:
    """Checks that cells of the requested size can be neutral.

    Args:
      request: with balanced charges and `num_atoms`.
      possible: the sizes that can, at least one.

    Raises:
      UserError: they cannot.
    """
    if request.num_atoms not in possible:
        which = "the elements that may appear"
        if request.allowed_elements:
            which = ", ".join(request.allowed_elements)
        some = ", ".join(map(str, possible))
        raise UserError(
            f"--num_atoms={request.num_atoms}: no cell of that size with {which} has balanced "
            f"charges; with --charge_balance give one of {some}"
        )


def number_of_compositions(num_elements: int, sizes: Collection[int]) -> int:
    """How many compositions `system_compositions` has."""
    # 0 where there are fewer atoms than elements.
    return sum(math.comb(size - 1, num_elements - 1) for size in sizes)


@functools.lru_cache(maxsize=4)
def system_compositions(
    states: tuple[tuple[int, ...], ...], sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """All compositions of some elements, with each of them at least once.

    Args:
      states: oxidation states of each of k elements.
      sizes: numbers of atoms, ascending.

    Returns:
      [C, k] atoms of each element, and [C] whether the cell can be neutral.
    """
    reach, wanted, largest, k = _reach(states), set(sizes), sizes[-1], len(states)

    def extend(counts: tuple[int, ...], sums: int) -> Iterator[tuple[tuple[int, ...], bool]]:
        used, last = sum(counts), len(counts) == k - 1
        for count in range(1, largest - used - (k - len(counts) - 1) + 1):
            sums = _one_more(sums, states[len(counts)], reach)
            total = used + count
            if not last:
                yield from extend((*counts, count), sums)
            elif total in wanted:
                yield (*counts, count), bool(sums >> (total * reach) & 1)

    found = list(extend((), 1))
    counts = np.array([counts for counts, _ in found], np.int64).reshape(-1, k)
    neutral = np.array([can for _, can in found], bool)
    return counts, neutral | (k == 1)
