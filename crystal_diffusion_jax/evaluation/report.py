"""All scores of one set of generated crystals, as far as data set and oracle are there."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.checks import Failure, check, list_failures
from crystal_diffusion_jax.evaluation.coverage import CUTOFFS, Coverage, Fingerprint, coverage
from crystal_diffusion_jax.evaluation.distributions import distances, draw_valid, finite
from crystal_diffusion_jax.evaluation.diversity import dataset_structures, diversity
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic, bootstrap, rate
from crystal_diffusion_jax.evaluation.success_rate import reaches, success_rates
from crystal_diffusion_jax.structures.reading import Inputs

# Predictions below the training labels by more than this many times the oracle's error are wrong.
PLAUSIBLE_ERRORS = 3.0
IMPLAUSIBLE = "predicted too far below all training crystals to be believed"


class PredictionsLike(Protocol):
    """What an oracle predicts for S structures: `oracle.predict.Predictions`."""

    @property
    def values(self) -> np.ndarray:
        """[S] predicted property, NaN where the prediction failed."""

    @property
    def failures(self) -> dict[int, str]:
        """Index of each NaN -> the reason."""


Predict = Callable[[Sequence[Structure]], PredictionsLike]
# A text says why a crystal has no fingerprint.
MakeFingerprints = Callable[[Sequence[Structure | None]], Sequence[Fingerprint | str]]


@dataclasses.dataclass
class Report:
    """Scores of n crystals; rates are out of all n of them unless stated otherwise.

    Scores that need the oracle, the training split or the test split are None, or empty mappings,
    without it.

    Attributes:
      num: n, the crystals asked for.
      num_read: those that could be read.
      num_train: crystals of the training split.
      num_test: crystals of the test split.
      validity: "structure", "composition", "both".
      valid: [n] bool, valid in structure and composition.
      diversity: "unique", "unique_compositions", and with a training split "novel" and
        "novel_compositions".
      unique: [n] bool, no crystal before it is the same.
      novel: [n] bool, no training crystal is the same.
      values: [n] predictions, NaN where there is none.
      failures: by index, those of one crystal in the order of the stages.
      num_predicted: crystals with a prediction.
      success: reading -> SR5, SR10, SR15, see `success_rates`.
      property_mean: mean prediction, of all crystals that have one.
      property_median: their median; far from any training crystal the networks may predict
        millions of eV, which a mean does not survive.
      useful: distinct crystals that are valid, reach SR5 and are novel.
      below_training_range: of the crystals with a prediction, those below every label of the
        training split.
      oracle_error: mean absolute error of the predictions for the test split.
      lowest_plausible: smallest label of the training split minus `PLAUSIBLE_ERRORS` times
        `oracle_error`.
      implausibly_low: of the crystals with a prediction, those below `lowest_plausible`: they fool
        the oracle, and count as failures in `success` and `useful`.
      distances: to the test split, see `distributions.distances`.
      num_test_predicted: test crystals with a prediction; the others are missing from the
        property's distance.
      coverage: of the test split; None also where it was not asked for.
      num_test_fingerprinted: test crystals with a fingerprint; the others count as not recalled.
    """

    num: int
    num_read: int
    num_train: int | None
    num_test: int | None
    validity: Mapping[str, Rate]
    valid: np.ndarray
    diversity: Mapping[str, Rate]
    unique: np.ndarray
    novel: np.ndarray | None
    values: np.ndarray
    failures: Sequence[Failure] = ()
    num_predicted: int | None = None
    success: Mapping[str, Mapping[str, Rate]] = dataclasses.field(default_factory=dict)
    property_mean: SampleStatistic | None = None
    property_median: SampleStatistic | None = None
    useful: Rate | None = None
    below_training_range: Rate | None = None
    oracle_error: float | None = None
    lowest_plausible: float | None = None
    implausibly_low: Rate | None = None
    distances: Mapping[str, SampleStatistic] = dataclasses.field(default_factory=dict)
    num_test_predicted: int | None = None
    coverage: Coverage | None = None
    num_test_fingerprinted: int | None = None


def evaluate(
    inputs: Inputs,
    spec: DatasetSpec | None = None,
    train: CrystalDataset | None = None,
    test: CrystalDataset | None = None,
    predict: Predict | None = None,
    make_fingerprints: MakeFingerprints | None = None,
    progress: bool = True,
) -> Report:
    """Scores a set of crystals.

    CDVAE also calls a crystal invalid when matminer's fingerprint of it fails; here that counts for
    coverage alone, so that validity does not depend on an optional package.

    Args:
      inputs: the crystals.
      spec: the known data set, for its thresholds; needed with `predict` or `test`.
      train: its training split, for novelty; its first property is the data set's own.
      test: its test split, for the distances, the oracle's error and coverage.
      predict: the oracle of its property.
      make_fingerprints: asks for coverage.
      progress: show progress bars on stderr.
    """
    checked = check(inputs)
    compared = diversity(inputs.structures, train, progress)
    report = Report(
        num=len(inputs.structures),
        num_read=len(checked.present),
        num_train=None if train is None else len(train),
        num_test=None if test is None else len(test),
        validity=checked.rates,
        valid=checked.valid,
        diversity=compared.rates,
        unique=compared.is_first,
        novel=compared.novel,
        values=np.full(len(inputs.structures), np.nan),
    )
    stages = {**checked.failures, "property": {}, "comparison": compared.failures}
    test_structures = [] if test is None else dataset_structures(test)
    test_values = np.full(len(test_structures), np.nan)

    if predict is not None and spec is not None:
        predictions = predict(checked.crystals)
        report.values = checked.scatter(predictions.values)
        stages["property"] = {checked.present[i]: text for i, text in predictions.failures.items()}
        predicted = finite(report.values)
        report.num_predicted = len(predicted)
        report.property_mean = bootstrap(np.mean, predicted)
        report.property_median = bootstrap(np.median, predicted)
        implausible = np.zeros(report.num, dtype=bool)
        if test is not None:
            test_values = predict(test_structures).values
            report.num_test_predicted = len(finite(test_values))
            errors = finite(np.abs(test_values - test.properties[:, 0]))
            report.oracle_error = float(np.mean(errors)) if len(errors) else None
        if train is not None:
            lowest = float(train.properties[:, 0].min())
            report.below_training_range = rate(predicted < lowest)
            if report.oracle_error is not None:
                report.lowest_plausible = lowest - PLAUSIBLE_ERRORS * report.oracle_error
                implausible = report.values < report.lowest_plausible  # False for NaN
            report.implausibly_low = Rate(int(np.sum(implausible)), len(predicted))
            stages["property"] |= dict.fromkeys(np.flatnonzero(implausible).tolist(), IMPLAUSIBLE)
        believed = np.where(implausible, np.nan, report.values)
        report.success = success_rates(believed, report.valid, spec.success_thresholds)
        if report.novel is not None:
            reached = reaches(believed, spec.success_thresholds[0])
            report.useful = compared.distinct(report.valid & report.novel & reached)
    if test is not None:
        drawn = draw_valid(report.valid)
        crystals = [s for i in drawn if (s := inputs.structures[i]) is not None]
        report.distances = distances(crystals, report.values[drawn], test_structures, test_values)
    if test is not None and spec is not None and make_fingerprints is not None:
        made = make_fingerprints([*inputs.structures, *test_structures])
        found = [item if isinstance(item, Fingerprint) else None for item in made]
        of_test = found[report.num :]
        report.coverage = coverage(found[: report.num], of_test, CUTOFFS[spec.name])
        report.num_test_fingerprinted = len(of_test) - of_test.count(None)
        stages["fingerprint"] = {
            i: text for i in checked.present if isinstance(text := made[i], str)
        }
    report.failures = list_failures(inputs.names, stages)
    return report
