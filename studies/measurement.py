"""One request to a model, sampled and scored, and how well the predictions follow the request.

Measurements are kept in JSON files and found again by weights and arguments, so that an interrupted
command does not repeat them.
"""

import dataclasses
import datetime
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.api import Model
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.checks import check
from crystal_diffusion_jax.evaluation.report import Predict
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.reading import Inputs
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals
from crystal_diffusion_jax.trained_model import TrainedModel
from studies import records

# The arguments of `Model.sample` that determine the crystals: target (a value), num, seed, ...
Arguments = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Scores of the crystals of one request; rejected crystals count as failures.

    Attributes:
      weights_sha256: hash of the model's weights.
      arguments: what was requested.
      values: [num] predictions, None without one.
      rejected: reason -> number of crystals that the sampler rejected.
      unpredictable: number of crystals for which the oracle has no value.
      valid: number of crystals valid in structure and composition.
      compositions: number of unique compositions.
      below_training_range: number of crystals predicted below all training crystals.
      success: SR5, SR10, SR15 -> number of single valid crystals (`success_rates`).
      date: day of the measurement.
      versions: of the packages.
    """

    weights_sha256: str
    arguments: Arguments
    values: list[float | None]
    rejected: dict[str, int]
    unpredictable: int
    valid: int
    compositions: int
    below_training_range: int
    success: dict[str, int]
    date: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num(self) -> int:
        """Number of requested crystals."""
        return len(self.values)

    @property
    def predictions(self) -> np.ndarray:
        """[num] predictions, NaN without one."""
        return np.array(self.values, dtype=np.float64)

    @property
    def quartiles(self) -> tuple[float, float, float] | None:
        """25th, 50th and 75th percentile of the predictions, None without a prediction."""
        found = self.predictions[np.isfinite(self.predictions)]
        if len(found) == 0:
            return None
        lower, median, upper = np.percentile(found, [25, 50, 75]).tolist()
        return lower, median, upper

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers without the value of each crystal, ready for JSON."""
        errors = np.abs(self.predictions - self.arguments["target"])
        found = errors[np.isfinite(errors)]
        names = ("rejected", "unpredictable", "valid", "compositions", "below_training_range")
        return {
            **{name: self.arguments[name] for name in ("target", "guidance", "num")},
            **{name: getattr(self, name) for name in (*names, "success", "quartiles")},
            "predicted": len(found),
            "mean_error": float(np.mean(found)) if len(found) else None,
        }


@dataclasses.dataclass(frozen=True)
class Training:
    """The property in the training set.

    Attributes:
      ends: smallest and largest value.
      quantiles: 101 quantiles in equal steps of probability.
    """

    ends: tuple[float, float]
    quantiles: tuple[float, ...]


def training_of(statistics: DatasetStatistics, spec: DatasetSpec) -> Training:
    """What a model stores about the property that its oracle predicts."""
    index = statistics.property_names.index(spec.property_name)
    return Training(
        ends=(float(statistics.property_min[index]), float(statistics.property_max[index])),
        quantiles=statistics.property_quantiles[index],
    )


def dataset_of(trained: TrainedModel, name: str) -> DatasetSpec:
    """The data set whose oracle can score a model's crystals.

    Raises:
      UserError: there is no oracle for the model's property, or the model takes no request for it.
    """
    dataset = trained.config.data.name
    spec = KNOWN_DATASETS.get(dataset)
    if spec is None or spec.property_name not in trained.statistics.property_names:
        raise UserError(
            f"--model={name} was trained on {dataset!r}, for which there is no oracle; there is "
            f"one for {', '.join(KNOWN_DATASETS)}"
        )
    if trained.config.model.conditioning == "none":
        raise UserError(
            f"--model={name} was trained without a condition, so it takes no request; use another"
        )
    return spec


def find(
    measurements: Iterable[Measurement], weights_sha256: str, arguments: Arguments
) -> Measurement | None:
    """The measurement of a request, None if there is none."""
    wanted = (weights_sha256, arguments)
    return next((m for m in measurements if (m.weights_sha256, m.arguments) == wanted), None)


