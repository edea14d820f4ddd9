"""The training step as one would write it first from the paper: what ours is measured against.

`jax.jit` of one step on the whole batch: a tree of weights, the attention pair by pair
(`plain_attention`), value and gradient, optax, a moving average. One device, whose operations use
all cores as XLA decides. Noise, loss and optimizer are those of `experiments.train`, and so are the
numbers that come out.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from benchmarks import plain_attention
from benchmarks.speed import NUM_SPECIES, Steps
from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.training.loss import diffusion_loss, noise_batch
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import initial_params

# Weights, their moving average, state of the optimizer.
State = tuple[Any, Any, Any]


def training_steps(config: ExperimentConfig, batch: Batch, mesh: Mesh, num_steps: int) -> Steps:
    """Steps of the naive program; arguments as in `speed.training_steps`."""
    denoiser = Denoiser(config.model, num_species=NUM_SPECIES)
    schedule = noise_schedule(config.noise)
    optimizer = make_optimizer(config.training)
    decay = config.training.ema_decay

    @jax.jit
    def train_step(state: State, batch: Batch, key: Array) -> tuple[State, Array]:
        params, averaged, opt_state = state
        noisy = noise_batch(
            key, *batch, denoiser.num_species, schedule, config.loss.condition_dropout
        )

        def loss_of(params: Any) -> Array:
            denoise = denoising.bind(denoiser, params)
            mean_free = config.model.mean_free_score
            return diffusion_loss(denoise, noisy, schedule, config.loss, mean_free)[0]

        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        averaged = optax.incremental_update(params, averaged, 1.0 - decay)
        return (params, averaged, opt_state), loss

    with jax.default_device(mesh.devices.flat[0]), plain_attention.used():
        vector, unflatten = initial_params(denoiser, jax.random.key(0), batch)
        params = unflatten(vector)
        on_device = jax.tree.map(jnp.asarray, batch)
        states: list[State] = [(params, params, optimizer.init(params))]
        key_of_step = functools.partial(jax.random.fold_in, jax.random.key(1))
        begin = time.perf_counter()
        compiled: Any = train_step
        compiled = compiled.lower(states[0], on_device, key_of_step(0)).compile()
        seconds = time.perf_counter() - begin
    keys = [key_of_step(step) for step in range(num_steps)]

    def call() -> Array:
        losses = []
        for key in keys:
            states[0], loss = compiled(states[0], on_device, key)
            losses.append(loss)
        return jnp.stack(losses)

    return Steps(call, vector.size, seconds)
