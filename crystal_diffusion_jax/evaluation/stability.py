"""Which crystals are stable against the decomposition into known phases.

Energies of a potential become formation energies by references that were fitted on the data set,
and those are compared with the hull of the training split's labels.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.evaluation.diversity import Diversity
from crystal_diffusion_jax.evaluation.intervals import Rate, rate
from crystal_diffusion_jax.potentials import references
from crystal_diffusion_jax.potentials.hull import NEAR_HULL, AboveHull, Hull, from_crystals
from crystal_diffusion_jax.potentials.references import References

# [N] atomic numbers, the potential's energy in eV/atom -> the crystal above the hull; None where
# that is unknown.
AboveHullOf = Callable[[Sequence[int], float], AboveHull | None]


@dataclasses.dataclass(frozen=True)
class Stability:
    """How many of n crystals are near the hull, out of all n.

    A crystal of one element decomposes into elements only, so it is never `stable`.

    Attributes:
      near_hull: less than `NEAR_HULL` above it.
      stable: the same, and all products of decomposition are compounds. Where the hull knows no
        compound of a system, anything bound is below it.
      sun: unique crystals that are stable and novel; None if novelty is unknown.
    """

    near_hull: Rate
    stable: Rate
    sun: Rate | None


def stability(above: Sequence[AboveHull | None], compared: Diversity) -> Stability:
    """Counts stable crystals.

    Args:
      above: n crystals above the hull, None where that is unknown.
      compared: the same crystals beside each other and beside a training set.
    """
    near = np.array([each is not None and each.energy < NEAR_HULL for each in above], bool)
    compounds = np.array([each is not None and each.compounds_only for each in above], bool)
    stable = near & compounds
    sun = None if compared.novel is None else compared.unique_among(stable & compared.novel)
    return Stability(rate(near), rate(stable), sun)


def training_hull(dataset: str, train: CrystalDataset) -> tuple[References, Hull]:
    """The hull of a training split's labels, and the reference energies to compare with it.

    Args:
      dataset: name of the known data set, for its reference energies.
      train: its training split; the label is the first property.

    Raises:
      UserError: there are no reference energies for the data set.
    """
    fitted = references.load(dataset)
    energies = fitted.of_labels(train.properties[:, 0], train.num_atoms)
    crystals = np.split(train.atomic_numbers, train.offsets[1:-1])
    return fitted, from_crystals([numbers.tolist() for numbers in crystals], energies)


def above(fitted: References, hull: Hull) -> AboveHullOf:
    """Crystals above a hull, by the potential's energies."""

    def above_hull(atomic_numbers: Sequence[int], energy_per_atom: float) -> AboveHull | None:
        return hull.above(atomic_numbers, fitted.formation_energy(atomic_numbers, energy_per_atom))

    return above_hull
