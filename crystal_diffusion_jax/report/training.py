"""The training crystals that generated ones are compared with."""

import dataclasses
from pathlib import Path

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.load import load, load_table


def training_crystals(data: DataConfig, root: str) -> CrystalDataset:
    """The training split of a data set, or a table of crystals.

    Args:
      data: the model's data, or a known data set; without name and properties, none of these.
      root: where the data are, "" to look in the usual places, or, for own data, where they were
        for training; without a data set, a csv of crystals.

    Raises:
      UserError: they are not there, or cannot be read.
    """
    if not data.name and not data.properties:
        return load_table(Path(root).expanduser())
    place = root or ("" if data.name else data.root)
    return load(dataclasses.replace(data, root=place), splits=("train",))["train"]
