"""CrystalDataset -> padded batches by size; a pure function of (seed, step)."""

import functools
from typing import Any, NamedTuple

import numpy as np

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.data.buckets import Schedule, batch_sizes, bucket_sizes
from crystal_diffusion_jax.errors import UserError

# The share that SR5 takes of the lowest crystals, here of both ends.
_EXTREME_SHARE = 0.05


class Batch(NamedTuple):
    """B crystals ready for the network, numpy arrays.

    Attributes:
      crystals: lattice in units of its scale, frac_coords, species, mask.
      properties: [B, P] float32 z-scores.
      weight: [B] float32, 0 for a crystal that only fills the batch; 1 for the others, or, in
        training, their number in relation to the mean number of crystals per step.
    """

    crystals: Crystals
    properties: Any  # numpy in the data layer, jax after it
    weight: Any


class Batches:
    """Endless shuffled batches, in groups of equal shape.

    Group g follows from the data, the seed and g alone. An epoch is a shuffled list of buckets in
    proportion to their crystals; each bucket walks through permutations of its own crystals, so
    that every crystal is seen equally often (with `repeats`, so many times as often) and a group
    has one padded size.

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
        repeats: np.ndarray | None = None,
    ) -> None:
        """Sorts the crystals into buckets.

        Args:
          dataset: M crystals.
          statistics: of the training data.
          batch_size: crystals per step on average.
          seed: of the order.
          steps_per_group: steps in a group.
          repeats: [M] int, times that each crystal comes in an epoch; None: once.

        Raises:
          UserError: an element that the training data never had.
        """
        self._crystals = PaddedCrystals(dataset, statistics, int(dataset.num_atoms.max()))
        self._seed, self._steps, self._batch_size = seed, steps_per_group, batch_size
        self.sizes = bucket_sizes(dataset.num_atoms)
        bucket = np.searchsorted(self.sizes, dataset.num_atoms)
        rows = np.repeat(np.arange(len(dataset)), 1 if repeats is None else repeats)
        self._rows = [rows[bucket[rows] == index] for index in range(len(self.sizes))]
        counts = [len(rows) for rows in self._rows]
        self.batch_sizes = batch_sizes(self.sizes, counts, batch_size)
        per_group = [size * steps_per_group for size in self.batch_sizes]
        self._schedule = Schedule(counts, per_group, seed)
        self._order = functools.lru_cache(maxsize=2 * len(self.sizes))(self._permutation)

    def group(self, index: int, multiple: int = 1, part: range | None = None) -> Batch:
        """The batches of one group of steps, counted from 0; all arrays have a leading axis.

        Args:
          index: number of the group.
          multiple: fill each batch up to a multiple of this with crystals of weight 0.
          part: which of the `multiple` equal parts of each batch to gather; None: all.
        """
        bucket, draw = self._schedule.draw(index)
        size, count = self.batch_sizes[bucket], len(self._rows[bucket])
        positions = np.arange(draw * self._steps * size, (draw + 1) * self._steps * size)
        rows = np.empty(len(positions), dtype=np.int64)
        for turn in np.unique(positions // count):
            here = positions // count == turn
            rows[here] = self._rows[bucket][self._order(bucket, int(turn))[positions[here] % count]]
        # Steps of few large crystals count as much less as they come more often.
        weight = np.full((self._steps, size), size / self._batch_size)
        shared = share(rows.reshape(self._steps, size), weight, multiple, part)
        return self._crystals.batch(*shared, self.sizes[bucket])

    def _permutation(self, bucket: int, turn: int) -> np.ndarray:
        count = len(self._rows[bucket])
        return np.random.default_rng((self._seed, 1, bucket, turn)).permutation(count)


def tail_oversampling(properties: np.ndarray, times: int) -> np.ndarray:
    """[M] int: `times` for crystals with a property in the lowest or highest 5 %, 1 for the others.

    Args:
      properties: [M, P]; a value that more than 5 % of the crystals share is none of its extremes.
      times: at least 1.
    """
    low, high = np.quantile(properties, (_EXTREME_SHARE, 1 - _EXTREME_SHARE), axis=0)
    extreme = (properties < low) | (properties > high)
    return np.where(extreme.any(axis=1), times, 1)


def share(
    rows: np.ndarray, weight: np.ndarray, multiple: int, part: range | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fills batches of rows up to a multiple of `multiple` and takes one process's columns.

    Args:
      rows: [..., B] which crystals; the first one of each batch fills it up.
      weight: [..., B]; 0 where filled up.
      multiple: equal parts to cut each batch into.
      part: the parts to return; None: all.
    """
    missing = -rows.shape[-1] % multiple
    rows = np.concatenate([rows, np.repeat(rows[..., :1], missing, axis=-1)], axis=-1)
    weight = np.concatenate([weight, np.zeros((*weight.shape[:-1], missing))], axis=-1)
    if part is not None:
        width = rows.shape[-1] // multiple
        columns = slice(part.start * width, part.stop * width)
        rows, weight = rows[..., columns], weight[..., columns]
    return rows, weight


