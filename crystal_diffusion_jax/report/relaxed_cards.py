"""The scores of relaxed crystals at the top of the page, and what the words mean."""

from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.potentials.hull import NEAR_HULL
from crystal_diffusion_jax.potentials.relaxation import RelaxSettings
from crystal_diffusion_jax.report.cards import Median
from crystal_diffusion_jax.report.crystals import Crystal

_CONVERGED = "converged"
_GAIN = "energy gain"
_RMSD = "RMSD"
_VOLUME = "volume change"
_NEAR = f"above hull < {NEAR_HULL:g} eV/atom"
_STABLE = "stable"
_HULL = "energy above hull"
MEANINGS = {
    _CONVERGED: "relaxed until the forces were as small as asked for",
    _GAIN: "energy per atom that the crystal loses as it relaxes, 0 in equilibrium",
    _RMSD: "how far the generated atoms are from their places in the relaxed crystal, root mean "
    "square; the median leaves out crystals that became another structure",
    _VOLUME: "of the relaxed crystal against the generated one",
    _HULL: "energy per atom of the relaxed crystal above that of the best mixture of known phases "
    "of its composition, into which it decomposes. Elements among them mean that the compounds to "
    "compare with are not known, so the median leaves such crystals out",
    _NEAR: "less than that above the hull, or below it, once relaxed; also those that "
    "are compared with elements for lack of known compounds",
    _STABLE: "the same, and compared with compounds only",
}

BESIDE_ELEMENTS = (
    "Elements are among the phases that every crystal is compared with, as the data of the hull "
    "lack compounds: to be near that hull, or below it, says little about stability."
)


def beside_elements_only(crystals: Sequence[Crystal]) -> bool:
    """Whether a hull is known, and elements compete with every compound."""
    known = [
        crystal.relaxed.compounds_only
        for crystal in crystals
        if crystal.relaxed is not None
        and crystal.relaxed.energy_above_hull is not None
        and len(set(crystal.generated.symbols)) > 1
    ]
    return bool(known) and not any(known)


def headline(crystals: Sequence[Crystal], num: int) -> dict[str, Rate | Median]:
    """Title -> share or median; of the hull only if it is known for any crystal.

    Args:
      crystals: of the page; without any that was relaxed, there is no score.
      num: crystals of which all shares are.
    """
    tried = [crystal.relaxed for crystal in crystals if crystal.relaxed is not None]
    if not tried:
        return {}
    found: dict[str, Rate | Median] = {
        _CONVERGED: Rate(sum(x.converged for x in tried), num),
        _GAIN: _median([x.energy_gain for x in tried], "eV/atom", 3, num),
        _RMSD: _median([x.rmsd for x in tried], "Å", 3, num),
        _VOLUME: _median([x.volume_change for x in tried], "%", 1, num),
    }
    above = [(x.energy_above_hull, x.compounds_only) for x in tried]
    known = [(energy, compounds) for energy, compounds in above if energy is not None]
    if known:
        near = [compounds for energy, compounds in known if energy < NEAR_HULL]
        among_compounds = [energy for energy, compounds in known if compounds]
        found[_NEAR] = Rate(len(near), num)
        found[_STABLE] = Rate(sum(near), num)
        found[_HULL] = _median(among_compounds, "eV/atom", 3, num)
    return found


def _median(values: Sequence[float | None], unit: str, decimals: int, num: int) -> Median:
    known = [value for value in values if value is not None]
    size = 0.01 if unit == "%" else 1.0
    return Median(
        float(np.median(known)) / size if known else None, unit, decimals, len(known), num
    )


def caption(settings: RelaxSettings, screened: bool) -> str:
    """What was done to the crystals, and what it says about them.

    Args:
      settings: of relaxing.
      screened: only those were relaxed that had passed checks before.
    """
    of = "those that passed the checks before" if screened else "all that were asked for"
    moved = "atoms only" if settings.fixed_cell else "atoms and cell"
    return (
        f"Relaxed: {moved} moved downhill in the energy of an interatomic potential "
        f"({settings.potential}) until no force exceeds {settings.fmax:g} eV/Å, in at most "
        f"{settings.max_steps} steps. Shares are of {of}. A crystal that the potential holds to be "
        "in equilibrium gains little energy and moves little. Neither this nor an energy above the "
        "hull is a calculation with DFT."
    )
