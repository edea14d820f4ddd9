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
from crystal_diffusion_jax.runtime import devices


class Inputs(NamedTuple):
    """The data as the steps need them.

    Attributes:
      statistics: of the training split.
      batches: of the training split.
      validation: this process's part of each batch of the validation split.
      num_train: crystals in the training split.
    """

    statistics: DatasetStatistics
    batches: Batches
    validation: list[Batch]
    num_train: int


def prepare_inputs(
    config: ExperimentConfig, splits: Mapping[str, CrystalDataset], mesh: Mesh
) -> Inputs:
    """Measures and arranges the splits "train" and "val"; the latter is padded in memory.

    Raises:
      UserError: an element that only "val" has.
    """
    training, part = config.training, devices.local_part(mesh)
    train, val = splits["train"], splits["val"]
    statistics = dataset_statistics(train, config.scale_by_num_atoms)
    repeats = tail_oversampling(train.properties, training.tail_oversampling)
    batches = Batches(
        train, statistics, training.batch_size, config.seed, training.steps_per_call, repeats
    )
    shared = -(-training.batch_size // mesh.size) * mesh.size
    return Inputs(
        statistics=statistics,
        batches=batches,
        validation=evaluation_batches(val, statistics, shared, mesh.size, part),
        num_train=len(train),
    )
