"""What training takes from the data: batches, validation, statistics."""

from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import Mesh

from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import (
    CrystalDataset,
    DatasetStatistics,
    dataset_statistics,
)
from crystal_diffusion_jax.data.batches import (
    Batch,
    Batches,
    evaluation_batches,
    tail_oversampling,
)
from crystal_diffusion_jax.data.shards.batches import ShardedBatches
from crystal_diffusion_jax.data.shards.dataset import ShardedDataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices

# Crystals in memory, or in files that are read in turn.
Split = CrystalDataset | ShardedDataset


class Inputs(NamedTuple):
    """The data as the steps need them.

    Attributes:
      statistics: of the training split.
      batches: of the training split.
      validation: this process's part of each batch of the validation split.
      num_train: crystals in the training split.
    """

    statistics: DatasetStatistics
    batches: Batches | ShardedBatches
    validation: list[Batch]
    num_train: int


def prepare_inputs(config: ExperimentConfig, splits: Mapping[str, Split], mesh: Mesh) -> Inputs:
    """Measures and arranges the splits "train" and "val"; the latter is read whole.

    Raises:
      UserError: an element that only "val" has, shards that cannot be shared by the devices, or
        tail_oversampling with shards.
    """
    training, part = config.training, devices.local_part(mesh)
    train, val = splits["train"], splits["val"]
    arguments = (training.batch_size, config.seed, training.steps_per_call)
    batches: Batches | ShardedBatches
    if isinstance(train, ShardedDataset):
        if training.tail_oversampling > 1:
            raise UserError(
                f"training.tail_oversampling={training.tail_oversampling} needs the training split "
                "in memory, not in shards; set it to 1"
            )
        statistics = train.statistics(config.scale_by_num_atoms)
        batches = ShardedBatches(train, statistics, *arguments)
    else:
        statistics = dataset_statistics(train, config.scale_by_num_atoms)
        repeats = tail_oversampling(train.properties, training.tail_oversampling)
        batches = Batches(train, statistics, *arguments, repeats)
    if isinstance(val, ShardedDataset):
        val = val.whole()
    shared = -(-training.batch_size // mesh.size) * mesh.size
    return Inputs(
        statistics=statistics,
        batches=batches,
        validation=evaluation_batches(val, statistics, shared, mesh.size, part),
        num_train=len(train),
    )
