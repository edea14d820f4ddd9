"""Elements and compositions."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Composition, Element

from crystal_diffusion_jax.errors import UserError

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


def parse_elements(
    symbols: str | None, vocabulary: Sequence[int], flag: str = "elements"
) -> list[tuple[str, int]] | None:
    """Parses a list of elements: "Ba,Ti,O" -> [("Ba", 56), ("Ti", 22), ("O", 8)].

    Args:
      symbols: separated by commas, or as in "Ba-Ti-O" if `flag` is "chemical_system"; None gives
        None.
      vocabulary: atomic numbers that the model knows.
      flag: the flag they come from, for messages.

    Raises:
      UserError: a symbol that is not an element, or an element outside the vocabulary.
    """
    if symbols is None:
        return None
    found = []
    separators = "[,-]" if flag == "chemical_system" else ","
    for symbol in (part.strip() for part in re.split(separators, symbols)):
        if not Element.is_valid_symbol(symbol):
            raise UserError(
                f"--{flag}={symbols}: {symbol!r} is no element symbol; they are written as in "
                f"--elements=Ba,Ti,O or --chemical_system=Ba-Ti-O"
            )
        element = Element(symbol)
        if element.Z not in vocabulary:
            known = ",".join(Element.from_Z(z).symbol for z in vocabulary)
            raise UserError(f"--{flag}={symbols}: the model never saw {symbol}, only {known}")
        found.append((element.symbol, int(element.Z)))
    return found


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Common oxidation states of each element according to pymatgen; (0,) if it lists none."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)
