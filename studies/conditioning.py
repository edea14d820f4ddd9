"""How well a model does what it is asked: predicted against requested property, value by value."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came out for one requested value; lengths are in the property's unit.

    Attributes:
      target: the requested value.
      num: crystals asked for.
      predicted: those with a prediction; the others were rejected or could not be judged.
      mean_error: mean |predicted - target|, None without a prediction.
      quartiles: 25th, 50th and 75th percentile of the predictions, None likewise.
    """

    target: float
    num: int
    predicted: int
    mean_error: float | None
    quartiles: tuple[float, float, float] | None


def answer(target: float, values: np.ndarray) -> Answer:
    """Sums up the crystals of one requested value.

    Args:
      target: the value.
      values: [n] predictions, NaN where there is none.
    """
    found = values[np.isfinite(values)]
    if len(found) == 0:
        return Answer(target, len(values), 0, None, None)
    lower, median, upper = np.percentile(found, [25, 50, 75]).tolist()
    error = float(np.mean(np.abs(found - target)))
    return Answer(target, len(values), len(found), error, (lower, median, upper))


def absolute_errors(targets: Sequence[float], values: Sequence[np.ndarray]) -> np.ndarray:
    """|predicted - target| of every crystal that has a prediction, all targets together.

    Args:
      targets: requested values.
      values: [n] predictions for each of them, NaN where there is none.
    """
    errors = [np.abs(row - target) for target, row in zip(targets, values, strict=True)]
    pooled = np.concatenate([np.zeros(0), *errors])
    return pooled[np.isfinite(pooled)]


def error_if_ignored(targets: Sequence[float], quantiles: Sequence[float]) -> float:
    """Mean |y - target| of training crystals drawn without regard to the target.

    That is what a model gets which has learned the data set but does not listen.

    Args:
      targets: requested values.
      quantiles: [Q] of the training set, in equal steps of probability from 0 to 1.
    """
    distances = np.abs(np.subtract.outer(np.array(quantiles), np.array(targets)))
    # Between two quantiles the probability is spread evenly.
    return float(np.mean((distances[:-1] + distances[1:]) / 2))


def targets_across(
    ends: tuple[float, float], quantiles: Sequence[float] | None, num: int
) -> list[float]:
    """Requested values in equal steps over the bulk of the training set.

    Args:
      ends: smallest and largest value of the training set.
      quantiles: its 101 quantiles, whose 1st and 99th percentile are taken instead, as hardly any
        crystal is beyond them; None where they are not known.
      num: how many, at least 2.
    """
    low, high = ends if quantiles is None else (quantiles[1], quantiles[-2])
    return [float(value) for value in np.linspace(low, high, num)]
