"""Training and sampling speed of a network on some devices, on random crystals."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.data.buckets import batch_sizes
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices, parallel
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.training.loss import diffusion_loss, noise_batch
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import initial_params, initial_state, make_train_steps

NUM_SPECIES = 64
REPEATS = 5
# Predictor-corrector steps that are timed; all steps cost the same, so the time is scaled up.
SAMPLING_STEPS = 50


def best_seconds(call: Callable[[], Any]) -> float:
    """Fastest of several runs, the one least disturbed by other work on the machine."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def matmul_peak(mesh: Mesh, size: int = 2048, dtype: Any = jnp.float32) -> float:
    """Floating-point operations per second of square matrix products on all devices together.

    Args:
      mesh: the devices.
      size: rows of the matrices.
      dtype: element type; float32 is rounded according to `jax.default_matmul_precision`.
    """
    # Random numbers, because GPUs multiply ones faster: they draw less power.
    square = jax.random.normal(jax.random.key(0), (mesh.size, size, size)).astype(dtype)
    split = jax.device_put(square, devices.by_batch(mesh))
    product = jax.jit(lambda a: jax.lax.map(lambda row: row @ row, a))
    per_device = jax.jit(
        jax.shard_map(
            product,
            mesh=mesh,
            in_specs=PartitionSpec(devices.AXIS),
            out_specs=PartitionSpec(devices.AXIS),
        )
    )
    jax.block_until_ready(per_device(split))
    return 2 * size**3 * mesh.size / best_seconds(lambda: per_device(split))


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


def training_speed(config: ExperimentConfig, num_atoms: int, mesh: Mesh) -> dict[str, Any]:
    """Structures/s of training steps, seconds to compile, operations per structure."""
    # As the loop would choose it next to a bucket of the five atoms that batch_size refers to.
    size = batch_sizes((5, num_atoms), (1, 0), config.training.batch_size)[1]
    size = -(-size // mesh.size) * mesh.size
    batch = random_batch(size, num_atoms)
    denoiser = Denoiser(config.model, num_species=NUM_SPECIES)
    schedule = noise_schedule(config.noise)
    params, unflatten = initial_params(denoiser, jax.random.key(0), batch)
    optimizer = make_optimizer(config.training, unflatten)
    state = initial_state(params, optimizer)
    num_parameters = state.params.size
    state = jax.device_put(state, devices.replicated(mesh))
    steps = make_train_steps(
        denoiser, unflatten, schedule, config.loss, optimizer, config.training.ema_decay, mesh
    )
    per_call = config.training.steps_per_call
    arrays = (batch.crystals, batch.properties, batch.weight)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * per_call), arrays)
    stacked = jax.device_put(stacked, devices.by_batch(mesh, axis=1))
    key = jax.device_put(jax.random.key(1), devices.replicated(mesh))
    begin = time.perf_counter()
    compiled: Any = steps
    compiled = compiled.lower(state, stacked, key).compile()
    compile_seconds = time.perf_counter() - begin
    holder = [compiled(state, stacked, key)[0]]

    def run() -> None:
        holder[0], metrics = compiled(holder[0], stacked, key)
        jax.block_until_ready(metrics)

    seconds = best_seconds(run) / per_call

    def loss(params: jax.Array) -> jax.Array:
        noisy = noise_batch(
            jax.random.key(1), *arrays, NUM_SPECIES, schedule, config.loss.condition_dropout
        )
        denoise = denoising.bind(denoiser, unflatten(params))
        return diffusion_loss(denoise, noisy, schedule, config.loss, True)[0]

    # Without scans, whose bodies XLA's analysis counts once; on the CPU, the only platform where
    # JAX has this analysis.
    weights = jax.ShapeDtypeStruct(params.shape, params.dtype)
    with jax.default_device(jax.devices("cpu")[0]):
        cost: Any = jax.jit(jax.grad(loss)).lower(weights).cost_analysis()
    return {
        "num_atoms": num_atoms,
        "batch_size": size,
        "chunks_per_device": parallel.num_chunks(
            size // mesh.size, num_atoms**2 * config.model.pair_hidden_width, num_parameters, mesh
        ),
        "parameters": num_parameters,
        "step_ms": round(1e3 * seconds, 2),
        "structures_per_second": round(size / seconds, 1),
        "compile_seconds": round(compile_seconds, 1),
        "flop_per_structure": round(cost["flops"] / size),
    }


def sampling_speed(
    config: ExperimentConfig,
    num_atoms: int,
    mesh: Mesh,
    size: int | None = None,
    use_guidance: bool = False,
) -> dict[str, Any]:
    """Structures/s of the predictor-corrector sampler with all steps of the config.

    Args:
      config: the model.
      num_atoms: atoms per crystal.
      mesh: the devices.
      size: crystals at once, by default suitable for a CPU; rounded up to a multiple of devices.
      use_guidance: evaluate the unconditional branch too.
    """
    size = size or 8 * max(1, 1000 // num_atoms**2)
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
    seconds = best_seconds(lambda: sampler(*arguments))
    full = seconds * config.noise.num_steps / SAMPLING_STEPS
    return {
        "batch_size": size,
        "structures_per_second": round(size / full, 3),
        "calls_per_crystal": (4 if use_guidance else 2) * config.noise.num_steps,
        "compile_seconds": round(first - seconds, 1),
    }
