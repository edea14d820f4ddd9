"""Elements and compositions."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Composition, Element

# ((atomic number, count), ...) with ascending numbers and counts without a common divisor.
ReducedComposition = tuple[tuple[int, int], ...]


def reduced_composition(atomic_numbers: np.ndarray | tuple[int, ...]) -> ReducedComposition:
    """The composition of a crystal of N atoms ([N] int)."""
    counts = Counter(int(number) for number in atomic_numbers)
    divisor = math.gcd(*counts.values())
    return tuple((number, counts[number] // divisor) for number in sorted(counts))


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """The reduced formula of N atoms ([N] int) in pymatgen's order of elements, e.g. "BaTiO3"."""
    counts = Counter(Element.from_Z(int(number)) for number in atomic_numbers)
    with warnings.catch_warnings():
        # He, Ne and Ar have no electronegativity to be sorted by in a formula.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return str(Composition(counts).reduced_formula)


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Common oxidation states of each element according to pymatgen; (0,) if it lists none."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)
