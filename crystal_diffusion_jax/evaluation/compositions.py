"""Reduced compositions: what a crystal is made of, whatever the size of its cell."""

import math
from collections import Counter

import numpy as np

# ((atomic number, count), ...) with ascending numbers and counts without a common divisor.
Composition = tuple[tuple[int, int], ...]


def reduced_composition(atomic_numbers: np.ndarray | tuple[int, ...]) -> Composition:
    """The composition of a crystal.

    Args:
      atomic_numbers: [N] int, one a site.
    """
    counts = Counter(int(number) for number in atomic_numbers)
    divisor = math.gcd(*counts.values())
    return tuple((number, counts[number] // divisor) for number in sorted(counts))
