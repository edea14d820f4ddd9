"""All scores of one set of generated crystals against one known data set."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.checks import check
from crystal_diffusion_jax.evaluation.coverage import CUTOFFS, Coverage, Fingerprint, coverage
from crystal_diffusion_jax.evaluation.distributions import distances, draw_valid, finite
from crystal_diffusion_jax.evaluation.diversity import dataset_structures, diversity
from crystal_diffusion_jax.evaluation.failures import Failure, list_failures
from crystal_diffusion_jax.evaluation.intervals import Estimate, Rate, bootstrap, rate
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.structures.reading import Inputs

# A prediction further below the training labels than so many of the judge's errors is its mistake.
PLAUSIBLE_ERRORS = 3.0
IMPLAUSIBLE = "predicted too far below all training crystals to be believed"


class PredictionsLike(Protocol):
    """What a judge says of S structures: `judge.predict.Predictions`."""

    @property
    def values(self) -> np.ndarray:
        """[S] predicted property, NaN where the prediction failed."""

    @property
    def failures(self) -> dict[int, str]:
        """Index of each NaN -> the reason."""


Predict = Callable[[Sequence[Structure]], PredictionsLike]
# Text: why a crystal has none.
MakeFingerprints = Callable[[Sequence[Structure | None]], Sequence[Fingerprint | str]]


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores of n crystals; every rate whose n is not stated otherwise is out of all of them.

    Attributes:
      num: n, the crystals asked for.
      num_read: those that are crystals at all.
      num_predicted: those with a predicted property.
      num_train: crystals of the training split.
      num_test: crystals of the test split.
      num_test_predicted: those of them with a predicted property; the others are missing from the
        property's distance.
      num_test_fingerprinted: those of them with a fingerprint; the others count as not recalled.
        None without coverage.
      success: reading -> SR5, SR10, SR15, see `success_rates`.
      validity: "structure", "composition", "both".
      diversity: "unique", "novel", "unique_compositions", "novel_compositions".
      useful: distinct crystals that are valid, reach SR5 and are not in the training split.
      distances: see `distances`.
      property_mean: mean prediction of all crystals that have one.
      property_median: their median; far from any training crystal the networks may answer with
        millions of eV, which a mean does not survive.
      below_training_range: of those crystals, how many are predicted below every label of the
        training split.
      judge_error: mean absolute error of the predictions for the test split, against its labels.
      lowest_plausible: smallest label of the training split minus `PLAUSIBLE_ERRORS` times
        `judge_error`; NaN where that is unknown.
      implausibly_low: of the crystals with a prediction, those below `lowest_plausible`: they fool
        the judge, and count as failures of success and use.
      coverage: of the test split, None where it was not asked for.
      failures: by index, a crystal's in the order of the stages.
      values: [n] predictions, NaN where there is none.
      valid: [n] bool.
      novel: [n] bool, no training crystal is the same.
    """

    num: int
    num_read: int
    num_predicted: int
    num_train: int
    num_test: int
    num_test_predicted: int
    num_test_fingerprinted: int | None
    success: Mapping[str, Mapping[str, Rate]]
    validity: Mapping[str, Rate]
    diversity: Mapping[str, Rate]
    useful: Rate
    distances: Mapping[str, Estimate]
    property_mean: Estimate
    property_median: Estimate
    below_training_range: Rate
    judge_error: float
    lowest_plausible: float
    implausibly_low: Rate
    coverage: Coverage | None
    failures: Sequence[Failure]
    values: np.ndarray
    valid: np.ndarray
    novel: np.ndarray


def evaluate(
    inputs: Inputs,
    spec: DatasetSpec,
    train: CrystalDataset,
    test: CrystalDataset,
    predict: Predict,
    make_fingerprints: MakeFingerprints | None = None,
    progress: bool = True,
) -> Report:
    """Scores a set of crystals.

    `valid` means valid in structure and composition. CDVAE besides calls a crystal invalid when
    matminer's fingerprint of it fails; here that counts for coverage alone, so that validity does
    not depend on an optional package.

    Args:
      inputs: the crystals.
      spec: the data set, for its thresholds.
      train: its training split, for novelty; its first property is the data set's own.
      test: its test split, for the distances and coverage.
      predict: the judge of this data set's property.
      make_fingerprints: asks for coverage.
      progress: show progress bars on stderr.
    """
    num = len(inputs.structures)
    checked = check(inputs)
    stages = dict(checked.failures)
    present, valid = checked.present, checked.valid

    predictions = predict(checked.crystals)
    values = checked.spread(predictions.values)
    test_structures = dataset_structures(test)
    test_values = predict(test_structures).values
    errors = finite(np.abs(test_values - test.properties[:, 0]))
    judge_error = float(np.mean(errors)) if len(errors) else np.nan
    lowest_plausible = float(train.properties[:, 0].min()) - PLAUSIBLE_ERRORS * judge_error
    implausible = values < lowest_plausible  # NaN is not
    reached = np.where(implausible, np.nan, values)
    stages["property"] = {present[i]: reason for i, reason in predictions.failures.items()}
    stages["property"] |= dict.fromkeys(np.flatnonzero(implausible).tolist(), IMPLAUSIBLE)

    compared = diversity(inputs.structures, train, progress)
    stages["comparison"] = compared.failures

    drawn = draw_valid(valid)
    drawn_structures = [s for i in drawn if (s := inputs.structures[i]) is not None]

    covered = None
    num_test_fingerprinted = None
    if make_fingerprints is not None:
        made = make_fingerprints([*inputs.structures, *test_structures])
        found = [item if isinstance(item, Fingerprint) else None for item in made]
        covered = coverage(found[:num], found[num:], CUTOFFS[spec.name])
        num_test_fingerprinted = len(test) - found[num:].count(None)
        stages["fingerprint"] = {i: text for i in present if isinstance(text := made[i], str)}
    return Report(
        num=num,
        num_read=len(present),
        num_predicted=len(finite(values)),
        num_train=len(train),
        num_test=len(test),
        num_test_predicted=len(finite(test_values)),
        num_test_fingerprinted=num_test_fingerprinted,
        success=success_rates(reached, valid, spec.success_thresholds),
        validity=checked.rates,
        diversity=compared.rates,
        useful=compared.distinct(
            valid & compared.novel & (reached <= spec.success_thresholds[0])  # NaN reaches nothing
        ),
        distances=distances(drawn_structures, values[drawn], test_structures, test_values),
        property_mean=bootstrap(np.mean, finite(values)),
        property_median=bootstrap(np.median, finite(values)),
        below_training_range=rate(finite(values) < train.properties[:, 0].min()),
        judge_error=judge_error,
        lowest_plausible=lowest_plausible,
        implausibly_low=Rate(int(np.sum(implausible)), len(finite(values))),
        coverage=covered,
        failures=list_failures(inputs.names, stages),
        values=values,
        valid=valid,
        novel=compared.novel,
    )
