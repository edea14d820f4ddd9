"""Elements and compositions."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import ase.data
from pymatgen.core import Composition, Element

# SYMBOLS[Z] is the element of atomic number Z, from 1 on.
SYMBOLS: Sequence[str] = ase.data.chemical_symbols

# ((atomic number, count), ...) with ascending numbers and counts without a common divisor.
ReducedComposition = tuple[tuple[int, int], ...]


def reduced_composition(atomic_numbers: Iterable[int]) -> ReducedComposition:
    """The composition of a crystal."""
    counts = Counter(int(number) for number in atomic_numbers)
    divisor = math.gcd(*counts.values())
    return tuple((number, counts[number] // divisor) for number in sorted(counts))


def reduced_formula(atomic_numbers: Iterable[int]) -> str:
    """The reduced formula of a crystal in pymatgen's order of elements, e.g. "BaTiO3"."""
    counts = Counter(Element.from_Z(int(number)) for number in atomic_numbers)
    with warnings.catch_warnings():
        # He, Ne and Ar have no electronegativity to sort them by.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return str(Composition(counts).reduced_formula)


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Common oxidation states of each element according to pymatgen; (0,) if it lists none."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)