def oracle_of(spec: DatasetSpec) -> Predict:
    """The oracle of a data set; its weights are fetched now, before the work.

    Raises:
      UserError: they cannot be downloaded.
    """
    oracle = functools.partial(predict, oracle=spec.name, progress=False)
    oracle([])
    return oracle


def measure(
    model: Model,
    spec: DatasetSpec,
    arguments: Arguments,
    batch_size: int,
    oracle: Predict,
    where: str,
) -> Measurement:
    """Samples and scores the crystals of one request.

    Args:
      model: the model.
      spec: its data set.
      arguments: of `Model.sample`; the target is a value of the data set's own property.
      batch_size: most crystals at once.
      oracle: of `oracle_of`.
      where: beginning of each progress line.

    Raises:
      UserError: the model cannot meet the request.
    """
    asked = arguments | {
        "target": {spec.property_name: arguments["target"]},
        "batch_size": batch_size,
        "log": lambda line: records.log(f"{where}: {line}"),
    }
    lowest = model.properties[spec.property_name][0]
    measured = score(model.sample(**asked), arguments, spec, oracle, lowest)
    return dataclasses.replace(
        measured,
        weights_sha256=model.trained.weights_sha256,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"crystal_diffusion_jax": __version__, "jax": jax.__version__},
    )


def score(
    crystals: SampledCrystals,
    arguments: Arguments,
    spec: DatasetSpec,
    oracle: Predict,
    training_minimum: float,
) -> Measurement:
    """Scores one set of crystals.

    Args:
      crystals: the crystals.
      arguments: what was requested.
      spec: the data set, for its thresholds.
      oracle: predicts the property.
      training_minimum: smallest value of the property in the training set.
    """
    num = arguments["num"]
    structures = dict(zip(crystals.indices, crystals, strict=True))
    checked = check(
        Inputs(
            structures=[structures.get(index) for index in range(num)],
            names=[str(index) for index in range(num)],
            failures=dict(crystals.rejected),
        )
    )
    values = checked.scatter(oracle(checked.crystals).values)
    found = np.isfinite(values)
    rates = success_rates(values, checked.valid, spec.success_thresholds)["single_valid"]
    return Measurement(
        weights_sha256="",
        arguments=arguments,
        values=[value if np.isfinite(value) else None for value in values.tolist()],
        rejected=dict(Counter(crystals.rejected.values())),
        unpredictable=len(crystals) - int(np.sum(found)),
        valid=int(np.sum(checked.valid)),
        compositions=len({reduced_composition(each.atomic_numbers) for each in crystals}),
        below_training_range=int(np.sum(values[found] < training_minimum)),
        success={name: rate.k for name, rate in rates.items()},
    )


def conditioning_errors(measurements: Sequence[Measurement], training: Training) -> dict[str, Any]:
    """Mean and median |predicted - requested| over the crystals of all targets."""
    targets = [each.arguments["target"] for each in measurements]
    errors = np.concatenate(
        [
            np.abs(each.predictions - target)
            for target, each in zip(targets, measurements, strict=True)
        ]
    )
    found = errors[np.isfinite(errors)]
    return {
        "num": len(errors),
        "predicted": len(found),
        "mean_absolute_error": float(np.mean(found)) if len(found) else None,
        "median_absolute_error": float(np.median(found)) if len(found) else None,
        "mean_absolute_error_if_ignored": error_if_ignored(targets, training.quantiles),
    }


def error_if_ignored(targets: Sequence[float], quantiles: Sequence[float]) -> float:
    """Mean |y - target| of training crystals drawn without regard to the target.

    This is the error of a model that has learned the data set but ignores the request.

    Args:
      targets: requested values.
      quantiles: [Q] quantiles of the training set, in equal steps of probability from 0 to 1.
    """
    distances = np.abs(np.subtract.outer(np.array(quantiles), np.array(targets)))
    # Between two quantiles the probability is uniform.
    return float(np.mean((distances[:-1] + distances[1:]) / 2))
