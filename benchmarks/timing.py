"""Times of repeated calls, and the rate of matrix products that others are compared with."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from crystal_diffusion_jax.runtime import devices

REPEATS = 5

# Median, lowest and highest of several repeats.
Spread = dict[str, float]


def spread(values: list[float]) -> Spread:
    """Median, lowest and highest, to four digits."""
    each = {"median": float(np.median(values)), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.4g}") for name, value in each.items()}


def rate(amount: float, seconds: list[float]) -> Spread:
    """An amount per second, from the times that it took."""
    return spread([amount / one for one in seconds])


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Seconds that each of the calls took, repeatedly.

    They take turns (a b c, a b c, ...), so that a drift of the machine affects all of them alike.
    Before, each is called once without a clock.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def repeated(call: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """Seconds that a call took, repeatedly, after one without a clock."""
    return interleaved({"": call}, repeats)[""]


def matmul_peak(mesh: Mesh, size: int = 2048, dtype: Any = jnp.float32) -> Spread:
    """TFLOP/s of square matrix products on all devices together.

    Args:
      mesh: the devices.
      size: rows of the matrices.
      dtype: element type; float32 is rounded according to `jax.default_matmul_precision`.
    """
    # Random numbers, because GPUs multiply ones faster: they draw less power.
    square = jax.random.normal(jax.random.key(0), (mesh.size, size, size)).astype(dtype)
    split = jax.device_put(square, devices.by_batch(mesh))
    per_device = jax.jit(
        jax.shard_map(
            lambda a: jax.lax.map(lambda row: row @ row, a),
            mesh=mesh,
            in_specs=PartitionSpec(devices.AXIS),
            out_specs=PartitionSpec(devices.AXIS),
        )
    )
    return rate(2e-12 * size**3 * mesh.size, repeated(lambda: per_device(split)))
