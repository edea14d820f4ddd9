"""Elements and compositions."""

import functools
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import ase.data
from pymatgen.core import Composition, Element

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.limits import MAX_NAME

# SYMBOLS[Z] is the element of atomic number Z, from 1 on.
SYMBOLS: Sequence[str] = ase.data.chemical_symbols

# Amounts in formulas are multiples of 1 / this: of thirds, sevenths and two decimal places.
_FINEST_AMOUNT = 4200

_SYMBOL = re.compile("[A-Z][a-z]*")
_NAMES = frozenset({*SYMBOLS[1:], "D", "T"})  # pymatgen takes deuterium and tritium for hydrogen
_ZERO = re.compile(r"(?<![\d.])0*\.?0+(?![\d.])")  # an amount, which pymatgen would leave out
# A zero typed for the letter O, an exponent: pymatgen reads pure titanium in Ti02, O20 in O2e1.
_MISTYPED = re.compile(r"(?<![\d.])0\d|[\d.]e\d")
# A full stop may part a hydrate's water from the rest, or be that of the amount before it.
_HYDRATE = re.compile(r"\.\d*\(?H2O\)?$")
_ONE = re.compile(r"(?<=[a-zA-Z])1$")

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


def cell_formula(atomic_numbers: Iterable[int]) -> str:
    """The formula of a whole cell in pymatgen's order of elements, e.g. "Ti2O4"."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        counts = Counter(Element.from_Z(int(number)) for number in atomic_numbers)
        parts = Composition(counts).formula.split()
    return "".join(_ONE.sub("", part) for part in parts)


def parse_formula(text: str) -> ReducedComposition:
    """The composition of a formula, e.g. "BaTiO3" or "Li0.5CoO2".

    Raises:
      ValueError: it is not a formula of elements.
    """
    counts: Counter[int] = Counter()
    for number, amount in _amounts(text).items():
        counts[number] += round(amount * _FINEST_AMOUNT)
    if not counts or min(counts.values()) < 1:
        raise ValueError(f"'{printable(text)}' is not a formula of elements")
    return _reduced(counts)


@functools.lru_cache(maxsize=2**15)
def formula_counts(text: str) -> tuple[tuple[int, int], ...]:
    """Atoms in a formula unit as it is written: ((8, 4), (22, 2)) for "Ti2O4".

    Returns:
      (atomic number, atoms) of each element, by atomic number.

    Raises:
      ValueError: it is not a formula of elements with whole amounts.
    """
    unknown = [name for name in _SYMBOL.findall(text) if name not in _NAMES]
    if unknown:
        raise ValueError(f"'{printable(unknown[0])}' in '{printable(text)}' is not an element")
    amounts = _amounts(text)
    if any(amount != round(amount) for amount in amounts.values()) or _ZERO.search(text):
        raise ValueError(
            f"'{printable(text)}' has an amount that is not whole: write the atoms of a cell that "
            "holds them, such as Li2Co4O8 for Li0.5CoO2"
        )
    return tuple(sorted((number, round(amount)) for number, amount in amounts.items()))


def _amounts(text: str) -> dict[int, float]:
    """Amount of each element in a formula, by atomic number."""
    if _MISTYPED.search(text):
        raise ValueError(
            f"'{printable(text)}' is not a formula of elements: an amount begins with 0 or has an "
            "exponent, while oxygen is the letter O"
        )
    if _HYDRATE.search(text):
        raise ValueError(
            f"'{printable(text)}' ends in water after a full stop, which could be that of an "
            "amount: write all atoms, such as CuSH10O9 for copper sulphate with five"
        )
    amounts: dict[int, float] = defaultdict(float)
    try:
        if len(text) > MAX_NAME:
            raise ValueError("too long")
        for element, amount in Composition(text).items():
            amounts[Element(str(element)).Z] += amount
    except Exception as error:  # pymatgen's parser fails in several ways
        raise ValueError(f"'{printable(text)}' is not a formula of elements") from error
    if not amounts:
        raise ValueError(f"'{printable(text)}' is not a formula of elements")
    return amounts


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Common oxidation states of each element according to pymatgen; (0,) if it lists none."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)
