"""Chunks of a training step that suit the processor, measured once on it.

How many crystals a core should process at once depends on its caches and on what each operation
costs to start. All choices compute the same numbers up to the order of sums.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax import Array
from jax.sharding import Mesh

from crystal_diffusion_jax.data.batches import Batch, Batches
from crystal_diffusion_jax.models.denoiser import Block, Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.models.products import as_pairs
from crystal_diffusion_jax.runtime import compilation, devices, parallel
from crystal_diffusion_jax.runtime.user_cache import cache_folder, write_cached
from crystal_diffusion_jax.training.step import elements_per_crystal

# "0" leaves the choice at what suits most processors.
SWITCH = "CRYSTAL_DIFFUSION_MEASURE"
# A shorter run would not win back the time of the measurement.
MIN_STEPS = 5_000
# Factors of `devices.cached_elements`, the default first. No more are begun after this time.
_FACTORS = (1.0, 0.5, 0.25, 2.0)
_MAX_SECONDS = 8.0
_REPEATS = 7
# The default stays unless another choice saves more than the noise of the measurement.
_MARGIN = 0.03


def cached_elements(
    denoiser: Denoiser, batches: Batches, mesh: Mesh, log: Callable[[str], None]
) -> int:
    """Elements of the largest array in a chunk of a training step on these devices.

    Measured with a block of the network on the padded size that takes most of the time, and kept in
    the user's cache folder. Accelerators, and several processes, which must all make the same
    choice, take the default.
    """
    switched_off = os.environ.get(SWITCH) == "0" or jax.process_count() > 1
    if switched_off or mesh.devices.flat[0].platform != "cpu":
        return devices.cached_elements(mesh)
    batch = _costliest(batches, mesh)
    model, shape = denoiser.config, batch.crystals.mask.shape
    sizes = (
        mesh.size,
        *shape,
        model.width,
        model.num_blocks,
        model.num_heads,
        model.num_frequencies,
        model.pair_hidden_width,
        model.num_radial_features,
    )
    kind = f"{jax.__version__}_{model.dtype}_{model.conditioning}"
    name = f"{kind}_{'x'.join(map(str, sizes))}.json"
    path = cache_folder() / "chunks" / compilation.processor() / name
    try:
        return msgspec.json.decode(path.read_bytes(), type=int)
    except (OSError, msgspec.MsgspecError):
        pass
    log("measuring, once, how many crystals a core should process at a time: up to 10 s")
    chosen = _fastest(denoiser, batch, mesh)
    with contextlib.suppress(OSError):  # measured again next time
        write_cached(path, msgspec.json.encode(chosen))
    return chosen


def _costliest(batches: Batches, mesh: Mesh) -> Batch:
    """A batch of the padded size that takes most of the time."""
    work = np.multiply(batches.shares, np.square(batches.sizes))
    group = 0
    while batches.bucket(group * batches.steps_per_group) != int(np.argmax(work)):
        group += 1
    stacked = batches.group(group, mesh.size)
    return Batch(*jax.tree.map(lambda array: array[0], tuple(stacked)))


def _fastest(denoiser: Denoiser, batch: Batch, mesh: Mesh) -> int:
    """The choice with which the gradient of a block takes the least time."""
    begin = time.monotonic()
    gradient, params, rows, other_weights = _gradient_of_block(denoiser, batch, mesh)
    per_crystal = elements_per_crystal(denoiser, batch.crystals)
    rows_per_device = len(batch.crystals.mask) // mesh.size
    default = devices.cached_elements(mesh)
    choices = _choices(default, rows_per_device, per_crystal, _size(params), other_weights)
    programs: dict[int, Any] = {}
    for choice, capacity in choices.items():
        if programs and time.monotonic() - begin > _MAX_SECONDS:
            break
        program = parallel.sum_over_rows(gradient, per_crystal, mesh, capacity)
        compiled = jax.jit(program, compiler_options=devices.compiler_options())
        programs[choice] = compiled.lower(params, rows).compile()
        jax.block_until_ready(programs[choice](params, rows))
    seconds = dict.fromkeys(programs, math.inf)
    for _ in range(_REPEATS):
        for choice, program in programs.items():
            start = time.monotonic()
            jax.block_until_ready(program(params, rows))
            seconds[choice] = min(seconds[choice], time.monotonic() - start)
    fastest = min(seconds, key=lambda choice: seconds[choice])
    return fastest if seconds[fastest] < (1.0 - _MARGIN) * seconds[default] else default


def _choices(
    default: int, rows_per_device: int, per_crystal: int, weights: int, other_weights: int
) -> dict[int, int]:
    """Choice -> capacity with which a block's chunks are as large as those of the whole network.

    A choice that comes to the same chunks as one before it is left out.
    """
    by_chunks: dict[int, tuple[int, int]] = {}
    for factor in _FACTORS:
        choice = round(default * factor)
        capacity = choice + parallel.capacity_for_sums(other_weights)
        chunks = parallel.num_chunks(rows_per_device, per_crystal, weights, capacity)
        by_chunks.setdefault(chunks, (choice, capacity))
    return dict(by_chunks.values())


def _gradient_of_block(
    denoiser: Denoiser, batch: Batch, mesh: Mesh
) -> tuple[parallel.RowFunction, Any, Any, int]:
    """The program of a block's gradient, its weights and rows, and the number of other weights.

    Weights and rows have the right shapes; their values do not affect the time.
    """
    calls: list[Any] = []

    def record(call: Any, inputs: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Block):
            calls.append(inputs)
        return call(*inputs, **named)

    def init(batch: Batch) -> Any:
        shape = batch.properties.shape
        condition = Condition(jnp.zeros(shape), jnp.ones(shape, bool))
        t = jnp.ones(shape[:1], jnp.int32)
        return denoiser.init(jax.random.key(0), batch.crystals, t, condition)["params"]

    with nn.intercept_methods(record):
        shapes = jax.eval_shape(init, batch)
    atoms, pairs, *others = calls[0]
    block = Block(denoiser.config)

    def total(params: Any, atoms: Array, features: Array, *others: Any) -> Array:
        updated: Any = block.apply({"params": params}, atoms, as_pairs(features), *others)
        return jnp.sum(updated)

    def gradient(params: Any, rows: Any) -> tuple[Any, Array]:
        of_params, of_atoms = jax.grad(total, argnums=(0, 1))(params, *rows)
        return of_params, jnp.sum(of_atoms)

    def filled(like: Array) -> np.ndarray:
        return np.full(like.shape, 0.1, like.dtype)

    params = jax.tree.map(filled, shapes["block_0"])
    rows = jax.tree.map(filled, (atoms, pairs.features, *others))
    # On the devices, so that no call copies them there.
    params = jax.device_put(params, devices.replicated(mesh))
    rows = jax.device_put(rows, devices.by_batch(mesh))
    return gradient, params, rows, _size(shapes) - _size(params)


def _size(tree: Any) -> int:
    """Numbers in all arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
