"""Shares and sample statistics with 95 % intervals."""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
# Percentiles at 2.5 % and 97.5 % then rest on 25 resamples each.
_NUM_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Rate:
    """k out of n.

    Attributes:
      k: how many.
      n: out of how many.
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


def rate(flags: np.ndarray) -> Rate:
    """The share of True in [n] bool."""
    return Rate(int(np.count_nonzero(flags)), len(flags))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A statistic of samples.

    Attributes:
      value: the statistic, None where there are no samples.
      interval: its 95 % interval, None where a sample has fewer than two members.
      sizes: members of each sample.
    """

    value: float | None
    interval: tuple[float, float] | None
    sizes: tuple[int, ...]


def bootstrap(statistic: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """A statistic of one or more independent samples, with its bootstrap interval.

    It is the percentile interval, moved by the bias of the bootstrap (mean of the resampled
    statistics minus the statistic): resampling makes the distance of two samples larger, and the
    plain interval of a small distance would not even contain it. The same samples give the same
    interval.

    Args:
      statistic: takes the samples, each [n_i].
      samples: one-dimensional, finite.
    """
    sizes = tuple(len(sample) for sample in samples)
    if min(sizes) == 0:
        return Estimate(None, None, sizes)
    value = float(statistic(*samples))
    if min(sizes) == 1:
        return Estimate(value, None, sizes)
    result = stats.bootstrap(
        samples,
        statistic,
        n_resamples=_NUM_RESAMPLES,
        vectorized=False,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    bias = float(np.mean(result.bootstrap_distribution)) - value
    low, high = np.array(result.confidence_interval) - bias
    return Estimate(value, (float(low), float(high)), sizes)
