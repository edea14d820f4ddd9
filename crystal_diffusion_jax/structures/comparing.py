"""pymatgen's StructureMatcher: which tolerances it has here, and what it does with odd cells.

Crystals are compared in their primitive Niggli cells, so that each is reduced once instead of once
per pair.
"""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

# The tolerances of CDVAE's reconstruction task (arXiv:2110.06197): lengths relative, sites in units
# of the cube root of the volume per atom, angles in degrees. They are wider than pymatgen's default
# (0.2, 0.3, 5), so that fewer crystals count as unique or novel.
LTOL, STOL, ANGLE_TOL = 0.3, 0.5, 10.0
MATCHER = StructureMatcher(LTOL, STOL, ANGLE_TOL)
# For the displacement between cells that are to be compared as they are.
CELL_MATCHER = StructureMatcher(LTOL, STOL, ANGLE_TOL, primitive_cell=False)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def or_error(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result | str]:
    """Without warnings, and with the name of an error instead of the error.

    pymatgen raises nearly anything on odd cells.
    """

    @functools.wraps(function)
    def quiet(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result | str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(*args, **kwargs)
        except Exception as error:
            return type(error).__name__

    return quiet


@or_error
def reduce(structure: Structure) -> Structure:
    """The cell that StructureMatcher would make of it, or why there is none."""
    return inside(structure).get_reduced_structure("niggli").get_primitive_structure()


def fit(matcher: StructureMatcher, reference: Structure, structure: Structure) -> bool:
    """Whether two reduced cells match; the order can matter."""
    return bool(matcher.fit(reference, structure, skip_structure_reduction=True))


def inside(structure: Structure) -> Structure:
    """With all atoms in the cell, as pymatgen takes very long with those far outside."""
    return Structure.from_sites(structure, to_unit_cell=True)
