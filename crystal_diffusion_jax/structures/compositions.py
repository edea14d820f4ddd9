"""Elements and compositions: what a crystal is made of."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Composition, Element

# ((atomic number, count), ...) with ascending numbers and counts without a common divisor.
ReducedComposition = tuple[tuple[int, int], ...]


def reduced_composition(atomic_numbers: np.ndarray | tuple[int, ...]) -> ReducedComposition:
    """The composition of a crystal.

    Args:
      atomic_numbers: [N] int, one a site.
    """
    counts = Counter(int(number) for number in atomic_numbers)
    divisor = math.gcd(*counts.values())
    return tuple((number, counts[number] // divisor) for number in sorted(counts))


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """The reduced formula in pymatgen's order of elements, e.g. "BaTiO3".

    Args:
      atomic_numbers: [N] int.
    """
    counts = Counter(Element.from_Z(int(number)) for number in atomic_numbers)
    with warnings.catch_warnings():
        # He, Ne and Ar have no electronegativity to be sorted by in a formula.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return str(Composition(counts).reduced_formula)


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Those of each element by pymatgen; 0 for an element without any."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)
