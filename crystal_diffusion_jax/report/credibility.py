"""Signs that a crystal is not to be believed, and the order in which crystals are shown."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.oracles import domain
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.report.crystals import Crystal

INVALID = "invalid"
CLOSE = "atoms too close"
HUGE = "huge volume"
FAR = "far from relaxed"
NOT_RELAXED = "cannot be relaxed"
UNKNOWN = "outside the oracle"
# Sums of covalent radii. No two atoms of MP-20's training split are closer than 0.65 of them, of
# Perov-5's 0.67, of Carbon-24's 0.78 (oracles/domains).
CLOSE_BELOW = 0.65
# Angstrom; beyond it a crystal has become another one, or is about to.
FAR_ABOVE = 0.5


@dataclasses.dataclass(frozen=True)
class Credibility:
    """What raises a flag.

    Attributes:
      largest_volume: per atom, of the training data, Angstrom^3; None if unknown.
    """

    largest_volume: float | None

    @property
    def meanings(self) -> dict[str, str]:
        """Flag -> what raises it."""
        found = {
            INVALID: "see the column valid",
            CLOSE: f"two atoms closer than {CLOSE_BELOW:g} times the sum of their covalent radii, "
            "closer than any in the data sets of the shipped models",
        }
        if self.largest_volume is not None:
            found[HUGE] = (
                f"more than {self.largest_volume:.3g} Å³ per atom, the largest of the training data"
            )
        return found | {
            FAR: f"relaxing moves its atoms by more than {FAR_ABOVE:g} Å (root mean square), or "
            "makes another structure of it",
            NOT_RELAXED: "the potential could not relax it",
            UNKNOWN: "unlike anything that the network which predicts the property was trained on, "
            "so it has no prediction",
        }

    def flags(self, crystal: Crystal) -> list[str]:
        """The flags of a crystal, those of `meanings`."""
        one, relaxed = crystal.generated, crystal.relaxed
        moved = relaxed is not None and relaxed.state is not None
        raised = {
            INVALID: not crystal.valid,
            CLOSE: one.closest_in_radii is not None and one.closest_in_radii < CLOSE_BELOW,
            HUGE: self.largest_volume is not None and one.volume_per_atom > self.largest_volume,
            FAR: relaxed is not None and moved and not _is_near(relaxed.rmsd),
            NOT_RELAXED: relaxed is not None and not moved,
            UNKNOWN: OUTSIDE in crystal.failure,
        }
        return [flag for flag, is_raised in raised.items() if is_raised]


def _is_near(rmsd: float | None) -> bool:
    return rmsd is not None and rmsd <= FAR_ABOVE


def credibility(spec: DatasetSpec | None, train: CrystalDataset | None) -> Credibility:
    """What raises a flag, by a known data set or by the training crystals; either may be None."""
    if spec is not None:
        return Credibility(domain.load(spec.name).volume_per_atom[1])
    if train is not None:
        volumes = np.abs(np.linalg.det(train.lattice)) / train.num_atoms
        return Credibility(float(volumes.max()))
    return Credibility(None)


def order(crystals: Sequence[Crystal], flags: Sequence[Sequence[str]]) -> list[int]:
    """The crystals' places in the order in which they are shown first.

    Those on the shortlist by rank; of the others those with the fewest flags, of these the nearest
    to what was asked, of these the lowest above the hull; what is not known comes after what is.
    """

    def key(place: int) -> tuple[float, ...]:
        crystal = crystals[place]
        above = None if crystal.relaxed is None else crystal.relaxed.energy_above_hull
        rank, *known = (
            math.inf if x is None else x for x in (crystal.rank, crystal.difference, above)
        )
        return (rank, len(flags[place]), *known, place)

    return sorted(range(len(crystals)), key=key)


def order_in_words(crystals: Sequence[Crystal]) -> str:
    """`order` in a sentence, without what no crystal has."""
    steps = ["those without flags first"]
    if any(x.rank is not None for x in crystals):
        steps = ["the shortlist by rank", "then the others, those without flags first"]
    if any(x.difference is not None for x in crystals):
        steps.append("then by |predicted - asked|")
    if any(x.relaxed is not None and x.relaxed.energy_above_hull is not None for x in crystals):
        steps.append("then by energy above the hull")
    return f"Order: {', '.join(steps)}. Click a heading to sort otherwise."
