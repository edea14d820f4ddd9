"""A data set as a folder with a folder of shards for each split: where it is, what is taken."""

from pathlib import Path
from typing import Any

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
from crystal_diffusion_jax.data.shards.dataset import (
    FORMAT_VERSION,
    INDEX,
    Shard,
    ShardedDataset,
)
from crystal_diffusion_jax.errors import UserError, shown
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, read_json


def holds_shards(root: str) -> bool:
    """Whether the folder was written by `python -m experiments.prepare --shards`."""
    return bool(root) and (Path(root).expanduser() / "train" / INDEX).is_file()


def open_splits(config: DataConfig) -> dict[str, ShardedDataset]:
    """The splits in `config.root`, with the properties asked for; no shard is read.

    Raises:
      UserError: no val split, a damaged index, a missing property, or crystals larger than
        `config.max_num_atoms`.
    """
    folder = Path(config.root).expanduser()
    splits = {
        split: _open(folder / split) for split in SPLITS if (folder / split / INDEX).is_file()
    }
    if "val" not in splits:
        raise UserError(f"{folder} has no shards of val: write them with experiments.prepare")
    names = config.properties
    if not names and config.name in KNOWN_DATASETS:
        names = (KNOWN_DATASETS[config.name].property_name,)
    largest = max(dataset.sizes[-1] for dataset in splits.values())
    if 0 < config.max_num_atoms < largest:
        raise UserError(
            f"the crystals in {folder} have up to {largest} atoms, more than "
            f"max_num_atoms={config.max_num_atoms}: write the shards anew with --max_num_atoms"
        )
    return {
        split: dataset.with_properties(names or dataset.property_names)
        for split, dataset in splits.items()
    }


def _open(folder: Path) -> ShardedDataset:
    path = folder / INDEX
    try:
        fields: dict[str, Any] = read_json(path, MAX_DESCRIPTION_BYTES)
        newer = fields.pop("format_version") > FORMAT_VERSION
        if not newer:
            shards = [
                Shard(**{**shard, "counts": tuple(shard["counts"])})
                for shard in fields.pop("shards")
            ]
            num_slices = fields.pop("num_slices")
            values = {name: tuple(value) for name, value in fields.items()}
            dataset = ShardedDataset(folder, num_slices, shards=tuple(shards), **values)
            dataset.require_sound()
            return dataset
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = shown(str(error), 300)
        raise UserError(f"{path} is damaged ({reason}): write the shards anew") from error
    raise UserError(
        f"{path} was written by a newer version; upgrade crystal-diffusion-jax or write it anew"
    )
