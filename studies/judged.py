"""Scores of the same crystals at several amounts of one defect."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.evaluation.validity import structural_defect
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.potentials.energies import Evaluated
from crystal_diffusion_jax.structures.comparing import MATCHER

# Structures and the name of a data set -> predictions.
Oracle = Callable[[Sequence[Structure], str], Predictions]
# Structures -> energies, or why there is none.
Potential = Callable[[Sequence[Structure]], Sequence[Evaluated | str]]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Statistics of the crystals that have a value.

    Attributes:
      num: how many have one.
      mean: None without any, as are the quartiles.
      quartiles: 25th, 50th and 75th percentile.
    """

    num: int
    mean: float | None
    quartiles: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True)
class Point:
    """Scores at one amount.

    Attributes:
      amount: change of the cell's lengths in per cent, or standard deviation in Angstrom.
      num: number of crystals, out of which the counts are.
      success: SR5, SR10, SR15 -> crystals, where one outside the oracle's training is a failure.
      below_training: crystals predicted below the training minimum.
      outside: crystals outside the oracle's training, see `oracles.domain`.
      valid_structure: crystals without overlapping atoms, as the evaluation counts them.
      same: crystals that the evaluation's matcher takes for the unperturbed one.
      prediction: predicted property, of those outside too.
      oracle_change: prediction minus that of the unperturbed crystal.
      potential_change: the same of the potential's energy per atom, in eV.
    """

    amount: float
    num: int
    success: dict[str, int]
    below_training: int
    outside: int
    valid_structure: int
    same: int
    prediction: Spread
    oracle_change: Spread
    potential_change: Spread


@dataclasses.dataclass(frozen=True)
class Curve:
    """The scores of one set of crystals against one defect.

    Attributes:
      dataset: name of the data set, whose oracle judges.
      source: "data", or the name of the file or folder of generated crystals.
      perturbation: "strain" or "rattle".
      num: number of crystals that were asked for.
      seed: of choice and displacements.
      training_minimum: smallest label of the training set.
      date: day of the measurement.
      made_with: machine and versions.
      points: by ascending amount, one of which is 0.
    """

    dataset: str
    source: str
    perturbation: str
    num: int
    seed: int
    training_minimum: float
    date: str
    made_with: str
    points: list[Point]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a curve of."""
        return self.dataset, self.source, self.perturbation


def measure(
    variants: Mapping[float, Sequence[Structure]],
    spec: DatasetSpec,
    training_minimum: float,
    oracle: Oracle,
    believed: Oracle,
    potential: Potential,
    num_energies: int,
) -> list[Point]:
    """Judges crystals at several amounts of a defect.

    Args:
      variants: amount -> the n crystals, in the same order at every amount, of which 0 is one.
      spec: the data set, for name and thresholds.
      training_minimum: smallest label of the training set.
      oracle: predicts its property of any crystal.
      believed: predicts it of crystals inside its training.
      potential: computes energies.
      num_energies: of how many crystals, as they take longer.
    """
    everything = [structure for row in variants.values() for structure in row]
    shape = (len(variants), len(variants[0.0]))
    values = oracle(everything, spec.name).values.reshape(shape)
    inside = believed(everything, spec.name).values.reshape(shape)
    found = potential([each for row in variants.values() for each in row[:num_energies]])
    energies = np.array([np.nan if isinstance(e, str) else e.energy_per_atom for e in found])
    energies = energies.reshape(len(variants), -1)
    zero = list(variants).index(0.0)
    changes = values - values[zero], energies - energies[zero]
    points = []
    for (amount, structures), row, kept, *both in zip(
        variants.items(), values, inside, *changes, strict=True
    ):
        points.append(
            Point(
                amount=amount,
                num=len(row),
                success=_success(kept, spec),
                below_training=int(np.sum(row < training_minimum)),
                outside=int(np.sum(np.isnan(kept))),
                valid_structure=sum(structural_defect(each) is None for each in structures),
                same=sum(map(bool, map(MATCHER.fit, structures, variants[0.0]))),
                prediction=spread(row),
                oracle_change=spread(both[0]),
                potential_change=spread(both[1]),
            )
        )
    return points


def _success(values: np.ndarray, spec: DatasetSpec) -> dict[str, int]:
    every = np.ones(len(values), dtype=bool)
    rates = success_rates(values, every, spec.success_thresholds)["single"]
    return {name: rate.k for name, rate in rates.items()}


def spread(values: np.ndarray) -> Spread:
    """Statistics of the finite ones among [n] values."""
    found = values[np.isfinite(values)]
    if len(found) == 0:
        return Spread(0, None, None)
    lower, median, upper = np.percentile(found, [25, 50, 75]).tolist()
    return Spread(len(found), float(np.mean(found)), (lower, median, upper))
