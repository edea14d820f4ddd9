"""A data set without copies: one crystal of each group of copies, as csv tables.

More than half of Carbon-24 are copies, so a model that repeats what is frequent scores well there
(Martirossyan et al., arXiv:2509.12178, who therefore made Carbon-24-unique).
"""

import hashlib
import itertools
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.classes import number_as_train
from crystal_diffusion_jax.data.copies import crystal_arrays, find_copies
from crystal_diffusion_jax.data.load import versions
from crystal_diffusion_jax.data.prepared import prepare_groups
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import replace_pieces
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.conversion import restore_structure
from crystal_diffusion_jax.structures.export import csv_line


def require_new_folder(folder: Path) -> None:
    """Checks, before minutes of work, that `write_unique` can write there.

    Raises:
      UserError: the folder is not empty or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--unique={folder} is not an empty folder: choose another.")
    try:
        temporary = _temporary(folder)
        temporary.mkdir(parents=True)
        temporary.rmdir()
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write_unique(
    splits: Mapping[str, CrystalDataset], folder: Path, progress: bool = True
) -> dict[str, int]:
    """Writes train.csv, val.csv and so on, which training, match and all others read as `root`.

    A group stays in the first of its splits, so val has no copy of train, and test none of either;
    there it is the first crystal among those with most of the properties. Crystals that could not
    be compared are kept. Cells are those of the prepared data. What was found is cached.

    Args:
      splits: the data set, "train" first.
      folder: see `require_new_folder`; complete once it is there.
      progress: show progress bars on stderr.

    Returns:
      Crystals written, by split.

    Raises:
      UserError: the folder cannot be written, a split has nothing of its own, or what is left
        could not be trained on.
    """
    datasets = list(splits.values())
    parts = [*versions(), *(each.checksum() for each in datasets)]
    key = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
    group = prepare_groups(
        key,
        sum(map(len, datasets)),
        lambda: find_copies(datasets, progress, unknown_is_copy=False),
    )
    starts = itertools.accumulate(map(len, datasets), initial=0)
    chosen = {
        split: dataset.take(_representatives(dataset, group[start : start + len(dataset)], start))
        for (split, dataset), start in zip(splits.items(), starts, strict=False)
    }
    for split, dataset in chosen.items():
        if not len(dataset):
            raise UserError(f"all crystals of {split} are copies of earlier ones: none is left.")
    number_as_train(chosen)
    temporary = _temporary(folder)
    try:
        temporary.mkdir(parents=True)
        for split, dataset in chosen.items():
            replace_pieces(temporary / f"{split}.csv", _lines(dataset))
        temporary.rename(folder)  # in the place of an empty one
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {split: len(dataset) for split, dataset in chosen.items()}


def _representatives(dataset: CrystalDataset, group: np.ndarray, start: int) -> np.ndarray:
    """Rows of one split that stand for the groups whose first crystal it has, ascending."""
    known = np.count_nonzero(~np.isnan(dataset.properties), axis=1)
    order = np.argsort(-known, kind="stable")
    order = order[group[order] >= start]
    _, first = np.unique(group[order], return_index=True)
    return np.sort(order[first])


def _temporary(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.{os.getpid()}"


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(f"--unique={folder} cannot be written: {error.strerror or error}.")


def _lines(dataset: CrystalDataset) -> Iterator[str]:
    yield csv_line(["material_id", *dataset.property_names, "cif"])
    for m, arrays in enumerate(crystal_arrays(dataset)):
        named = zip(dataset.property_names, dataset.properties[m].tolist(), strict=True)
        cells = [_cell(value, dataset.class_names.get(name)) for name, value in named]
        yield csv_line(
            [str(dataset.material_ids[m]), *cells, to_cif(restore_structure(*arrays), 0)]
        )


def _cell(value: float, classes: tuple[str, ...] | None) -> float | str:
    if math.isnan(value):
        return ""
    return classes[int(value)] if classes else value
