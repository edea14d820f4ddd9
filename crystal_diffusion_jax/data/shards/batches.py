"""Batches of a ShardedDataset: each process reads the shards of its own slices."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.data.batches import Batch, PaddedCrystals
from crystal_diffusion_jax.data.buckets import Schedule, batch_sizes, bucket_sizes_of_histogram
from crystal_diffusion_jax.data.shards.dataset import ShardedDataset
from crystal_diffusion_jax.errors import UserError


class Walk(NamedTuple):
    """The order in which one slice goes through its shards in one turn.

    Attributes:
      shards: those that hold crystals of the bucket.
      ends: number of crystals up to the end of each.
    """

    shards: np.ndarray
    ends: np.ndarray


class ShardedBatches:
    """Endless shuffled batches like `Batches`, read shard by shard.

    Group g follows from the index, the shards, the seed and g alone, on any number of processes
    and devices. Every slice gives the same number of crystals to each batch. It walks through its
    shards, and through the crystals of each, in an order drawn anew for each turn. In one turn of
    a bucket every crystal of that bucket comes exactly once; slices that have fewer crystals than
    the one that has most (`write_shards`: by at most one for each number of atoms in the bucket)
    end their turn with rows of weight 0. As in `Batches`, an epoch holds groups of each bucket in
    proportion to its crystals.

    Of each slice and bucket the crystals of two shards are in memory: of the one at hand and of
    the next one, which is read ahead.

    Attributes:
      sizes: padded size of each bucket.
      batch_sizes: crystals per step of each bucket, multiples of the number of slices.

    Raises:
      UserError: the batch size is no multiple of the number of slices.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        statistics: DatasetStatistics,
        batch_size: int,
        seed: int,
        steps_per_group: int = 1,
    ) -> None:
        slices = dataset.num_slices
        if batch_size % slices:
            raise UserError(
                f"batches of {batch_size} crystals cannot be shared by the {slices} slices of "
                f"{dataset.folder}: make config.training.batch_size a multiple of {slices}"
            )
        self._dataset, self._statistics = dataset, statistics
        self._batch_size, self._seed, self._steps = batch_size, seed, steps_per_group
        self.sizes = bucket_sizes_of_histogram(np.array(dataset.sizes), dataset.counts.sum(axis=0))
        bucket = np.searchsorted(self.sizes, dataset.sizes)
        self._members = [
            np.array(dataset.sizes)[bucket == index].tolist() for index in range(len(self.sizes))
        ]
        # [buckets, shards]
        self._counts = np.stack(
            [dataset.counts[:, bucket == index].sum(axis=1) for index in range(len(self.sizes))]
        )
        per_slice = self._counts.reshape(len(self.sizes), -1, slices).sum(axis=1)
        self._turn = per_slice.max(axis=1)
        self.batch_sizes = batch_sizes(self.sizes, self._counts.sum(axis=1), batch_size, slices)
        per_group = [size * steps_per_group for size in self.batch_sizes]
        self._schedule = Schedule((slices * self._turn).tolist(), per_group, seed)
        self._filler = PaddedCrystals(_one_atom(statistics), statistics, self.sizes[-1])
        self._reader = concurrent.futures.ThreadPoolExecutor(max_workers=2)
        self._held: dict[tuple[int, int], dict[int, concurrent.futures.Future[PaddedCrystals]]] = {}
        remembered = 2 * slices * len(self.sizes)
        self._walk = functools.lru_cache(maxsize=remembered)(self._draw_walk)
        self._order = functools.lru_cache(maxsize=remembered)(self._draw_order)

    def group(self, index: int, multiple: int = 1, part: range | None = None) -> Batch:
        """The batches of one group of steps, counted from 0; all arrays have a leading axis.

        Args:
          index: number of the group.
          multiple: equal parts of each batch, one per device.
          part: which of them to gather; None: all.

        Raises:
          UserError: `multiple` does not divide the number of slices, or a shard is damaged.
        """
        slices = self._dataset.num_slices
        if slices % multiple:
            raise UserError(
                f"{multiple} devices cannot share the {slices} slices of {self._dataset.folder}: "
                f"use a number of devices that divides {slices}, or write the shards anew with "
                "other --slices"
            )
        part = range(multiple) if part is None else part
        bucket, draw = self._schedule.draw(index)
        each = self.batch_sizes[bucket] // slices
        positions = draw * self._steps * each + np.arange(self._steps * each)
        mine = range(part.start * slices // multiple, part.stop * slices // multiple)
        pieces = [piece for one in mine for piece in self._gather(bucket, one, positions)]
        # [slices, steps, rows of a slice in a step] -> [steps, rows]
        order = np.arange(len(mine) * len(positions)).reshape(len(mine), self._steps, each)
        return _joined(pieces, order.transpose(1, 0, 2).reshape(self._steps, -1))

    def _gather(self, bucket: int, one: int, positions: np.ndarray) -> list[Batch]:
        """The crystals at consecutive positions of a slice's endless walk."""
        size, pieces = self.sizes[bucket], []
        weight = self.batch_sizes[bucket] / self._batch_size  # as in `Batches`
        for turn in np.unique(positions // self._turn[bucket]).tolist():
            place = positions[positions // self._turn[bucket] == turn] % self._turn[bucket]
            walk = self._walk(bucket, one, turn)
            step = np.searchsorted(walk.ends, place, side="right")
            for number in np.unique(step).tolist():
                count = int(np.sum(step == number))
                if number == len(walk.shards):
                    rows = np.zeros(count, dtype=np.int64)
                    pieces.append(self._filler.batch(rows, np.zeros(count), size))
                    continue
                shard = int(walk.shards[number])
                begin = walk.ends[number] - self._counts[bucket, shard]
                rows = self._order(bucket, shard, turn)[place[step == number] - begin]
                following = number + 1 < len(walk.shards)
                ahead = (
                    walk.shards[number + 1]
                    if following
                    else self._walk(bucket, one, turn + 1).shards[0]
                )
                crystals = self._crystals(bucket, one, shard, int(ahead))
                pieces.append(crystals.batch(rows, np.full(count, weight), size))
        return pieces

    def _crystals(self, bucket: int, one: int, shard: int, ahead: int) -> PaddedCrystals:
        """One shard's crystals of a bucket; those of the next shard are read in the background."""
        held = self._held.setdefault((bucket, one), {})
        for past in set(held) - {shard, ahead}:
            del held[past]
        for wanted in (shard, ahead):
            if wanted not in held:
                held[wanted] = self._reader.submit(self._load, bucket, wanted)
        return held[shard].result()

    def _load(self, bucket: int, shard: int) -> PaddedCrystals:
        crystals = self._dataset.read(shard, self._members[bucket])
        return PaddedCrystals(crystals, self._statistics, self.sizes[bucket])

    def _draw_walk(self, bucket: int, one: int, turn: int) -> Walk:
        shards = np.arange(one, len(self._dataset.shards), self._dataset.num_slices)
        shards = shards[self._counts[bucket, shards] > 0]
        shards = np.random.default_rng((self._seed, 2, bucket, one, turn)).permutation(shards)
        return Walk(shards, np.cumsum(self._counts[bucket, shards]))

    def _draw_order(self, bucket: int, shard: int, turn: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, 3, bucket, shard, turn))
        return rng.permutation(self._counts[bucket, shard])


def _joined(pieces: Sequence[Batch], order: np.ndarray) -> Batch:
    """All rows of the pieces, rearranged to the shape of `order`, which holds their numbers."""
    arrays: dict[str, Any] = {
        field.name: np.concatenate([getattr(piece.crystals, field.name) for piece in pieces])[order]
        for field in dataclasses.fields(Crystals)
    }
    return Batch(
        crystals=Crystals(**arrays),
        properties=np.concatenate([piece.properties for piece in pieces])[order],
        weight=np.concatenate([piece.weight for piece in pieces])[order],
    )


def _one_atom(statistics: DatasetStatistics) -> CrystalDataset:
    """A harmless crystal for rows of weight 0."""
    return CrystalDataset(
        lattice=statistics.lattice_scale * np.eye(3)[None],
        num_atoms=np.array([1]),
        frac_coords=np.zeros((1, 3)),
        atomic_numbers=np.array(statistics.vocabulary[:1]),
        properties=np.array([statistics.property_mean]),
        property_names=statistics.property_names,
        material_ids=np.array([""]),
    )
