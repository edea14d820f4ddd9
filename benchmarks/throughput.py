"""Training and sampling speed of a config on this machine, as JSON.

    python -m benchmarks.throughput --config=configs/perov5_cds.py --width=256

Crystals are random: speed depends on their sizes alone. `--plain` replaces the efficient
attention by `plain_attention`, everything else equal.
"""

import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks import plain_attention
from crystal_diffusion_jax import compilation, denoising, devices, parallel
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.data.buckets import batch_sizes
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.training.loss import diffusion_loss, noise_batch
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.state import initial_params, initial_state
from crystal_diffusion_jax.training.step import make_train_steps

_CONFIG = config_flags.DEFINE_config_file("config", "configs/perov5_cds.py", "The experiment.")
_WIDTH = flags.DEFINE_integer("width", None, "Width of atoms and pairs instead of the config's.")
_NUM_BLOCKS = flags.DEFINE_integer("num_blocks", None, "Blocks instead of the config's.")
_SIZES = flags.DEFINE_list("num_atoms", ["5", "10", "20"], "Atoms per crystal.")
_PLAIN = flags.DEFINE_boolean("plain", False, "The attention pair by pair, as the paper has it.")
_WHOLE = flags.DEFINE_boolean("whole_batch", False, "One device takes the batch in one piece.")
_SAMPLING = flags.DEFINE_boolean("sampling", True, "Measure the sampler too.")

NUM_SPECIES = 64
REPEATS = 5
_CACHED_ELEMENTS = devices.cached_elements
# Predictor-corrector steps timed; every step costs the same, so a 1000-step chain is scaled up.
SAMPLING_STEPS = 50


def main(argv: list[str]) -> None:
    """Prints one JSON object."""
    del argv
    config = _config()
    mesh = devices.data_mesh()
    peak = matmul_peak(mesh)
    if _WHOLE.value:
        mesh = jax.sharding.Mesh(mesh.devices[:1], mesh.axis_names)
    report: dict[str, Any] = {
        "devices": devices.describe(),
        "jax": jax.__version__,
        "width": config.model.width,
        "num_blocks": config.model.num_blocks,
        "attention": "plain" if _PLAIN.value else "efficient",
        "whole_batch": _WHOLE.value,
        "matmul_peak_gflops": round(peak / 1e9, 1),
        "sizes": [],
    }
    with _attention(), _chunks():
        for num_atoms in map(int, _SIZES.value):
            rows = training_speed(config, num_atoms, mesh)
            share = rows["flop_per_structure"] * rows["structures_per_second"] / peak
            rows["share_of_matmul_peak"] = round(share, 3)
            if _SAMPLING.value:
                rows["sampling"] = sampling_speed(config, num_atoms, mesh)
            rows["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            report["sizes"].append(rows)
    print(json.dumps(report, indent=1))


def _config() -> ExperimentConfig:
    values = _CONFIG.value.to_dict()
    if _WIDTH.value:
        values["model"] |= {"width": _WIDTH.value, "pair_width": _WIDTH.value}
    if _NUM_BLOCKS.value:
        values["model"]["num_blocks"] = _NUM_BLOCKS.value
    return config_module.from_dict(values)


@contextlib.contextmanager
def _attention() -> Iterator[None]:
    if not _PLAIN.value:
        yield
        return
    module = "crystal_diffusion_jax.models.denoiser"
    with (
        patch(f"{module}.CrystalAttention", plain_attention.PlainAttention),
        patch(f"{module}.pair_features", plain_attention.plain_pair_features),
    ):
        yield


@contextlib.contextmanager
def _chunks() -> Iterator[None]:
    with patch.object(devices, "cached_elements", return_value=10**9) as one_chunk:
        if not _WHOLE.value:
            one_chunk.side_effect = _CACHED_ELEMENTS
        yield


def best_seconds(call: Callable[[], Any]) -> float:
    """The quickest of several runs, which other work on the machine disturbs least."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def matmul_peak(mesh: jax.sharding.Mesh, size: int = 2048) -> float:
    """Floating-point operations per second of square float32 products, all devices together."""
    square = jnp.ones((mesh.size, size, size))
    split = jax.device_put(square, devices.by_batch(mesh))
    product = jax.jit(lambda a: jax.lax.map(lambda row: row @ row, a))
    per_device = jax.jit(
        jax.shard_map(
            product,
            mesh=mesh,
            in_specs=jax.sharding.PartitionSpec(devices.AXIS),
            out_specs=jax.sharding.PartitionSpec(devices.AXIS),
        )
    )
    jax.block_until_ready(per_device(split))
    return 2 * size**3 * mesh.size / best_seconds(lambda: per_device(split))


def random_batch(num_rows: int, num_atoms: int) -> Batch:
    """Crystals of one size; one property."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "lattice": rng.normal(size=(num_rows, 3, 3)).astype(np.float32),
        "frac_coords": rng.random((num_rows, num_atoms, 3)).astype(np.float32),
        "species": rng.integers(NUM_SPECIES, size=(num_rows, num_atoms)).astype(np.int32),
        "mask": np.ones((num_rows, num_atoms), bool),
    }
    return Batch(
        crystals=Crystals(**arrays),
        properties=rng.normal(size=(num_rows, 1)).astype(np.float32),
        weight=np.ones(num_rows, np.float32),
    )


def training_speed(
    config: ExperimentConfig, num_atoms: int, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Structures/s of the train steps, seconds to compile, operations per structure."""
    # As the loop would choose it beside a bucket of the five atoms that batch_size is made for.
    size = batch_sizes((5, num_atoms), (1, 0), config.training.batch_size)[1]
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
        noisy = noise_batch(key, *arrays, NUM_SPECIES, schedule, config.loss.condition_dropout)
        denoise = denoising.bind(denoiser, unflatten(params))
        return diffusion_loss(denoise, noisy, schedule, config.loss, True)[0]

    # Without scans, whose bodies XLA's analysis counts once.
    cost: Any = jax.jit(jax.grad(loss)).lower(holder[0].params).cost_analysis()
    return {
        "num_atoms": num_atoms,
        "batch_size": size,
        "chunks_per_device": parallel.num_chunks(
            size // mesh.size, num_atoms**2 * config.model.pair_width, num_parameters, mesh
        ),
        "parameters": num_parameters,
        "step_ms": round(1e3 * seconds, 2),
        "structures_per_second": round(size / seconds, 1),
        "compile_seconds": round(compile_seconds, 1),
        "flop_per_structure": round(cost["flops"] / size),
    }


def sampling_speed(
    config: ExperimentConfig, num_atoms: int, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Structures/s of the 1000-step predictor-corrector sampler without guidance."""
    size = 8 * max(1, 1000 // num_atoms**2)
    denoiser = Denoiser(config.model, num_species=NUM_SPECIES)
    batch = random_batch(size, num_atoms)
    params, unflatten = initial_params(denoiser, jax.random.key(0), batch)
    condition = Condition(
        values=jnp.asarray(batch.properties), present=jnp.ones(batch.properties.shape, bool)
    )
    sampler = make_sampler(denoiser, config.noise, SAMPLING_STEPS, False, mesh)
    arguments = (
        unflatten(params),
        jax.random.split(jax.random.key(1), size),
        jnp.ones((size, num_atoms), bool),
        condition,
        jnp.float32(0.0),
        jnp.float32(config.sampling.gamma),
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
        "network_calls": 2 * config.noise.num_steps,
        "compile_seconds": round(first - seconds, 1),
    }


if __name__ == "__main__":
    devices.use_every_core()
    compilation.keep_compiled_programs()
    app.run(main)
