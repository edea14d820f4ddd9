"""How many formula units the cells of a formula have, as a table of counts.

An anonymous formula is a composition without its elements: (1, 1, 3) for BaTiO3, (1, 2) for TiO2.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np

# (reduced anonymous formula, ((formula units Z of a cell, crystals), ...)), ascending in both.
FormulaUnits = tuple[tuple[tuple[int, ...], tuple[tuple[int, int], ...]], ...]

# The most common formulas, so that model.json stays small. The binary and ternary crystals of MP-20
# have 189; a hundred thousand crystals of all kinds have more, most of which occur once.
_MAX_FORMULAS = 2000
_CHUNK = 10_000  # crystals that are counted at a time
_ELEMENTS = 128  # above all atomic numbers


def anonymous(counts: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Reduced anonymous formula and formula units of a cell: (2, 4) -> ((1, 2), 2).

    Args:
      counts: atoms of each element in the cell, in any order.
    """
    units = math.gcd(*counts)
    return tuple(sorted(count // units for count in counts)), units


def count_formula_units(num_atoms: np.ndarray, atomic_numbers: np.ndarray) -> FormulaUnits:
    """Counts the formula units in the cells of each anonymous formula.

    Args:
      num_atoms: [M] atoms of each crystal.
      atomic_numbers: [A] of all atoms, crystal by crystal.
    """
    cells: Counter[tuple[int, ...]] = Counter()
    first_atom = 0
    for start in range(0, len(num_atoms), _CHUNK):
        sizes = np.asarray(num_atoms[start : start + _CHUNK])
        atoms = slice(first_atom, first_atom + int(sizes.sum()))
        first_atom = atoms.stop
        crystal = np.repeat(np.arange(len(sizes)), sizes)
        # One entry per crystal and element, by crystal.
        pairs, counts = np.unique(
            crystal * _ELEMENTS + np.asarray(atomic_numbers[atoms]), return_counts=True
        )
        owners = pairs // _ELEMENTS
        counts = counts[np.lexsort((counts, owners))]
        ends = np.cumsum(np.bincount(owners, minlength=len(sizes)))
        cells.update(tuple(part.tolist()) for part in np.split(counts, ends[:-1]))
    table: defaultdict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
    for cell, crystals in cells.items():
        formula, units = anonymous(cell)
        table[formula][units] = crystals
    common = sorted(table, key=lambda formula: (-sum(table[formula].values()), formula))
    return tuple(
        (formula, tuple(sorted(table[formula].items())))
        for formula in sorted(common[:_MAX_FORMULAS])
    )


def check_table(table: FormulaUnits, sizes: Collection[int], num_crystals: int) -> None:
    """Checks a table that comes from a file.

    Args:
      table: the table.
      sizes: numbers of atoms that occur.
      num_crystals: number of training crystals.

    Raises:
      ValueError: formulas are not reduced or not ascending, a cell has a number of atoms that does
        not occur, or the counts are no counts.
    """
    formulas = [formula for formula, _ in table]
    if not all(one < other for one, other in itertools.pairwise(formulas)):
        raise ValueError("statistics.formula_units must ascend")
    for formula, counts in table:
        if not formula or min(formula) < 1 or anonymous(formula) != (formula, 1):
            raise ValueError("statistics.formula_units has a formula that is not reduced")
        units = [number for number, _ in counts]
        if not units or not all(one < other for one, other in itertools.pairwise([0, *units])):
            raise ValueError("statistics.formula_units must ascend from 1 for each formula")
        if not {number * sum(formula) for number in units} <= set(sizes):
            raise ValueError("statistics.formula_units has a cell of no size in the histogram")
        if min(crystals for _, crystals in counts) < 1:
            raise ValueError("statistics.formula_units has a count below 1")
    if sum(crystals for _, counts in table for _, crystals in counts) > num_crystals:
        raise ValueError("statistics.formula_units counts more crystals than there are")
