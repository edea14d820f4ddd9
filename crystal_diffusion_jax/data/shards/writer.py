"""Writes a folder of shards from parts that come one after the other."""

import collections
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.shards.dataset import INDEX, Shard, ShardedDataset
from crystal_diffusion_jax.data.shards.moments import Moments
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import file_sha256, replace_text

# In this order in the files of pieces; float32 is what the network computes in.
_PIECE = {
    "num_atoms": np.int32,
    "lattice": np.float32,
    "frac_coords": np.float32,
    "atomic_numbers": np.uint8,
    "properties": np.float64,
}


def write_shards(
    parts: Iterable[CrystalDataset], folder: Path, num_shards: int, num_slices: int
) -> ShardedDataset:
    """Deals crystals to shards; at no time more than one part and one shard are in memory.

    The crystals of each size are dealt in turn after shuffling their part, so that shards and
    slices differ by at most one crystal of each size, and each is a sample of all parts.

    Args:
      parts: with the same properties, none empty.
      folder: to be written; new or empty.
      num_shards: files to make.
      num_slices: V, a divisor of `num_shards`; see `ShardedDataset`.

    Raises:
      UserError: numbers that do not fit, fewer crystals than shards, parts with different
        properties, or a folder that is not empty or cannot be written.
    """
    if num_slices < 1 or num_shards < 1 or num_shards % num_slices:
        raise UserError(
            f"{num_shards} shards are no multiple of {num_slices} slices: change --shards or "
            "--slices"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = next(folder.iterdir(), None) is not None
    except OSError as error:
        raise _cannot_write(folder, error) from error
    if occupied:
        raise UserError(f"{folder} is not empty: remove it or choose another --out")
    try:
        moments = _deal(parts, folder, num_shards)
        shards = _pack(folder, num_shards, moments)
        dataset = ShardedDataset(folder, num_slices, shards=tuple(shards), **moments.summary())
        # Last, so that a folder with an index is complete.
        replace_text(folder / INDEX, dataset.to_json())
    except BaseException as error:
        for path in folder.iterdir():  # it was empty
            path.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(folder, error) from error
        raise
    return dataset


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be written ({error.strerror}): choose another --out")


def _deal(parts: Iterable[CrystalDataset], folder: Path, num_shards: int) -> Moments:
    """Appends the crystals of each part to the files of pieces."""
    moments = Moments()
    dealt: collections.Counter[int] = collections.Counter()
    rng = np.random.default_rng(0)
    for part in parts:
        moments.add(part)
        order = rng.permutation(len(part))
        shard = np.empty(len(part), dtype=np.int64)
        for size in np.unique(part.num_atoms).tolist():
            rows = order[part.num_atoms[order] == size]
            # Sizes begin at different shards, so that the first ones do not get all rare sizes.
            shard[rows] = (size + dealt[size] + np.arange(len(rows))) % num_shards
            dealt[size] += len(rows)
        for index in np.unique(shard).tolist():
            piece = part.take(np.flatnonzero(shard == index))
            with _pieces(folder, index).open("ab") as file:
                for name, kind in _PIECE.items():
                    np.save(file, getattr(piece, name).astype(kind), allow_pickle=False)
        del part, piece  # before the next one is made
    missing = num_shards - len(list(folder.iterdir()))
    if missing:
        raise UserError(
            f"{missing} of {num_shards} shards would get none of {dealt.total()} crystals: choose "
            "fewer --shards"
        )
    return moments


def _pack(folder: Path, num_shards: int, moments: Moments) -> list[Shard]:
    """Turns each file of pieces into a shard."""
    shards = []
    for index in range(num_shards):
        pieces = _pieces(folder, index)
        read: dict[str, list[np.ndarray]] = {name: [] for name in _PIECE}
        with pieces.open("rb") as file:
            while file.peek(1):
                for name in _PIECE:
                    read[name].append(np.load(file, allow_pickle=False))
        joined = {name: np.concatenate(arrays) for name, arrays in read.items()}
        num_atoms = joined.pop("num_atoms")
        atom_size = np.repeat(num_atoms, num_atoms)
        arrays, counts = {}, []
        for size in moments.sizes:
            counts.append(int(np.sum(num_atoms == size)))
            for name, array in joined.items():
                if name in ("frac_coords", "atomic_numbers"):
                    chosen = array[atom_size == size].reshape(-1, size, *array.shape[1:])
                else:
                    chosen = array[num_atoms == size]
                if len(chosen):
                    arrays[f"{name}_{size}"] = chosen
        path = folder / f"shard-{index:05d}.npz"
        with path.open("wb") as file:
            np.savez(file, **arrays)
        digest = file_sha256(path)
        shards.append(Shard(path.name, path.stat().st_size, digest, tuple(counts)))
        pieces.unlink()
    return shards


def _pieces(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.pieces"
