"""Elements and compositions."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import ase.data
from pymatgen.core import Composition, Element

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.limits import MAX_NAME

# SYMBOLS[Z] is the element of atomic number Z, from 1 on.
SYMBOLS: Sequence[str] = ase.data.chemical_symbols

# Amounts in formulas are multiples of 1 / this: of thirds, sevenths and two decimal places.
_FINEST_AMOUNT = 4200

# ((atomic number, count), ...) with ascending numbers and counts without a common divisor.
ReducedComposition = tuple[tuple[int, int], ...]


def reduced_composition(atomic_numbers: Iterable[int]) -> ReducedComposition:
    """The composition of a crystal."""
    return _reduced(Counter(int(number) for number in atomic_numbers))


def _reduced(counts: Mapping[int, int]) -> ReducedComposition:
    divisor = math.gcd(*counts.values())
    return tuple((number, counts[number] // divisor) for number in sorted(counts))


def reduced_formula(atomic_numbers: Iterable[int]) -> str:
    """The reduced formula of a crystal in pymatgen's order of elements, e.g. "BaTiO3"."""
    counts = Counter(Element.from_Z(int(number)) for number in atomic_numbers)
    with warnings.catch_warnings():
        # He, Ne and Ar have no electronegativity to sort them by.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return str(Composition(counts).reduced_formula)


def parse_formula(text: str) -> ReducedComposition:
    """The composition of a formula, e.g. "BaTiO3" or "Li0.5CoO2".

    Raises:
      ValueError: it is not a formula of elements.
    """
    counts: Counter[int] = Counter()
    try:
        if len(text) > MAX_NAME:
            raise ValueError("too long")
        for element, amount in Composition(text).items():
            counts[Element(str(element)).Z] += round(amount * _FINEST_AMOUNT)
    except Exception as error:  # pymatgen's parser fails in several ways
        raise ValueError(f"'{printable(text)}' is not a formula of elements") from error
    if not counts or min(counts.values()) < 1:
        raise ValueError(f"'{printable(text)}' is not a formula of elements")
    return _reduced(counts)


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Common oxidation states of each element according to pymatgen; (0,) if it lists none."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)
