"""CrystalDataset -> padded batches by size; a pure function of (seed, step)."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.errors import UserError

# Each bucket costs one compilation; with four, padding is under a quarter of the atom pairs when
# sizes are spread evenly over 1 to 24 atoms.
MAX_BUCKETS = 4


@flax.struct.dataclass
class Batch:
    """B crystals ready for the network, numpy arrays.

    Attributes:
      crystals: lattice in units of its scale, frac_coords, species, mask.
      properties: [B, P] float32 z-scores.
      weight: [B] float32, 0 for a crystal that only fills the batch; 1 for the others, or, in
        training, their number in relation to the mean number of crystals per step.
    """

    crystals: Crystals
    properties: np.ndarray
    weight: np.ndarray


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
    cost = np.array(sizes, dtype=np.float64) ** 1.5
    mean_cost = np.average(cost, weights=counts)
    # Powers of two are easily shared by devices.
    unit = 2 ** max(0, int(np.log2(batch_size)) - 4)
    units = np.maximum(1, np.round(batch_size * mean_cost / cost / unit)).astype(int)
    return tuple((units * unit).tolist()) if len(sizes) > 1 else (batch_size,)


class Batches:
    """Endless shuffled batches, in groups of equal shape.

    Group g follows from the data, the seed and g alone. An epoch is a shuffled list of buckets in
    proportion to their crystals; each bucket walks through permutations of its own crystals, so
    that every crystal is seen equally often and a group has one padded size.

    Attributes:
      sizes: padded size of each bucket.
      batch_sizes: crystals per step of each bucket.
    """

    def __init__(
        self,
        dataset: CrystalDataset,
        statistics: DatasetStatistics,
        batch_size: int,
        seed: int,
        steps_per_group: int = 1,
    ) -> None:
        self._arrays = _Padded(dataset, statistics)
        self._seed, self._steps, self._batch_size = seed, steps_per_group, batch_size
        self.sizes = bucket_sizes(dataset.num_atoms)
        bucket = np.searchsorted(self.sizes, dataset.num_atoms)
        self._rows = [np.flatnonzero(bucket == index) for index in range(len(self.sizes))]
        self.batch_sizes = batch_sizes(self.sizes, [len(rows) for rows in self._rows], batch_size)
        self._order = functools.lru_cache(maxsize=2 * len(self.sizes))(self._permutation)

    def group(self, index: int, multiple: int = 1) -> Batch:
        """The batches of one group of steps, counted from 0; all arrays have a leading axis.

        Args:
          index: number of the group.
          multiple: fill each batch up to a multiple of this with crystals of weight 0.
        """
        bucket, draw = self._locate(index)
        size, count = self.batch_sizes[bucket], len(self._rows[bucket])
        positions = np.arange(draw * self._steps * size, (draw + 1) * self._steps * size)
        rows = np.empty(len(positions), dtype=np.int64)
        for turn in np.unique(positions // count):
            here = positions // count == turn
            rows[here] = self._rows[bucket][self._order(bucket, int(turn))[positions[here] % count]]
        # Steps of few large crystals count as much less as they come more often.
        weight = size / self._batch_size
        steps = [
            self._arrays.batch(fill(one, multiple), self.sizes[bucket], size, weight)
            for one in rows.reshape(self._steps, size)
        ]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *steps)

    def _permutation(self, bucket: int, turn: int) -> np.ndarray:
        count = len(self._rows[bucket])
        return np.random.default_rng((self._seed, 1, bucket, turn)).permutation(count)

    def _draws_before(self, epoch: int) -> np.ndarray:
        """Groups that each bucket has given before an epoch starts."""
        return np.array(
            [
                epoch * len(rows) // (size * self._steps)
                for rows, size in zip(self._rows, self.batch_sizes, strict=True)
            ]
        )

    def _locate(self, index: int) -> tuple[int, int]:
        """Bucket and number of the bucket's draw that a group falls on."""
        low, high = 0, 1
        while self._draws_before(high).sum() <= index:
            high *= 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if self._draws_before(middle).sum() <= index else (low, middle)
            )
        first = self._draws_before(low)
        schedule = np.repeat(np.arange(len(self.sizes)), self._draws_before(low + 1) - first)
        schedule = np.random.default_rng((self._seed, 0, low)).permutation(schedule)
        position = index - int(first.sum())
        bucket = int(schedule[position])
        return bucket, int(first[bucket] + np.sum(schedule[:position] == bucket))


def fill(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats the first row until the length is a multiple of `multiple`."""
    return np.concatenate([rows, np.full(-len(rows) % multiple, rows[0])])


def evaluation_batches(
    dataset: CrystalDataset, statistics: DatasetStatistics, batch_size: int
) -> list[Batch]:
    """Every crystal once, in order, by padded size; the last batch of a size is filled up.

    Raises:
      UserError: an element that the training data never had.
    """
    arrays = _Padded(dataset, statistics)
    sizes = bucket_sizes(dataset.num_atoms)
    bucket = np.searchsorted(sizes, dataset.num_atoms)
    batches = []
    for index, size in enumerate(sizes):
        rows = np.flatnonzero(bucket == index)
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            batches.append(arrays.batch(fill(chunk, batch_size), size, len(chunk), 1.0))
    return batches


class _Padded:
    """The data set as float32 arrays padded to its largest crystal, for quick gathering."""

    def __init__(self, dataset: CrystalDataset, statistics: DatasetStatistics) -> None:
        count, largest = len(dataset), int(dataset.num_atoms.max())
        self._mask = np.arange(largest) < dataset.num_atoms[:, None]
        vocabulary = np.array(statistics.vocabulary)
        species = np.searchsorted(vocabulary, dataset.atomic_numbers)
        known = vocabulary[np.minimum(species, len(vocabulary) - 1)] == dataset.atomic_numbers
        if not known.all():
            unknown = np.unique(dataset.atomic_numbers[~known]).tolist()
            raise UserError(
                f"the data hold elements (atomic numbers {unknown}) that the training split never "
                "has; move such crystals into the training split or drop them"
            )
        self._species = np.zeros((count, largest), dtype=np.int32)
        self._species[self._mask] = species
        frac_coords = dataset.frac_coords.astype(np.float32)
        frac_coords[frac_coords >= 1.0] = 0.0  # rounding to float32 can reach 1
        self._frac_coords = np.zeros((count, largest, 3), dtype=np.float32)
        self._frac_coords[self._mask] = frac_coords
        unit = statistics.lattice_unit(dataset.num_atoms)
        self._lattice = (dataset.lattice / unit[:, None, None]).astype(np.float32)
        self._properties = (
            (dataset.properties - np.array(statistics.property_mean))
            / np.array(statistics.property_std)
        ).astype(np.float32)

    def batch(self, rows: np.ndarray, size: int, num_real: int, weight: float) -> Batch:
        """Crystals of the given rows padded to `size` atoms; only the first `num_real` count."""
        # Numpy arrays until the training loop lays them on the devices.
        arrays: dict[str, Any] = {
            "lattice": self._lattice[rows],
            "frac_coords": self._frac_coords[rows, :size],
            "species": self._species[rows, :size],
            "mask": self._mask[rows, :size],
        }
        return Batch(
            crystals=Crystals(**arrays),
            properties=self._properties[rows],
            weight=np.where(np.arange(len(rows)) < num_real, weight, 0.0).astype(np.float32),
        )
