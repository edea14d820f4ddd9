"""The smoke run of the built-in data set, shared by the tests of training and sampling."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.flatten_util import ravel_pytree

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from crystal_diffusion_jax.data.batches import Batch, Batches
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.training import loop
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import (
    Arrays,
    EvaluationStep,
    TrainState,
    TrainSteps,
    Unflatten,
    initial_params,
    initial_state,
    make_evaluation_step,
    make_train_steps,
)
from tests import smoke_config

CONFIG: ExperimentConfig = config_module.from_dict(smoke_config.get_config().to_dict())


@functools.cache
def splits() -> dict[str, CrystalDataset]:
    return load(CONFIG.data)


@functools.cache
def statistics() -> DatasetStatistics:
    return dataset_statistics(splits()["train"], CONFIG.scale_by_num_atoms)


def denoiser() -> Denoiser:
    return Denoiser(CONFIG.model, num_species=len(statistics().vocabulary))


def drawn_params(
    network: Denoiser, size: float = 1.0, seed: int = 1, num_properties: int = 1
) -> Any:
    """Weights drawn by numpy, much quicker than compiling `init`, and none of them 0.

    Of the size of fresh ones, times `size`.
    """
    one_atom = Crystals(
        lattice=jnp.ones((1, 3, 3)),
        frac_coords=jnp.zeros((1, 1, 3)),
        species=jnp.zeros((1, 1), jnp.int32),
        mask=jnp.ones((1, 1), bool),
    )
    shape = (1, num_properties)
    condition = Condition(values=jnp.zeros(shape), present=jnp.ones(shape, bool))
    inputs = (one_atom, jnp.ones(1, jnp.int32), condition)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)

    def draw(path: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
        normal = rng.normal(size=like.shape)
        if path[-1].key == "scale":  # of a layer norm
            return (1.0 + 0.15 * size * normal).astype(like.dtype)
        spread = size / np.sqrt(like.shape[-2]) if len(like.shape) > 1 else 0.15 * size
        return (spread * normal).astype(like.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class StepInputs:
    """What the training loop hands to the train step of the smoke run."""

    def __init__(self, learning_rate: float = CONFIG.training.learning_rate) -> None:
        self.mesh = devices.data_mesh()
        self.key = jax.random.key(3)
        self._optimizer = make_optimizer(
            dataclasses.replace(CONFIG.training, learning_rate=learning_rate)
        )
        self._batches = Batches(
            splits()["train"],
            statistics(),
            CONFIG.training.batch_size,
            CONFIG.seed,
            CONFIG.training.steps_per_call,
        )

    def state(self) -> TrainState:
        """Drawn weights, the same on any number of devices."""
        params = jnp.array(self._layout[0])  # a copy, as the train steps consume it
        state = initial_state(params, self._optimizer)
        return jax.device_put(state, devices.replicated(self.mesh))

    @functools.cached_property
    def _layout(self) -> tuple[Array, Unflatten]:
        return ravel_pytree(drawn_params(denoiser()))

    def named(self, params: Array) -> Any:
        """The vector of weights as the denoiser's parameters."""
        return self._layout[1](params)

    def batches(self, group: int) -> Arrays:
        """Crystals, properties and weight, with a leading axis of steps."""
        batch = self._batches.group(group)
        arrays: Arrays = (batch.crystals, batch.properties, batch.weight)
        placed: Arrays = jax.device_put(arrays, devices.by_batch(self.mesh, axis=1))
        return placed

    def train_steps(self) -> TrainSteps:
        return make_train_steps(
            denoiser(),
            self._layout[1],
            noise_schedule(CONFIG.noise),
            CONFIG.loss,
            self._optimizer,
            CONFIG.training.ema_decay,
            self.mesh,
        )

    def evaluation_step(self) -> EvaluationStep:
        schedule = noise_schedule(CONFIG.noise)
        unflatten = self._layout[1]
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


@contextlib.contextmanager
def programs_made_once() -> Iterator[None]:
    """Trainings share programs, which each would else trace anew and take from the cache on disk.

    Only for Adam, whose optimizer needs no layout of the weights.
    """
    made: dict[Any, Any] = {}

    def once(key: Any, make: Any) -> Any:
        if key not in made:
            made[key] = make()
        return made[key]

    def params(network: Denoiser, key: Array, batch: Batch) -> tuple[Array, Unflatten]:
        name = ("params", network, tuple(np.asarray(jax.random.key_data(key)).tolist()))
        vector, unflatten = once(name, lambda: initial_params(network, key, batch))
        return jnp.copy(vector), unflatten

    def shared(make: Any) -> Any:
        def made_once(network: Denoiser, unflatten: Unflatten, schedule: Any, *rest: Any) -> Any:
            key = (make, network, id(schedule), *rest)  # `noise_schedule` below keeps it alive
            return once(key, lambda: make(network, unflatten, schedule, *rest))

        return made_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "noise_schedule", functools.cache(noise_schedule))
        optimizer = functools.cache(make_optimizer)
        # When a run ends does not change its steps.
        patch.setattr(
            loop,
            "make_optimizer",
            lambda config, unflatten: optimizer(dataclasses.replace(config, patience=0)),
        )
        patch.setattr(loop, "initial_params", params)
        patch.setattr(loop, "make_train_steps", shared(make_train_steps))
        patch.setattr(loop, "make_evaluation_step", shared(make_evaluation_step))
        yield
