"""The smoke run of the built-in data set, shared by the tests of training and sampling."""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array

from configs import quickstart
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import devices
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.state import (
    TrainState,
    Unflatten,
    initial_params,
    initial_state,
)
from crystal_diffusion_jax.training.step import (
    Arrays,
    EvaluationStep,
    TrainSteps,
    make_evaluation_step,
    make_train_steps,
)

CONFIG: ExperimentConfig = config_module.from_dict(quickstart.get_config("smoke").to_dict())


@functools.cache
def splits() -> dict[str, CrystalDataset]:
    return load(CONFIG.data)


@functools.cache
def statistics() -> DatasetStatistics:
    return dataset_statistics(splits()["train"], CONFIG.scale_by_num_atoms)


def denoiser() -> Denoiser:
    return Denoiser(CONFIG.model, num_species=len(statistics().vocabulary))


class StepInputs:
    """What the training loop hands to the train step of the smoke run."""

    def __init__(self) -> None:
        self.mesh = devices.data_mesh()
        self.key = jax.random.key(3)
        self._optimizer = make_optimizer(CONFIG.training)
        self._batches = Batches(
            splits()["train"],
            statistics(),
            CONFIG.training.batch_size,
            CONFIG.seed,
            CONFIG.training.steps_per_call,
        )

    def state(self) -> TrainState:
        """Fresh weights, the same on any number of devices."""
        state = initial_state(self._initial()[0], self._optimizer)
        return jax.device_put(state, devices.replicated(self.mesh))

    def _initial(self) -> tuple[Array, Unflatten]:
        batch = jax.tree.map(lambda array: array[0], self._batches.group(0))
        return initial_params(denoiser(), jax.random.key(1), batch)

    def named(self, params: Array) -> Any:
        """The vector of weights as the denoiser's parameters."""
        return self._initial()[1](params)

    def batches(self, group: int) -> Arrays:
        """Crystals, properties and weight, with a leading axis of steps."""
        batch = self._batches.group(group)
        arrays: Arrays = (batch.crystals, batch.properties, batch.weight)
        placed: Arrays = jax.device_put(arrays, devices.by_batch(self.mesh, axis=1))
        return placed

    def train_steps(self) -> TrainSteps:
        return make_train_steps(
            denoiser(),
            self._initial()[1],
            noise_schedule(CONFIG.noise),
            CONFIG.loss,
            self._optimizer,
            CONFIG.training.ema_decay,
            self.mesh,
        )

    def evaluation_step(self) -> EvaluationStep:
        schedule = noise_schedule(CONFIG.noise)
        unflatten = self._initial()[1]
        return make_evaluation_step(denoiser(), unflatten, schedule, CONFIG.loss, self.mesh)


def loss_curve(num_groups: int) -> list[float]:
    """Losses of the first groups of steps."""
    inputs = StepInputs()
    state, steps = inputs.state(), inputs.train_steps()
    losses: list[float] = []
    for index in range(num_groups):
        state, metrics = steps(state, inputs.batches(index), inputs.key)
        losses += np.asarray(metrics["loss"]).tolist()
    return losses
