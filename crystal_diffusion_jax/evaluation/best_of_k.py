"""The best of k predictions, when each composition has n of them.

Which k of the n were made first is chance, so a score is its expectation over all choices of k,
exactly: the best of k is above x if none of the c predictions at or below x is among them, which
has the probability C(n - c, k) / C(n, k) (the estimator of pass@k, Chen et al., arXiv:2107.03374).
For k = 1 that is the mean over the predictions, for k = n the best of all.
"""

import math
from collections.abc import Sequence

import numpy as np


def best_of(pools: Sequence[np.ndarray], k: int, ranked: bool = False) -> np.ndarray:
    """[2, V] values that the smallest of k numbers of each pool takes, and their probabilities.

    Args:
      pools: arrays of displacements, infinite where nothing matches. k are taken from each, or all
        if it has fewer.
      k: at least 1.
      ranked: the order in a pool counts: the first k are taken.

    Returns:
      Finite values, ascending; the probabilities add up to that of any match.
    """
    drawn = [pool[:k] if ranked else pool for pool in pools]
    values = np.unique(np.concatenate([np.zeros(0), *drawn]))
    values = values[np.isfinite(values)]
    above = np.ones(len(values) + 1)  # probability that the smallest is above each, first above 0
    for pool in drawn:
        size = min(k, len(pool))
        counts = (pool[None, :] <= values[:, None]).sum(axis=1)
        total = math.comb(len(pool), size)
        above[1:] *= [math.comb(len(pool) - count, size) / total for count in counts.tolist()]
    return np.stack([values, -np.diff(above)])
