"""Padded sizes, batch sizes, and the order in which buckets of crystals take turns."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Each bucket costs one compilation; with four, padding is under a quarter of the atom pairs when
# sizes are spread evenly over 1 to 24 atoms.
MAX_BUCKETS = 4
# Fewer crystals are trained sooner with more padding than another size is compiled.
_CRYSTALS_PER_BUCKET = 500


def bucket_sizes(num_atoms: np.ndarray, max_buckets: int = MAX_BUCKETS) -> tuple[int, ...]:
    """Padded sizes, at most `max_buckets`, that waste the fewest atom pairs, ascending.

    Exact, by dynamic programming over the sizes that occur.

    Args:
      num_atoms: [M] atoms of each crystal.
      max_buckets: the most sizes to return.
    """
    sizes, counts = np.unique(num_atoms, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[j] = (pairs computed, sizes) for the crystals of the j smallest sizes.
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())] + [
        (int(sizes[j] ** 2 * below[j + 1]), (int(sizes[j]),)) for j in range(len(sizes))
    ]
    for _ in range(max_buckets - 1):
        best = [best[0]] + [
            min(
                (
                    best[i][0] + int(sizes[j] ** 2 * (below[j + 1] - below[i])),
                    (*best[i][1], int(sizes[j])),
                )
                for i in range(j + 1)
            )
            for j in range(len(sizes))
        ]
    return best[-1][1]


def batch_sizes(sizes: Sequence[int], counts: Sequence[int], batch_size: int) -> tuple[int, ...]:
    """Crystals per step for each padded size, so that every step costs about the same.

    A crystal costs about N^1.5 (benchmarks/README.md). Over an epoch the steps take `batch_size`
    crystals on average.

    Args:
      sizes: padded size of each bucket.
      counts: crystals in each bucket.
      batch_size: crystals per step on average.
    """
    if len(sizes) == 1:
        return (batch_size,)
    cost = np.array(sizes, dtype=np.float64) ** 1.5
    mean_cost = np.average(cost, weights=counts)
    # Multiples of a power of two divide evenly among devices.
    unit = 2 ** max(0, int(np.log2(batch_size)) - 4)
    units = np.maximum(1, np.round(batch_size * mean_cost / cost / unit)).astype(int)
    return tuple((units * unit).tolist())


def choose_buckets(num_atoms: np.ndarray, batch_size: int) -> tuple[tuple[int, ...], ...]:
    """Padded sizes, and crystals per step of each, such that no step draws a crystal twice.

    Few crystals share fewer sizes than `MAX_BUCKETS`.

    Args:
      num_atoms: [M] atoms of each crystal.
      batch_size: crystals per step on average, if there are as many.
    """
    batch_size = min(batch_size, len(num_atoms))
    most = min(MAX_BUCKETS, max(1, len(num_atoms) // _CRYSTALS_PER_BUCKET))
    for max_buckets in range(most, 0, -1):
        sizes = bucket_sizes(num_atoms, max_buckets)
        counts = np.bincount(np.searchsorted(sizes, num_atoms), minlength=len(sizes))
        per_step = batch_sizes(sizes, counts.tolist(), batch_size)
        if all(per_step <= counts):
            break
    return sizes, per_step


class Draw(NamedTuple):
    """One group of steps: number `number` of its bucket, counted from 0."""

    bucket: int
    number: int


class Schedule:
    """Which bucket each group of steps takes its crystals from.

    An epoch is a shuffled list of buckets in proportion to their crystals; crystals of a bucket
    that do not fill a group carry over to its next epoch. Random access: no group depends on
    having drawn those before it.

    Args:
      counts: crystals of each bucket.
      per_group: crystals in a group of each bucket.
      seed: of the order.
    """

    def __init__(self, counts: Sequence[int], per_group: Sequence[int], seed: int) -> None:
        self._counts, self._per_group, self._seed = counts, per_group, seed

    def draw(self, group: int) -> Draw:
        """The bucket of a group, and the number of groups that this bucket has given before."""
        number = bisect.bisect(range(2**62), group, key=lambda n: sum(self._draws_before(n))) - 1
        first, last = self._draws_before(number), self._draws_before(number + 1)
        epoch = np.repeat(np.arange(len(first)), np.subtract(last, first))
        epoch = np.random.default_rng((self._seed, 0, number)).permutation(epoch)
        position = group - sum(first)
        bucket = int(epoch[position])
        return Draw(bucket, first[bucket] + int(np.sum(epoch[:position] == bucket)))

    def _draws_before(self, epoch: int) -> list[int]:
        """Groups that each bucket has given before an epoch."""
        return [
            epoch * count // size for count, size in zip(self._counts, self._per_group, strict=True)
        ]
