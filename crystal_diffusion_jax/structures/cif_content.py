"""What a CIF states of the whole cell, compared with the atoms that were read."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Composition, Element, Lattice

from crystal_diffusion_jax.structures.cif_blocks import DEFAULT, UNKNOWN, DataBlock
from crystal_diffusion_jax.structures.cif_elements import element_of_type
from crystal_diffusion_jax.structures.cif_numbers import number

# Relative; a formula's amounts are written with a few digits.
_FORMULA_TOLERANCE = 0.01
_VOLUME_TOLERANCE = 0.01
_MASS_TOLERANCE = 0.03
_GRAMS_PER_CM3 = 1.66053907  # of one atomic mass unit in an Angstrom^3 (CODATA 2018)


def stated_elements(block: DataBlock) -> frozenset[str]:
    """The elements of the formula, or else of the list of atom types; empty if neither is given."""
    if (formula := block.get("_chemical_formula_sum")) and (amounts := _amounts(formula)):
        return frozenset(amounts)
    try:
        return frozenset(map(element_of_type, block.column("_atom_type_symbol")))
    except ValueError:
        return frozenset()


def check_content(
    block: DataBlock,
    lattice: Lattice,
    elements: Sequence[str],
    multiplicities: Sequence[int],
    num_operations: int,
) -> None:
    """Compares the atoms in the cell with the formula, Z, volume, mass and multiplicities.

    Args:
      block: the data block.
      lattice: its cell.
      elements: symbols of the N listed atoms.
      multiplicities: N, how many images each of them has in the cell.
      num_operations: of the space group.

    Raises:
      ValueError: they disagree; the message is the reason.
    """
    found: Counter[str] = Counter()
    for element, count in zip(elements, multiplicities, strict=True):
        found[element] += count
    _check_formula(block, found)
    _check_volume(block, lattice.volume)
    _check_mass(block, found, lattice.volume)
    _check_multiplicities(block, np.array(multiplicities), num_operations)


def _check_formula(block: DataBlock, found: Mapping[str, int]) -> None:
    formula = block.get("_chemical_formula_sum")
    stated = _without_isotopes(_amounts(formula)) if formula else {}
    if not stated:
        return
    in_cell = _without_isotopes(found)
    scale = sum(in_cell.values()) / sum(stated.values())
    if not _same(in_cell, {element: amount * scale for element, amount in stated.items()}):
        raise ValueError(
            f"the atoms disagree with the CIF's formula: {_written(in_cell)} instead of {formula}"
        )
    units = number(block.get("_cell_formula_units_z") or UNKNOWN)
    if units is None:
        return
    # pymatgen and its users write the formula of the whole cell, and as Z the number of reduced
    # formulas in it.
    reduced = math.gcd(*map(round, in_cell.values()))
    of_the_cell = reduced == units.value and abs(scale - 1) < _FORMULA_TOLERANCE
    if not of_the_cell and abs(scale - units.value) > _FORMULA_TOLERANCE * units.value:
        raise ValueError(
            f"the atoms disagree with the CIF's formula: {_written(in_cell)} in the cell instead "
            f"of {units.value:g} ({formula})"
        )


def _check_volume(block: DataBlock, volume: float) -> None:
    stated = number(block.get("_cell_volume") or UNKNOWN)
    if stated and abs(stated.value - volume) > _VOLUME_TOLERANCE * volume + stated.unit:
        raise ValueError(
            f"lengths and angles make a volume of {volume:.6g} A^3, not the CIF's {stated.value:g}"
        )


def _check_mass(block: DataBlock, found: Mapping[str, int], volume: float) -> None:
    mass = sum(_mass(element) * count for element, count in found.items())
    density = number(block.get("_exptl_crystal_density_diffrn") or UNKNOWN)
    weight = number(block.get("_chemical_formula_weight") or UNKNOWN)
    units = number(block.get("_cell_formula_units_z") or UNKNOWN)
    for name, read, stated, unit in (
        ("density", _GRAMS_PER_CM3 * mass / volume, density, "g/cm^3"),
        ("weight of a formula", mass / units.value if units and units.value else 0, weight, "u"),
    ):
        if stated and read and abs(stated.value - read) > _MASS_TOLERANCE * read + stated.unit:
            raise ValueError(
                f"the atoms have a {name} of {read:.4g} {unit}, not the CIF's {stated.value:g}"
            )


def _check_multiplicities(block: DataBlock, found: np.ndarray, num_operations: int) -> None:
    texts = block.column("_atom_site_symmetry_multiplicity")
    known = np.array([text not in (UNKNOWN, DEFAULT) for text in texts], bool)
    if not known.any() or len(texts) != len(found):
        return
    given = [number(text) for text in texts]
    stated = np.array([one.value if one else np.nan for one in given])[known]
    found = found[known]
    # SHELXL-97 wrote under this name how many operations leave the site where it is.
    orders = num_operations / found
    if not (np.array_equal(stated, found) or np.array_equal(stated, orders)):
        place = int(np.argmax(stated != found))
        raise ValueError(
            f"an atom has {found[place]} images, not the CIF's multiplicity of {stated[place]:g}"
        )


@functools.lru_cache(maxsize=4096)
def _amounts(formula: str) -> dict[str, float]:
    """Amounts by element; empty where the formula is not one that can be compared."""
    try:
        amounts = Composition(formula).get_el_amt_dict()
    except ValueError:
        return {}
    return {element: amount for element, amount in amounts.items() if amount > 0}


def _without_isotopes(amounts: Mapping[str, float]) -> dict[str, float]:
    merged: dict[str, float] = defaultdict(float)
    for element, amount in amounts.items():
        merged["H" if element in ("D", "T") else element] += amount
    return dict(merged)


def _same(amounts: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return amounts.keys() == others.keys() and all(
        abs(amount - others[element]) <= _FORMULA_TOLERANCE * max(amount, others[element])
        for element, amount in amounts.items()
    )


@functools.lru_cache
def _mass(element: str) -> float:
    return float(Element(element).atomic_mass)


def _written(amounts: Mapping[str, float]) -> str:
    return " ".join(f"{element}{amount:g}" for element, amount in sorted(amounts.items()))
