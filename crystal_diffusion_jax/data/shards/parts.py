"""A data set that comes in several files, read one at a time."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import SPLITS
from crystal_diffusion_jax.data.prepared import BadRow, Prepared, settle_bad_rows
from crystal_diffusion_jax.data.tables import Source
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.structures.limits import (
    MAX_ATOMS,
    MAX_CELL_LENGTH,
    MAX_PROPERTY,
    MIN_CELL_LENGTH,
    MIN_VOLUME,
)

_ENDINGS = (".csv", ".csv.gz", ".npz")
_ARRAYS = ("lattice", "num_atoms", "frac_coords", "atomic_numbers", "properties")


def find_parts(folder: Path) -> dict[str, list[Path]]:
    """The parts of each split, sorted: files whose names begin with train, val or test.

    Raises:
      UserError: no such folder, or no part of train or val in it.
    """
    if not folder.is_dir():
        raise UserError(f"--parts={folder} is no folder")
    parts = {
        split: sorted(path for path in folder.glob(f"{split}*") if path.name.endswith(_ENDINGS))
        for split in SPLITS
    }
    for split in ("train", "val"):
        if not parts[split]:
            raise UserError(
                f"--parts={folder} has no files {split}* that end with {', '.join(_ENDINGS)}; it "
                "needs some for train and for val"
            )
    return {split: paths for split, paths in parts.items() if paths}


def read_parts(
    paths: Iterable[Path], properties: Sequence[str], max_num_atoms: int, skip_bad_rows: bool
) -> Iterator[CrystalDataset]:
    """The crystals of each file that has any.

    Args:
      paths: csv or csv.gz with inline CIFs, or .npz with the arrays of a `CrystalDataset` (without
        material_ids), which must be in canonical form already.
      properties: columns to read.
      max_num_atoms: a crystal with more atoms is a bad row; 0: no limit.
      skip_bad_rows: go on without rows that cannot be used.

    Raises:
      UserError: a file cannot be read, lacks a property, or has bad rows.
    """

    def read_part(path: Path) -> CrystalDataset:
        if path.suffix == ".npz":
            table = _read_arrays(path, properties, max_num_atoms)
        else:
            # Imported here because pymatgen takes long to import.
            from crystal_diffusion_jax.data.read import read

            table = read(Source(path), properties, max_num_atoms)
        settle_bad_rows([table], str(path), skip_bad_rows)
        return table.dataset

    # Without a name for a part, which would keep it while the next one is read.
    return filter(len, map(read_part, paths))


def _require_crystals(dataset: CrystalDataset) -> None:
    """ValueError where a cell, a crystal or a property is beyond the limits for csv and CIF."""
    with np.errstate(over="ignore", invalid="ignore"):  # too long is too long
        lengths = np.linalg.norm(dataset.lattice.astype(np.float64), axis=-1)
        volumes = np.abs(np.linalg.det(dataset.lattice.astype(np.float64)))
    for row, defect in (
        (lengths.max(axis=-1) > MAX_CELL_LENGTH, f"cell vector longer than {MAX_CELL_LENGTH:g} A"),
        (lengths.min(axis=-1) < MIN_CELL_LENGTH, f"cell vector shorter than {MIN_CELL_LENGTH} A"),
        (volumes < MIN_VOLUME, f"volume below {MIN_VOLUME} A^3"),
        (dataset.num_atoms > MAX_ATOMS, f"more than {MAX_ATOMS} atoms"),
        (
            (np.abs(dataset.properties) > MAX_PROPERTY).any(axis=-1),
            f"a property beyond {MAX_PROPERTY:g}",
        ),
    ):
        if row.any():
            raise ValueError(f"crystal {int(np.argmax(row)) + 1}: {defect}")


def _read_arrays(path: Path, properties: Sequence[str], max_num_atoms: int) -> Prepared:
    try:
        stored = read_arrays(path)
        names = [str(name) for name in stored["property_names"]]
        arrays = {name: stored[name] for name in _ARRAYS}
        ids = np.full(np.shape(arrays["num_atoms"]), "")
        dataset = CrystalDataset(property_names=tuple(names), material_ids=ids, **arrays)
        dataset.require_whole()
        _require_crystals(dataset)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not hold the arrays of a data set ({error}): lattice, num_atoms, "
            "frac_coords, atomic_numbers, properties, property_names"
        ) from error
    missing = sorted(set(properties) - set(names))
    if missing:
        raise UserError(f"{path} has no property {', '.join(missing)}; it has {', '.join(names)}")
    columns = [names.index(name) for name in properties]
    dataset = dataclasses.replace(
        dataset,
        properties=dataset.properties[:, columns],
        property_names=tuple(properties),
    )
    too_large = dataset.num_atoms > (max_num_atoms or np.inf)
    bad_rows = [
        BadRow(path.name, int(row) + 1, "", f"too many atoms: {dataset.num_atoms[row]}")
        for row in np.flatnonzero(too_large)
    ]
    return Prepared(dataset.take(np.flatnonzero(~too_large)), tuple(bad_rows))
