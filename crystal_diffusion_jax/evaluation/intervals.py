"""Rates and sample statistics with 95 % confidence intervals."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
# Percentiles at 2.5 % and 97.5 % then rest on 25 resamples each.
_NUM_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Rate:
    """k out of n.

    Attributes:
      k: successes.
      n: trials.
    """

    k: int
    n: int

    @property
    def value(self) -> float | None:
        """k / n, None for n = 0."""
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the underlying probability, None for n = 0.

        Reference: Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
        """
        if self.n == 0:
            return None
        low, high = stats.binomtest(self.k, self.n).proportion_ci(_CONFIDENCE, method="wilson")
        return float(low), float(high)


def rate(flags: Sequence[bool] | np.ndarray) -> Rate:
    """The share of True in n bools."""
    return Rate(int(np.count_nonzero(flags)), len(flags))


@dataclasses.dataclass(frozen=True)
class SampleStatistic:
    """A statistic of one or more samples.

    Attributes:
      value: the statistic, None if a sample is empty.
      interval: its 95 % interval, None if a sample has fewer than two members.
      sizes: members of each sample.
    """

    value: float | None
    interval: tuple[float, float] | None
    sizes: tuple[int, ...]


def bootstrap(statistic: Callable[..., float], *samples: np.ndarray) -> SampleStatistic:
    """A statistic of one or more independent samples, with its bootstrap interval.

    Of one sample, whose statistic is a mean or a median, the percentile interval. Of several, whose
    statistic is a distance, it is shifted by the bias of the bootstrap (mean of the resampled
    statistics minus the statistic) and cut at 0: resampling increases the distance of two samples,
    so that the plain interval of a small distance would not even contain it. The seed is fixed.

    Args:
      statistic: takes the samples, each [n_i].
      samples: one-dimensional, finite.
    """
    sizes = tuple(len(sample) for sample in samples)
    if min(sizes) == 0:
        return SampleStatistic(None, None, sizes)
    value = float(statistic(*samples))
    if min(sizes) == 1:
        return SampleStatistic(value, None, sizes)
    result = stats.bootstrap(
        samples,
        statistic,
        n_resamples=_NUM_RESAMPLES,
        vectorized=False,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    if len(samples) > 1:
        bias = np.mean(result.bootstrap_distribution) - value
        low, high = max(low - bias, 0.0), high - bias
    return SampleStatistic(value, (float(low), float(high)), sizes)
