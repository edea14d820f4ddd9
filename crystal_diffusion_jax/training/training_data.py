"""The data as training needs them, with batches, warm-up and validation that suit their number."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from crystal_diffusion_jax.config import ExperimentConfig, TrainingConfig
from crystal_diffusion_jax.data import few
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from crystal_diffusion_jax.data.batches import Batch, Batches, evaluation_batches, tail_oversampling
from crystal_diffusion_jax.data.buckets import MAX_BUCKETS
from crystal_diffusion_jax.data.rank_noise import RankNoise
from crystal_diffusion_jax.runtime import devices

# Noise draws per validation crystal: four keep the noise of the loss below its trend.
VALIDATION_DRAWS = 4
# A smaller validation split is repeated to about this size, each copy with noise of its own.
VALIDATION_CRYSTALS = 250
# The longest warm-up, in passes over the training crystals.
WARMUP_PASSES = 40


class TrainingData(NamedTuple):
    """The data as the steps need them."""

    statistics: DatasetStatistics  # of the training split
    num_train: int
    batches: Batches
    validation: list[Batch]  # this process's part of each batch
    validated: int  # crystals that a validation computes, all draws together
    training: TrainingConfig  # with a warm-up that suits the number of crystals
    warnings: list[str]


def prepare_data(
    config: ExperimentConfig,
    splits: Mapping[str, CrystalDataset],
    mesh: Mesh,
    lattice_scale: float | None = None,
) -> TrainingData:
    """Statistics and batches.

    Args:
      config: the experiment.
      splits: "train" and "val".
      mesh: the devices.
      lattice_scale: of the initial model; None: that of the training data.

    Raises:
      UserError: an element that only "val" has.
    """
    training, num_train = config.training, len(splits["train"])
    statistics = dataset_statistics(splits["train"], config.scale_by_num_atoms)
    if lattice_scale is not None:
        statistics = dataclasses.replace(statistics, lattice_scale=lattice_scale)
    properties = splits["train"].properties
    is_number = np.array([x not in statistics.class_names for x in statistics.property_names], bool)
    batches = Batches(
        splits["train"],
        statistics,
        training.batch_size,
        config.seed,
        training.steps_per_call,
        tail_oversampling(properties[:, is_number], training.tail_oversampling),
        RankNoise(properties, is_number, training.rank_noise) if training.rank_noise else None,
    )
    val, max_buckets = splits["val"], MAX_BUCKETS
    if (repeats := VALIDATION_CRYSTALS // len(val)) > 1:
        val, max_buckets = val.take(np.tile(np.arange(len(val)), repeats)), 1
    rows = min(training.batch_size, len(val))
    rows = -(-rows // mesh.size) * mesh.size  # a multiple of the devices
    part = devices.local_part(mesh)
    validation = evaluation_batches(val, statistics, rows, mesh.size, part, max_buckets)
    passes = WARMUP_PASSES * -(-num_train // batches.batch_size)
    training = dataclasses.replace(training, warmup_steps=min(training.warmup_steps, passes))
    fine_tuned = bool(training.init_from)
    notes = few.warnings(num_train, len(splits["val"]), fine_tuned)
    validated = VALIDATION_DRAWS * rows * len(validation)
    return TrainingData(statistics, num_train, batches, validation, validated, training, notes)
