"""How far a crystal is from its relaxed self."""

import math
import warnings
from typing import NamedTuple

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from crystal_diffusion_jax.structures.cif_writer import to_cif

# The tolerances of the evaluation (`evaluation.comparing`); within them it is still that structure.
# Cells are compared as they are: relaxing can make a crystal more symmetric, and then its primitive
# cell is smaller than the one it had before.
_MATCHER = StructureMatcher(0.3, 0.5, 10.0, primitive_cell=False)


class Compared(NamedTuple):
    """A relaxed crystal beside the original.

    Attributes:
      rmsd: see `rmsd`.
      cif: of the relaxed crystal.
    """

    rmsd: float
    cif: str


def compare(symprec: float, pair: tuple[Structure, Structure]) -> Compared:
    """For a worker process, since both parts can take long for odd crystals.

    Args:
      symprec: tolerance of the symmetry in the CIF, in Angstrom.
      pair: original and relaxed crystal.
    """
    return Compared(rmsd(*pair), to_cif(pair[1], symprec))


def rmsd(original: Structure, relaxed: Structure) -> float:
    """Root mean square displacement of the atoms, in Angstrom.

    Both cells are brought to one volume and shape, so a change of the cell does not count. NaN
    where pymatgen's StructureMatcher does not find the original structure any more.
    """
    # Wrapped, because pymatgen takes very long with coordinates far outside the cell.
    pair = [Structure.from_sites(one, to_unit_cell=True) for one in (original, relaxed)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _MATCHER.get_rms_dist(*pair)
    except Exception:  # an odd cell may raise nearly anything
        return math.nan
    if found is None:
        return math.nan
    # The matcher measures in units of the cube root of the volume per atom, both cells scaled to
    # the geometric mean of their volumes.
    volume = math.sqrt(original.volume * relaxed.volume)
    return float(found[0]) * math.cbrt(volume / len(original))


def volume_change(original: Structure, relaxed: Structure) -> float:
    """Relative change of the volume, e.g. 0.02 for a crystal that grows by 2 %."""
    return float(relaxed.volume / original.volume) - 1.0
