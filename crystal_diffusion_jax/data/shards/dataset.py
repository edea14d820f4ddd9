"""ShardedDataset: the index of a folder of shards, and the crystals of one shard at a time.

A shard is an .npz file with the arrays lattice_N, frac_coords_N, atomic_numbers_N and
properties_N for each number of atoms N that occurs in it, so that the crystals of some sizes are
read without the others. index.json beside the shards says all that must be known of the whole.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.archives import read_arrays

FORMAT_VERSION = 1
INDEX = "index.json"
ARRAYS = ("lattice", "frac_coords", "atomic_numbers", "properties")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
      file: its name.
      num_bytes: its length.
      sha256: of its content, 64 hexadecimal digits.
      counts: crystals of each of the data set's sizes.
    """

    file: str
    num_bytes: int
    sha256: str
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ShardedDataset:
    """Crystals of one split in many files; material ids are not kept.

    Shard j belongs to slice j mod `num_slices`. A process reads the slices of its devices.

    Attributes:
      folder: holds the index and the shards.
      num_slices: V, which divides the number of shards.
      sizes: numbers of atoms that occur, ascending.
      shards: the files.
      columns: which columns of the files' properties are meant.
      vocabulary, property_names, property_mean, property_std, property_min, property_max: as in
        `DatasetStatistics`.
      lattice_scales: `DatasetStatistics.lattice_scale` without and with `scale_by_num_atoms`.
    """

    folder: Path
    num_slices: int
    sizes: tuple[int, ...]
    shards: tuple[Shard, ...]
    columns: tuple[int, ...]
    vocabulary: tuple[int, ...]
    property_names: tuple[str, ...]
    property_mean: tuple[float, ...]
    property_std: tuple[float, ...]
    property_min: tuple[float, ...]
    property_max: tuple[float, ...]
    lattice_scales: tuple[float, float]

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def counts(self) -> np.ndarray:
        """[shards, sizes] crystals of each size in each shard."""
        return np.array([shard.counts for shard in self.shards])

    def checksum(self) -> str:
        """sha256 of the index, which holds those of the shards; where they lie doesn't count."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The text of index.json."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        return json.dumps({"format_version": FORMAT_VERSION, **fields}) + "\n"

    def statistics(self, scale_by_num_atoms: bool) -> DatasetStatistics:
        """What `dataset_statistics` measures, without reading a shard."""
        histogram = zip(self.sizes, self.counts.sum(axis=0).tolist(), strict=True)
        return DatasetStatistics(
            vocabulary=self.vocabulary,
            property_names=self.property_names,
            property_mean=self.property_mean,
            property_std=self.property_std,
            property_min=self.property_min,
            property_max=self.property_max,
            num_atoms_histogram=tuple(histogram),
            lattice_scale=self.lattice_scales[scale_by_num_atoms],
            scale_by_num_atoms=scale_by_num_atoms,
        )

    def require_sound(self) -> None:
        """Checks an index that comes from a file.

        Raises:
          ValueError: a field has not the type or the length that it should, or an impossible value;
            the message says which.
          TypeError: likewise.
        """
        for shard in self.shards:
            if len(shard.counts) != len(self.sizes) or not all(map(_is_count, shard.counts)):
                raise ValueError(f"the counts of {shard.file} are no {len(self.sizes)} numbers")
            if type(shard.file) is not str or Path(shard.file).name != shard.file:
                raise ValueError(f"{shard.file!r} is no name of a shard")
        if not (_is_count(self.num_slices) and self.num_slices and self.shards):
            raise ValueError("no shards or slices")
        if len(self.shards) % self.num_slices:
            raise ValueError(
                f"{len(self.shards)} shards are no multiple of {self.num_slices} slices"
            )
        if not all(map(_is_count, self.columns)) or len(self.columns) != len(self.property_names):
            raise ValueError("columns are not those of the properties")
        if len(self.lattice_scales) != 2:
            raise ValueError("lattice_scales are not two")
        for scaled in (False, True):
            self.statistics(scaled).require_sound()

    def read(self, shard: int, sizes: Sequence[int]) -> CrystalDataset:
        """The crystals of one shard that have the given numbers of atoms, by size.

        Raises:
          UserError: the file is missing, damaged, or not the one that the index describes.
        """
        description = self.shards[shard]
        path = self.folder / description.file
        counts = dict(zip(self.sizes, description.counts, strict=True))
        wanted = [size for size in sizes if counts[size]]
        try:
            if path.stat().st_size != description.num_bytes:
                raise ValueError(f"{path.stat().st_size} bytes instead of {description.num_bytes}")
            stored = read_arrays(path, {f"{name}_{size}" for name in ARRAYS for size in wanted})
            parts = {name: [stored[f"{name}_{size}"] for size in wanted] for name in ARRAYS}
            for size, *arrays in zip(wanted, *parts.values(), strict=True):
                self._require_described(arrays, size, counts[size])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} is missing or damaged ({error}): copy it again, or write the shards anew "
                "with python -m experiments.prepare"
            ) from error
        return CrystalDataset(
            lattice=np.concatenate(parts["lattice"]).astype(np.float64),
            num_atoms=np.repeat(wanted, [counts[size] for size in wanted]),
            frac_coords=np.concatenate([a.reshape(-1, 3) for a in parts["frac_coords"]]),
            atomic_numbers=np.concatenate([a.ravel() for a in parts["atomic_numbers"]]),
            properties=np.concatenate(parts["properties"])[:, list(self.columns)],
            property_names=self.property_names,
            material_ids=np.full(sum(counts[size] for size in wanted), ""),
        )

    def _require_described(self, arrays: Sequence[np.ndarray], num_atoms: int, count: int) -> None:
        """Refuses arrays of one size that are not what the index says; `arrays` as `ARRAYS`."""
        shapes = [array.shape for array in arrays]
        kinds = "".join(array.dtype.kind for array in arrays)
        width = shapes[3][1:]  # all properties of the file, of which this data set may have some
        expected = [(count, 3, 3), (count, num_atoms, 3), (count, num_atoms), (count, *width)]
        enough = len(width) == 1 and width[0] > max(self.columns, default=-1)
        if shapes != expected or not enough or kinds != "ffuf":
            raise ValueError(f"arrays of shapes {shapes} for {count} crystals of {num_atoms} atoms")

    def whole(self) -> CrystalDataset:
        """All crystals, for a split that fits into memory."""
        parts = [self.read(shard, self.sizes) for shard in range(len(self.shards))]
        arrays: dict[str, Any] = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(CrystalDataset)
            if field.name != "property_names"
        }
        return CrystalDataset(property_names=self.property_names, **arrays)

    def with_properties(self, names: Sequence[str]) -> "ShardedDataset":
        """The same crystals with some of the properties, in this order.

        Raises:
          UserError: a property that the shards don't have.
        """
        missing = sorted(set(names) - set(self.property_names))
        if missing:
            raise UserError(
                f"{self.folder} has no property {', '.join(missing)}; it has "
                f"{', '.join(self.property_names)}. Write the shards anew with "
                "python -m experiments.prepare"
            )
        places = [self.property_names.index(name) for name in names]
        fields = [f"property_{field}" for field in ("names", "mean", "std", "min", "max")]
        chosen: dict[str, Any] = {
            field: tuple(getattr(self, field)[place] for place in places)
            for field in [*fields, "columns"]
        }
        return dataclasses.replace(self, **chosen)


def _is_count(value: object) -> bool:
    # Sums of a million of them do not overflow.
    return type(value) is int and 0 <= value < 2**40
