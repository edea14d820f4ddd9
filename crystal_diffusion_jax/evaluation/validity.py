"""Structural and compositional validity, as CDVAE, DiffCSP and their successors report them.

Source: `scripts/eval_utils.py` of CDVAE (Xie et al., arXiv:2110.06197).
"""

import functools
import itertools
import math
from importlib.metadata import version

import numpy as np
import smact
from pymatgen.core import Element, Structure

from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition
from crystal_diffusion_jax.structures.conversion import lattice_defect, minimum_distance
from crystal_diffusion_jax.structures.limits import MIN_VALID_DISTANCE

# SMACT's element tables change between versions, and with them validity.
SMACT_VERSION = version("smact")
# DiffCSP's limit; a composition beyond it counts as invalid.
_MAX_COMBINATIONS = 10**7
_METALS = frozenset(smact.metals)
# The one entry of the table in which SMACT 4.0.2 (-3 instead of -2) differs from 2.2.1.
_IRIDIUM_STATES = [-2, -1, 1, 2, 3, 4, 5, 6, 7, 8]


def is_valid(structure: Structure) -> bool:
    """Whether structure and composition are valid."""
    return (
        structural_defect(structure) is None
        and composition_defect(reduced_composition(structure.atomic_numbers)) is None
    )


def structural_defect(structure: Structure) -> str | None:
    """Why the structure is invalid, or None."""
    if defect := lattice_defect(structure.lattice.matrix):
        return defect
    if minimum_distance(structure) < MIN_VALID_DISTANCE:
        return f"two atoms closer than {MIN_VALID_DISTANCE} A"
    return None


@functools.cache
def composition_defect(composition: ReducedComposition) -> str | None:
    """Why the composition is invalid, or None.

    It is valid if it is one element, all metals, or can be made neutral by oxidation states of
    SMACT's table such that each anion is more electronegative than each cation (Pauling's test).
    The table is that of 2014, as in SMACT 2.2.1, with which CDVAE's figures were made.
    """
    try:
        elements = [_smact_element(number) for number, _ in composition]
    except KeyError:
        return "an element unknown to SMACT"
    if len(elements) == 1 or all(element.symbol in _METALS for element in elements):
        return None
    states = [
        _IRIDIUM_STATES if element.symbol == "Ir" else element.oxidation_states_smact14 or []
        for element in elements
    ]
    num_combinations = math.prod(len(known) for known in states)
    if num_combinations == 0:
        return "an element without oxidation states in SMACT"
    if num_combinations > _MAX_COMBINATIONS:
        return "too many combinations of oxidation states"
    charges = [
        np.array(known) * count for known, (_, count) in zip(states, composition, strict=True)
    ]
    total = functools.reduce(np.add.outer, charges)
    electronegativities = [element.pauling_eneg for element in elements]
    for choice in np.argwhere(total == 0):
        chosen = [known[index] for known, index in zip(states, choice, strict=True)]
        if _passes_pauling_test(chosen, electronegativities):
            return None
    return "no neutral combination of oxidation states that Pauling's test admits"


@functools.cache
def _smact_element(atomic_number: int) -> smact.Element:
    """The element's tables; KeyError if SMACT has none."""
    return smact.Element(Element.from_Z(atomic_number).symbol)


def _passes_pauling_test(states: list[int], electronegativities: list[float | None]) -> bool:
    """SMACT's test as CDVAE uses it, of version 2.2.1, pair by pair in the elements' order.

    In SMACT 4 an unknown electronegativity fails the test. In 2.2.1 the comparison of two ions of
    opposite charge then raised a TypeError, which CDVAE counts as a pass.
    """
    ions = zip(states, electronegativities, strict=True)
    for (state, value), (other_state, other_value) in itertools.combinations(ions, 2):
        opposite = state * other_state < 0
        if value is None or other_value is None:
            return opposite
        if opposite and (value >= other_value if state > 0 else value <= other_value):
            return False
    return True
