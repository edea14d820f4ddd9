"""How far a crystal is from its relaxed self."""

import math
from typing import NamedTuple

from pymatgen.core import Structure

from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.comparing import CELL_MATCHER, inside, or_error


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
    # Cells as they are: relaxing can make a crystal more symmetric, and then its primitive cell is
    # smaller than the one it had before.
    found = or_error(CELL_MATCHER.get_rms_dist)(inside(original), inside(relaxed))
    if found is None or isinstance(found, str):
        return math.nan
    # The matcher measures in units of the cube root of the volume per atom, both cells scaled to
    # the geometric mean of their volumes.
    volume = math.sqrt(original.volume * relaxed.volume)
    return float(found[0]) * math.cbrt(volume / len(original))


def volume_change(original: Structure, relaxed: Structure) -> float:
    """Relative change of the volume, e.g. 0.02 for a crystal that grows by 2 %."""
    return float(relaxed.volume / original.volume) - 1.0
