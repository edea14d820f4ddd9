"""Speed of sampling and of training steps on some devices, on random crystals."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.timing import rate, repeated
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import initial_params, initial_state, make_train_steps

NUM_SPECIES = 64
# Predictor-corrector steps that are timed; all steps cost the same, so the time is scaled up.
SAMPLING_STEPS = 50


def random_batch(num_rows: int, num_atoms: int, num_species: int = NUM_SPECIES) -> Batch:
    """Random crystals of one size, with one property."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "lattice": rng.normal(size=(num_rows, 3, 3)).astype(np.float32),
        "frac_coords": rng.random((num_rows, num_atoms, 3)).astype(np.float32),
        "species": rng.integers(num_species, size=(num_rows, num_atoms)).astype(np.int32),
        "mask": np.ones((num_rows, num_atoms), bool),
    }
    return Batch(
        crystals=Crystals(**arrays),
        properties=rng.normal(size=(num_rows, 1)).astype(np.float32),
        weight=np.ones(num_rows, np.float32),
    )


@dataclasses.dataclass(frozen=True)
class Steps:
    """Compiled training steps.

    Attributes:
      call: takes them, each on the same crystals with new noise; the losses.
      num_parameters: weights of the network.
      compile_seconds: that compilation took.
    """

    call: Callable[[], jax.Array]
    num_parameters: int
    compile_seconds: float


def training_steps(config: ExperimentConfig, batch: Batch, mesh: Mesh, num_steps: int) -> Steps:
    """The steps of `experiments.train`."""
    denoiser = Denoiser(config.model, num_species=NUM_SPECIES)
    params, unflatten = initial_params(denoiser, jax.random.key(0), batch)
    optimizer = make_optimizer(config.training, unflatten)
    state = jax.device_put(initial_state(params, optimizer), devices.replicated(mesh))
    steps = make_train_steps(
        denoiser,
        unflatten,
        noise_schedule(config.noise),
        config.loss,
        optimizer,
        config.training.ema_decay,
        mesh,
    )
    arrays = (batch.crystals, batch.properties, batch.weight)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * num_steps), arrays)
    stacked = jax.device_put(stacked, devices.by_batch(mesh, axis=1))
    key = jax.device_put(jax.random.key(1), devices.replicated(mesh))
    begin = time.perf_counter()
    compiled: Any = steps
    compiled = compiled.lower(state, stacked, key).compile()
    seconds = time.perf_counter() - begin
    holder = [state]

    def call() -> jax.Array:
        holder[0], metrics = compiled(holder[0], stacked, key)
        losses: jax.Array = metrics["loss"]
        return losses

    return Steps(call, params.size, seconds)


def sampling_speed(
    config: ExperimentConfig, num_atoms: int, mesh: Mesh, size: int, use_guidance: bool = False
) -> dict[str, Any]:
    """Rates of the predictor-corrector sampler, and seconds to compile.

    Args:
      config: the model.
      num_atoms: atoms per crystal.
      mesh: the devices.
      size: crystals at once; rounded up to a multiple of devices.
      use_guidance: evaluate the unconditional branch too.
    """
    size = -(-size // mesh.size) * mesh.size
    denoiser = Denoiser(config.model, num_species=NUM_SPECIES)
    batch = random_batch(size, num_atoms)
    params, unflatten = initial_params(denoiser, jax.random.key(0), batch)
    condition = Condition(
        values=jnp.asarray(batch.properties), present=jnp.ones(batch.properties.shape, bool)
    )
    sampler = make_sampler(denoiser, config.noise, SAMPLING_STEPS, use_guidance, mesh)
    arguments = (
        unflatten(params),
        jax.random.split(jax.random.key(1), size),
        jnp.ones((size, num_atoms), bool),
        condition,
        jnp.float32(1.0),
        jnp.float32(config.sampling.corrector_step_size),
        jnp.ones(NUM_SPECIES, bool),
    )
    begin = time.perf_counter()
    jax.block_until_ready(sampler(*arguments))
    first = time.perf_counter() - begin
    seconds = repeated(lambda: sampler(*arguments))
    calls = 4 if use_guidance else 2  # of the network in a step
    return {
        "batch_size": size,
        "calls_per_second": rate(calls * SAMPLING_STEPS, seconds),
        "calls_per_crystal": calls * config.noise.num_steps,
        "crystals_per_second": rate(size * SAMPLING_STEPS / config.noise.num_steps, seconds),
        "compile_seconds": round(first - min(seconds), 1),
    }
