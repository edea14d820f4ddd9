"""All scores of a set of generated crystals that its data set and oracle allow."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.checks import Failure, check, list_failures
from crystal_diffusion_jax.evaluation.coverage import CUTOFFS, Coverage, Fingerprint, coverage
from crystal_diffusion_jax.evaluation.distributions import distances, draw_valid, finite
from crystal_diffusion_jax.evaluation.diversity import (
    Diversity,
    dataset_structures,
    diversity,
)
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic, bootstrap, rate
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.structures.reading import Inputs

Predict = Callable[[Sequence[Structure]], Predictions]
# A text is the reason why a crystal has no fingerprint.
MakeFingerprints = Callable[[Sequence[Structure | None]], Sequence[Fingerprint | str]]


@dataclasses.dataclass
class Report:
    """Scores of n crystals; rates are out of all n of them unless stated otherwise.

    Scores that need the oracle, the training split or the test split are None, or empty mappings,
    without it. All but the first three attributes are in the JSON file of `summary.to_json`.

    Attributes:
      valid: [n] bool, valid in structure and composition.
      compared: the crystals beside each other and beside the training split.
      values: [n] predictions, NaN where there is none.
      counts: "asked_for" (n), "read", "predicted", "outside_training", those in "train" and "test",
        "test_predicted" (the others are missing from the property's distance) and
        "test_fingerprinted" (the others count as not recalled).
      success_rate: "single", "single_valid", "best_of_10" -> SR5, SR10, SR15; see `success_rates`.
      validity: "structure", "composition", "both".
      diversity: "unique", "unique_compositions"; with a training split "novel" and
        "novel_compositions".
      volume: with a training split, see `Diversity.volume`.
      useful: unique crystals that are valid, reach SR5 and are novel.
      distances: "density", "num_elements", "property": Wasserstein, to the test split.
      predictions: "mean" and "median" of all predictions; out of the crystals with a prediction,
        those "below_training_range", i.e. below every training label; out of those that could be
        read, those "outside_training", which have no prediction because the oracle was never
        trained on such, see `oracles.domain`, and fail in `success_rate` and `useful`.
      oracle: "error", its mean absolute error on the test split.
      coverage: of the test split; None unless requested.
      failures: by index, those of one crystal in the order of the stages.
    """

    valid: np.ndarray
    compared: Diversity
    values: np.ndarray
    counts: dict[str, int | None]
    success_rate: Mapping[str, Mapping[str, Rate]]
    validity: Mapping[str, Rate]
    diversity: Mapping[str, Rate]
    volume: Mapping[str, SampleStatistic | Rate]
    useful: Rate | None
    distances: Mapping[str, SampleStatistic]
    predictions: dict[str, SampleStatistic | Rate | None]
    oracle: dict[str, float | None]
    coverage: Coverage | None
    failures: Sequence[Failure]


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
      make_fingerprints: requests coverage.
      progress: show progress bars on stderr.
    """
    checked = check(inputs)
    compared = diversity(inputs.structures, train, progress)
    num = len(inputs.structures)
    report = Report(
        valid=checked.valid,
        compared=compared,
        values=np.full(num, np.nan),
        counts={
            "asked_for": num,
            "read": len(checked.present),
            "predicted": None,
            "outside_training": None,
            "train": None if train is None else len(train),
            "test": None if test is None else len(test),
            "test_predicted": None,
            "test_fingerprinted": None,
        },
        success_rate={},
        validity=checked.rates,
        diversity=compared.rates,
        volume={} if train is None else compared.volume,
        useful=None,
        distances={},
        predictions={},
        oracle={"error": None},
        coverage=None,
        failures=(),
    )
    stages = {**checked.failures, "property": {}, "comparison": compared.failures}
    test_structures = [] if test is None else dataset_structures(test)
    test_values = np.full(len(test_structures), np.nan)

    if predict is not None and spec is not None:
        predictions = predict(checked.crystals)
        report.values = checked.scatter(predictions.values)
        stages["property"] = {checked.present[i]: text for i, text in predictions.failures.items()}
        predicted = finite(report.values)
        report.counts["predicted"] = len(predicted)
        report.predictions = {
            "mean": bootstrap(np.mean, predicted),
            "median": bootstrap(np.median, predicted),
        }
        if test is not None:
            test_values = predict(test_structures).values
            report.counts["test_predicted"] = len(finite(test_values))
            errors = finite(np.abs(test_values - test.properties[:, 0]))
            report.oracle["error"] = float(np.mean(errors)) if len(errors) else None
        if train is not None:
            lowest = float(train.properties[:, 0].min())
            report.predictions["below_training_range"] = rate(predicted < lowest)
        outside = [text.startswith(OUTSIDE) for text in predictions.failures.values()]
        report.counts["outside_training"] = sum(outside)
        report.predictions["outside_training"] = Rate(sum(outside), len(checked.crystals))
        report.success_rate = success_rates(report.values, report.valid, spec.success_thresholds)
        if compared.novel is not None:
            reached = report.values <= spec.success_thresholds[0]  # False for NaN
            report.useful = compared.unique_among(report.valid & compared.novel & reached)
    if test is not None:
        drawn = draw_valid(report.valid)
        crystals = [s for i in drawn if (s := inputs.structures[i]) is not None]
        report.distances = distances(crystals, report.values[drawn], test_structures, test_values)
    if test is not None and spec is not None and make_fingerprints is not None:
        made = make_fingerprints([*inputs.structures, *test_structures])
        found = [item if isinstance(item, Fingerprint) else None for item in made]
        of_test = found[num:]
        report.coverage = coverage(found[:num], of_test, CUTOFFS[spec.name])
        report.counts["test_fingerprinted"] = len(of_test) - of_test.count(None)
        stages["fingerprint"] = {
            i: text for i in checked.present if isinstance(text := made[i], str)
        }
    report.failures = list_failures(inputs.names, stages)
    return report
