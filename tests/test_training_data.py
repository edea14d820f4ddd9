import dataclasses

import numpy as np
import pytest

from crystal_diffusion_jax.config import ExperimentConfig, TrainingConfig
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.training.training_data import prepare_data
from tests.smoke_run import CONFIG, splits


def oversampling(times: int) -> ExperimentConfig:
    training = dataclasses.replace(CONFIG.training, tail_oversampling=times)
    return dataclasses.replace(CONFIG, training=training)


def share_in_tails(times: int) -> float:
    """Share of the training crystals, as they come, that have an extreme property."""
    inputs = prepare_data(oversampling(times), splits(), devices.data_mesh())
    train = splits()["train"].properties[:, 0]
    mean, std = inputs.statistics.property_mean[0], inputs.statistics.property_std[0]
    low, high = (np.quantile(train, (0.05, 0.95)) - mean) / std
    groups = -(-len(train) * 20 // (CONFIG.training.batch_size * CONFIG.training.steps_per_call))
    drawn = np.concatenate([inputs.batches.group(g).properties.ravel() for g in range(groups)])
    return float(np.mean((drawn < low + 1e-4) | (drawn > high - 1e-4)))


def test_tails_are_oversampled_as_configured():
    train = splits()["train"].properties[:, 0]
    low, high = np.quantile(train, (0.05, 0.95))
    extreme = np.mean((train < low) | (train > high))
    assert share_in_tails(1) == pytest.approx(extreme, abs=0.01)
    assert share_in_tails(5) == pytest.approx(5 * extreme / (1 + 4 * extreme), abs=0.01)


def test_statistics_do_not_depend_on_oversampling():
    plain, repeated = (
        prepare_data(oversampling(times), splits(), devices.data_mesh()) for times in (1, 3)
    )
    assert plain.statistics == repeated.statistics
    assert plain.num_train == repeated.num_train


def test_oversampling_by_zero_is_refused():
    with pytest.raises(ValueError, match="tail_oversampling must be at least 1, not 0"):
        TrainingConfig(tail_oversampling=0)
