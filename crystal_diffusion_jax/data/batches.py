"""CrystalDataset -> padded batches by size, as a pure function of (seed, step)."""

import functools
from typing import Any, NamedTuple

import numpy as np

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.data.buckets import MAX_BUCKETS, Schedule, bucket_sizes, choose_buckets
from crystal_diffusion_jax.data.rank_noise import RankNoise
from crystal_diffusion_jax.errors import UserError

# The share of crystals that counts as a tail of a property, as SR5 takes the lowest 5 %.
_TAIL = 0.05
_MAX_ATOMIC_NUMBER = 118


class Batch(NamedTuple):
    """B crystals ready for the network, numpy arrays.

    Attributes:
      crystals: lattice in units of its scale, frac_coords, species, mask.
      properties: [B, P] float32 z-scores, NaN where a crystal has no value; see
        `models.embeddings.Condition`.
      weight: [B] float32, 0 for a crystal that only fills the batch; for the others 1, or, in
        training, the batch's crystals divided by the mean number of crystals per step.
    """

    crystals: Crystals
    properties: Any  # numpy in the data layer, jax after it
    weight: Any


class Batches:
    """Endless shuffled batches, in groups of equal shape.

    Group g is a function of the data, the seed and g alone. An epoch is a shuffled list of buckets
    in proportion to their crystals; each bucket walks through permutations of its own crystals, so
    every crystal is seen equally often (or in proportion to `repeats`) and a group has one padded
    size.

    Attributes:
      batch_size: crystals per step on average.
      sizes: padded size of each bucket.
      batch_sizes: crystals per step of each bucket.
      steps_per_group: steps in a group.
      shares: crystals of each bucket (times their repeats) as a share of all.
      factors: weight of each crystal in a step of each bucket, see `Batch.weight`.
    """

    def __init__(
        self,
        dataset: CrystalDataset,
        statistics: DatasetStatistics,
        batch_size: int,
        seed: int,
        steps_per_group: int = 1,
        repeats: np.ndarray | None = None,
        rank_noise: RankNoise | None = None,
    ) -> None:
        """Sorts the crystals into buckets.

        Args:
          dataset: M crystals.
          statistics: of the training data.
          batch_size: crystals per step on average; at most as many as there are.
          seed: of the order.
          steps_per_group: steps in a group.
          repeats: [M] int, how often each crystal occurs in an epoch; None: once.
          rank_noise: of the properties; None: each crystal comes with its own.

        Raises:
          UserError: an element that the training data never had.
        """
        self._crystals = _Gatherer(dataset, statistics)
        rows = np.repeat(np.arange(len(dataset)), 1 if repeats is None else repeats)
        self._seed, self.steps_per_group, self._rank_noise = seed, steps_per_group, rank_noise
        self.batch_size = min(batch_size, len(rows))
        self.sizes, self.batch_sizes = choose_buckets(dataset.num_atoms[rows], batch_size)
        bucket = np.searchsorted(self.sizes, dataset.num_atoms)
        self._rows = [rows[bucket[rows] == index] for index in range(len(self.sizes))]
        counts = [len(rows) for rows in self._rows]
        self.shares = [count / sum(counts) for count in counts]
        self.factors = [size / self.batch_size for size in self.batch_sizes]
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
        drawn = size * self.steps_per_group
        positions = np.arange(draw * drawn, (draw + 1) * drawn)
        rows = np.empty(drawn, dtype=np.int64)
        for turn in np.unique(positions // count):
            here = positions // count == turn
            rows[here] = self._rows[bucket][self._order(bucket, int(turn))[positions[here] % count]]
        # Steps of fewer, larger crystals are more frequent, and weigh less in proportion.
        weight = np.full((self.steps_per_group, size), self.factors[bucket])
        places = np.arange(drawn).reshape(self.steps_per_group, size)
        places, weight = _share(places, weight, multiple, part)
        properties = None
        if self._rank_noise:
            rng = np.random.default_rng((self._seed, 2, index))
            properties = self._rank_noise.draw(rng, rows)[places]
        return self._crystals.batch(rows[places], weight, self.sizes[bucket], properties)

    def bucket(self, step: int) -> int:
        """The bucket that a step draws from; steps are counted from 0."""
        return self._schedule.draw(step // self.steps_per_group).bucket

    def _permutation(self, bucket: int, turn: int) -> np.ndarray:
        count = len(self._rows[bucket])
        return np.random.default_rng((self._seed, 1, bucket, turn)).permutation(count)


def tail_oversampling(properties: np.ndarray, times: int) -> np.ndarray:
    """[M] int: `times` for crystals with a property in the lowest or highest 5 %, 1 for the others.

    Args:
      properties: [M, P] numbers, NaN where missing; a value shared by more than 5 % of the crystals
        belongs to no tail.
      times: at least 1.
    """
    low, high = np.nanquantile(properties, (_TAIL, 1 - _TAIL), axis=0)
    in_tail = (properties < low) | (properties > high)
    return np.where(in_tail.any(axis=1), times, 1)


def _share(
    rows: np.ndarray, weight: np.ndarray, multiple: int, part: range | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fills batches of rows up to a multiple of `multiple` and takes one process's part.

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
    max_buckets: int = MAX_BUCKETS,
) -> list[Batch]:
    """Every crystal once, in order, by padded size; the last batch of a size is filled up.

    Args:
      dataset: the crystals.
      statistics: of the training data.
      batch_size: crystals in each batch, a multiple of `multiple`.
      multiple: equal parts that each batch is cut into.
      part: which of them to return; None: all.
      max_buckets: the most padded sizes.

    Raises:
      UserError: an element that the training data never had.
    """
    crystals = _Gatherer(dataset, statistics)
    sizes = bucket_sizes(dataset.num_atoms, max_buckets)
    bucket = np.searchsorted(sizes, dataset.num_atoms)
    batches = []
    for index, size in enumerate(sizes):
        rows = np.flatnonzero(bucket == index)
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            filled = _share(chunk, np.ones(len(chunk)), batch_size, None)
            batches.append(crystals.batch(*_share(*filled, multiple, part), size))
    return batches


class _Gatherer:
    """Gathers crystals from a data set, in the network's units and padded to one size.

    Only the crystals of a batch are read, so the data set may be memory maps of any size.

    Raises:
      UserError: an element that the training data never had.
    """

    def __init__(self, dataset: CrystalDataset, statistics: DatasetStatistics) -> None:
        occurs = np.bincount(dataset.atomic_numbers, minlength=_MAX_ATOMIC_NUMBER + 1) > 0
        unknown = sorted(set(np.flatnonzero(occurs).tolist()) - set(statistics.vocabulary))
        if unknown:
            raise UserError(
                f"the data hold elements (atomic numbers {unknown}) that the training split never "
                "has; move such crystals into the training split or drop them"
            )
        self._dataset, self._statistics = dataset, statistics
        self._first_atom = dataset.offsets
        self._species_of = np.zeros(_MAX_ATOMIC_NUMBER + 1, np.int32)
        self._species_of[list(statistics.vocabulary)] = np.arange(len(statistics.vocabulary))

    def batch(
        self,
        rows: np.ndarray,
        weight: np.ndarray,
        size: int,
        properties: np.ndarray | None = None,
    ) -> Batch:
        """Crystals of the given rows ([..., B]) with their weights, padded to `size` atoms.

        They come with their own properties, or with those given ([..., B, P]).
        """
        data, statistics = self._dataset, self._statistics
        num_atoms = data.num_atoms[rows]
        mask = np.arange(size) < num_atoms[..., None]  # [..., B, size]
        atoms = (self._first_atom[rows][..., None] + np.arange(size)) * mask
        frac_coords = np.take(data.frac_coords, atoms, axis=0).astype(np.float32)
        frac_coords *= frac_coords < 1.0  # rounding to float32 can reach 1
        frac_coords *= mask[..., None]
        species = np.take(self._species_of, np.take(data.atomic_numbers, atoms)) * mask
        lattice = data.lattice[rows] / statistics.lattice_unit(num_atoms)[..., None, None]
        properties = data.properties[rows] if properties is None else properties
        properties = properties - np.array(statistics.property_mean)
        # Numpy arrays until the training loop lays them on the devices.
        arrays: dict[str, Any] = {
            "lattice": lattice.astype(np.float32),
            "frac_coords": frac_coords,
            "species": species,
            "mask": mask,
        }
        return Batch(
            crystals=Crystals(**arrays),
            properties=(properties / np.array(statistics.property_std)).astype(np.float32),
            weight=weight.astype(np.float32),
        )
