"""The scores of relaxed crystals at the top of the page, and what the words mean."""

from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.potentials.hull import NEAR_HULL
from crystal_diffusion_jax.potentials.relaxation import RelaxSettings
from crystal_diffusion_jax.report.cards import Median
from crystal_diffusion_jax.report.relaxed import RelaxedEntry

_CONVERGED = "converged"
_NEAR = f"above hull < {NEAR_HULL:g} eV/atom"
_HULL = "energy above hull"
# Title -> attribute of a crystal, unit, its size in the attribute's unit, decimals.
_MEDIANS = {
    "energy gain": ("energy_gain", "eV/atom", 1.0, 3),
    "RMSD": ("rmsd", "Å", 1.0, 3),
    "volume change": ("volume_change", "%", 0.01, 1),
    _HULL: ("energy_above_hull", "eV/atom", 1.0, 3),
}
MEANINGS = {
    _CONVERGED: "relaxed until the forces were as small as asked for, out of all",
    "energy gain": "energy per atom that the crystal loses as it relaxes, 0 in equilibrium",
    "RMSD": "how far the generated atoms are from their places in the relaxed crystal, root mean "
    'square; "structure changed" where the two no longer match, which the median leaves out',
    "volume change": "of the relaxed crystal against the generated one",
    _HULL: "energy per atom of the relaxed crystal above that of the best mixture of known phases "
    "of its composition, into which it decomposes; elements there mean that few phases are known",
    _NEAR: "less than that above the hull or below it once relaxed, out of all",
}


def headline(relaxed: Sequence[RelaxedEntry | None], num: int) -> dict[str, Rate | Median]:
    """Title -> share or median; of the hull only if it is known for any crystal.

    Args:
      relaxed: crystals, None for those that are not relaxed.
      num: crystals that were asked for, of which all shares are.
    """
    if not relaxed:
        return {}
    tried = [crystal for crystal in relaxed if crystal is not None]
    found: dict[str, Rate | Median] = {
        _CONVERGED: Rate(sum(crystal.converged for crystal in tried), num)
    }
    for title, (attribute, unit, size, decimals) in _MEDIANS.items():
        values = [getattr(crystal, attribute) for crystal in tried]
        known = np.array([value for value in values if value is not None])
        if title == _HULL and len(known):
            found[_NEAR] = Rate(int(np.count_nonzero(known < NEAR_HULL)), num)
        if title != _HULL or len(known):
            median = float(np.median(known)) / size if len(known) else None
            found[title] = Median(median, unit, decimals, len(known), num)
    return found


def caption(settings: RelaxSettings) -> str:
    """What was done to the crystals, and what it says about them."""
    moved = "atoms only" if settings.fixed_cell else "atoms and cell"
    return (
        f"Relaxed: {moved} moved downhill in the energy of an interatomic potential "
        f"({settings.potential}) until no force exceeds {settings.fmax:g} eV/Å, in at most "
        f"{settings.max_steps} steps. A crystal that the potential holds to be in equilibrium "
        "gains little energy and moves little. Neither this nor an energy above the hull is a "
        "calculation with DFT."
    )
