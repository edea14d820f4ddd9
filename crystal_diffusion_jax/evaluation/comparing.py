"""Whether two crystals are the same to pymatgen's StructureMatcher, and how far they are displaced.

Crystals are compared in their primitive Niggli cells, so that each is reduced once instead of once
per pair.
"""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

# The tolerances of CDVAE's reconstruction task (arXiv:2110.06197): lengths relative, sites in units
# of the cube root of the volume per atom, angles in degrees. They are wider than pymatgen's default
# (0.2, 0.3, 5), so that fewer crystals count as unique or novel.
LTOL, STOL, ANGLE_TOL = 0.3, 0.5, 10.0
_MATCHER = StructureMatcher(LTOL, STOL, ANGLE_TOL)
# For the displacement of cells that are primitive already.
_DISPLACEMENT = StructureMatcher(LTOL, STOL, ANGLE_TOL, primitive_cell=False)
# Displacements in the matcher's unit, which is about 2 A. The tolerances above let many different
# structures of carbon match, displaced by 0.1 and more; the same one is displaced by less than
# 0.01. Nothing nearer than that need be found, which takes long where there are hundreds.
_MAX_DISPLACEMENT = 0.1
_SAME_DISPLACEMENT = 0.01

Key = TypeVar("Key", bound=Hashable)


def reduce(structure: Structure) -> Structure | str:
    """The cell that StructureMatcher would make of it, or why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Wrapped, because pymatgen takes very long with coordinates far outside the cell.
            inside = Structure.from_sites(structure, to_unit_cell=True)
            return inside.get_reduced_structure("niggli").get_primitive_structure()
    except Exception as error:  # an odd cell may raise nearly anything
        return type(error).__name__


def is_same(cells: Mapping[int, Structure], pair: tuple[int, int]) -> bool | str:
    """Whether two cells match in either direction, or why that is unknown."""
    one, other = (cells[index] for index in pair)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _fit(one, other) or _fit(other, one)
    except Exception as error:
        return type(error).__name__


def is_same_as_any(
    cells: Mapping[int, Structure], others: Mapping[Key, Sequence[Structure]], pair: tuple[int, Key]
) -> bool | str:
    """Whether cell `pair[0]` matches any of the others at `pair[1]`, or why that is unknown."""
    index, key = pair
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return any(_fit(other, cells[index]) for other in others[key])
    except Exception as error:
        return type(error).__name__


def nearest_place(
    cells: Mapping[int, Structure], others: Mapping[Key, Sequence[Structure]], pair: tuple[int, Key]
) -> int | None:
    """Place, among others at `pair[1]`, of the one from which cell `pair[0]` is displaced least.

    None where that is unknown, or far.
    """
    index, key = pair
    volumes = [other.volume for other in others[key]]
    # First where it most likely is.
    order = np.argsort(np.abs(np.log(volumes) - np.log(cells[index].volume)), kind="stable")
    least, nearest = _MAX_DISPLACEMENT, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for place in order.tolist():
                other = others[key][place]
                if _fit(other, cells[index]) and (
                    found := _DISPLACEMENT.get_rms_dist(other, cells[index])
                ):
                    if found[0] < least:
                        least, nearest = found[0], place
                    if least < _SAME_DISPLACEMENT:
                        break
    except Exception:
        return None
    return nearest


def _fit(reference: Structure, structure: Structure) -> bool:
    return bool(_MATCHER.fit(reference, structure, skip_structure_reduction=True))