def evaluation_batches(
    dataset: CrystalDataset,
    statistics: DatasetStatistics,
    batch_size: int,
    multiple: int = 1,
    part: range | None = None,
) -> list[Batch]:
    """Every crystal once, in order, by padded size; the last batch of a size is filled up.

    Args:
      dataset: the crystals.
      statistics: of the training data.
      batch_size: crystals in each batch, a multiple of `multiple`.
      multiple: equal parts that each batch is cut into.
      part: which of them to return; None: all.

    Raises:
      UserError: an element that the training data never had.
    """
    crystals = PaddedCrystals(dataset, statistics, int(dataset.num_atoms.max()))
    sizes = bucket_sizes(dataset.num_atoms)
    bucket = np.searchsorted(sizes, dataset.num_atoms)
    batches = []
    for index, size in enumerate(sizes):
        rows = np.flatnonzero(bucket == index)
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            filled = share(chunk, np.ones(len(chunk)), batch_size, None)
            batches.append(crystals.batch(*share(*filled, multiple, part), size))
    return batches


class PaddedCrystals:
    """A data set in the network's units, float32 arrays padded to one size, for quick gathering.

    Raises:
      UserError: an element that the training data never had.
    """

    def __init__(self, dataset: CrystalDataset, statistics: DatasetStatistics, size: int) -> None:
        count = len(dataset)
        self._mask = np.arange(size) < dataset.num_atoms[:, None]
        vocabulary = np.array(statistics.vocabulary)
        species = np.searchsorted(vocabulary, dataset.atomic_numbers)
        known = vocabulary[np.minimum(species, len(vocabulary) - 1)] == dataset.atomic_numbers
        if not known.all():
            unknown = np.unique(dataset.atomic_numbers[~known]).tolist()
            raise UserError(
                f"the data hold elements (atomic numbers {unknown}) that the training split never "
                "has; move such crystals into the training split or drop them"
            )
        self._species = np.zeros((count, size), dtype=np.int32)
        self._species[self._mask] = species
        frac_coords = dataset.frac_coords.astype(np.float32)
        frac_coords[frac_coords >= 1.0] = 0.0  # rounding to float32 can reach 1
        self._frac_coords = np.zeros((count, size, 3), dtype=np.float32)
        self._frac_coords[self._mask] = frac_coords
        unit = statistics.lattice_unit(dataset.num_atoms)
        self._lattice = (dataset.lattice / unit[:, None, None]).astype(np.float32)
        self._properties = (
            (dataset.properties - np.array(statistics.property_mean))
            / np.array(statistics.property_std)
        ).astype(np.float32)

    def batch(self, rows: np.ndarray, weight: np.ndarray, size: int) -> Batch:
        """Crystals of the given rows ([..., B]) with their weights, cut to `size` atoms."""
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
            weight=weight.astype(np.float32),
        )
