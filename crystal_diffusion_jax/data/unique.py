"""A data set without copies: of each group of copies its first crystal, as csv tables.

More than half of Carbon-24 are copies, so a model that repeats what is frequent scores well there
(Martirossyan et al., arXiv:2509.12178, who therefore made Carbon-24-unique).
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.copies import find_copies
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import replace_pieces
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.conversion import restore_structure
from crystal_diffusion_jax.structures.export import csv_line


def write_unique(
    splits: Mapping[str, CrystalDataset], folder: Path, progress: bool = True
) -> dict[str, int]:
    """Writes train.csv, val.csv and so on, which training, match and all others read as `root`.

    A crystal stays in the split of the first of its group, so val has no copy of train, and test
    none of either. Cells are those of the prepared data, to a millionth of their vectors.

    Args:
      splits: the data set, "train" first.
      folder: new, or empty.
      progress: show progress bars on stderr.

    Returns:
      Crystals written, by split.

    Raises:
      UserError: the folder is not empty or cannot be written, or a split has nothing of its own.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: choose another for the unique crystals.")
    group = find_copies(list(splits.values()), progress)
    is_first = group == np.arange(len(group))
    starts = itertools.accumulate((len(dataset) for dataset in splits.values()), initial=0)
    chosen = {
        split: np.flatnonzero(is_first[start : start + len(dataset)])
        for (split, dataset), start in zip(splits.items(), starts, strict=False)
    }
    for split, rows in chosen.items():
        if not len(rows):
            raise UserError(f"all crystals of {split} are copies of earlier ones: none is left.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in chosen.items():
            replace_pieces(folder / f"{split}.csv", _lines(splits[split].take(rows)))
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
    return {split: len(rows) for split, rows in chosen.items()}


def _lines(dataset: CrystalDataset) -> Iterator[str]:
    yield csv_line(["material_id", *dataset.property_names, "cif"])
    for m, (start, end) in enumerate(itertools.pairwise(dataset.offsets.tolist())):
        atoms = slice(start, end)
        structure = restore_structure(
            dataset.lattice[m], dataset.frac_coords[atoms], dataset.atomic_numbers[atoms]
        )
        values = [
            ""
            if math.isnan(value)
            else dataset.class_names[name][int(value)]
            if name in dataset.class_names
            else value
            for name, value in zip(
                dataset.property_names, dataset.properties[m].tolist(), strict=True
            )
        ]
        yield csv_line([str(dataset.material_ids[m]), *values, to_cif(structure, symprec=0)])
