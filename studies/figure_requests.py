"""What is asked of one model for its three pictures, and the numbers that follow."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.request import Solver
from studies import conditioning
from studies.conditioning import Answer
from studies.measurement import Measurement, Request, find, values_of


@dataclasses.dataclass(frozen=True)
class Training:
    """The property in the training set.

    Attributes:
      ends: smallest and largest value.
      mean: of all crystals.
      quantiles: 101 of them, None where they are not known.
    """

    ends: tuple[float, float]
    mean: float
    quantiles: tuple[float, ...] | None


def training_of(statistics: DatasetStatistics, spec: DatasetSpec) -> Training:
    """What a model remembers of the property that its judge predicts."""
    index = statistics.property_names.index(spec.property_name)
    known = statistics.property_quantiles
    return Training(
        ends=(float(statistics.property_min[index]), float(statistics.property_max[index])),
        mean=float(statistics.property_mean[index]),
        quantiles=known[index] if known else None,
    )


@dataclasses.dataclass(frozen=True)
class FigureRequests:
    """The sets of crystals for the three pictures; some are in two of them.

    Attributes:
      histogram: "minimum", "median" (or "mean") and "maximum" of the training set -> request.
      guided: at the minimum, one for each weight of guidance.
      across: one for each target, without guidance.
    """

    histogram: Mapping[str, Request]
    guided: Sequence[Request]
    across: Sequence[Request]

    @property
    def all(self) -> list[Request]:
        """Each once."""
        return list(dict.fromkeys([*self.histogram.values(), *self.guided, *self.across]))


def figure_requests(
    training: Training,
    weights_sha256: str,
    *,
    num: int,
    targets: int,
    weights: Sequence[float],
    solver: Solver,
    seed: int,
    charge_balance: bool = False,
) -> FigureRequests:
    """The requests of one model.

    Args:
      training: the property in its training set.
      weights_sha256: of the model.
      num: crystals of each set.
      targets: requested values, which share `num` crystals.
      weights: of guidance.
      solver: of the predictor.
      seed: of all noise.
      charge_balance: of the species.
    """

    def ask(target: float, guidance: float = 0.0, count: int = num, offset: int = 0) -> Request:
        return Request(
            weights_sha256, target, guidance, count, seed + offset, solver, charge_balance
        )

    low, high = training.ends
    if training.quantiles is None:
        middle = {"mean": training.mean}
    else:
        middle = {"median": training.quantiles[len(training.quantiles) // 2]}
    across = conditioning.targets_across(training.ends, training.quantiles, targets)
    return FigureRequests(
        histogram={
            name: ask(value) for name, value in {"minimum": low, **middle, "maximum": high}.items()
        },
        guided=[ask(low, weight) for weight in weights],
        # Noise of its own for each target, so that their errors are independent.
        across=[
            ask(target, count=num // targets, offset=place) for place, target in enumerate(across)
        ],
    )


def answers(measurements: Sequence[Measurement]) -> list[Answer]:
    """What came out for each target."""
    return [
        conditioning.answer(each["request"]["target"], values_of(each)) for each in measurements
    ]


def summary(
    requests: FigureRequests, measurements: Sequence[Measurement], training: Training
) -> dict[str, Any]:
    """The numbers of the pictures, as far as they are measured.

    Returns:
      property_histogram: name -> counts and quartiles; guidance: counts for each weight;
      conditioning, when all targets are measured: answer for each of them, mean and median
      |predicted - requested| of all crystals, and the mean for crystals of the training set drawn
      without regard to the target (None where its quantiles are not known).
    """
    found = {request: find(measurements, request) for request in requests.all}
    content: dict[str, Any] = {
        "property_histogram": {
            name: counts(each) | dataclasses.asdict(answers([each])[0])
            for name, request in requests.histogram.items()
            if (each := found[request])
        },
        "guidance": [counts(each) for request in requests.guided if (each := found[request])],
    }
    across = [each for request in requests.across if (each := found[request])]
    if len(across) == len(requests.across):
        targets = [request.target for request in requests.across]
        errors = conditioning.absolute_errors(targets, [values_of(each) for each in across])
        ignored = None
        if training.quantiles is not None:
            ignored = conditioning.error_if_ignored(targets, training.quantiles)
        content["conditioning"] = {
            "num": sum(request.num for request in requests.across),
            "predicted": len(errors),
            "rejected": sum(sum(each["rejected"].values()) for each in across),
            "unpredictable": sum(each["unpredictable"] for each in across),
            "mean_absolute_error": float(np.mean(errors)) if len(errors) else None,
            "median_absolute_error": float(np.median(errors)) if len(errors) else None,
            "mean_absolute_error_if_ignored": ignored,
            "targets": [dataclasses.asdict(each) for each in answers(across)],
        }
    return content


def counts(measurement: Measurement) -> dict[str, Any]:
    """A measurement without the value of each crystal."""
    request = measurement["request"]
    kept = ("rejected", "unpredictable", "valid", "compositions", "below_training_range", "success")
    return {
        **{name: request[name] for name in ("target", "guidance", "num")},
        **{name: measurement[name] for name in kept},
    }
