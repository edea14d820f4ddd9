"""The one place that knows of devices: a mesh with the single axis `data`, and its shardings."""

import os
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"

# Numbers in the largest array of a chunk of work on a CPU core: 0.8 MB in float32, which with its
# neighbours stays in the second-level cache (measured, benchmarks/README.md).
_CPU_ELEMENTS = 200_000
# Accelerators want large batches. A gradient takes the memory of about 25 such arrays, by XLA's
# plan for perov5_cds, so this bounds it to 4 GB.
_ACCELERATOR_ELEMENTS = 40_000_000

# What makes JAX find the devices of a name in JAX_PLATFORMS.
_CUDA = 'an NVIDIA GPU needs pip install "jax[cuda13]", or "jax[cuda12]" for an older driver'
_INSTALLED_BY = {
    "cuda": _CUDA,
    "gpu": _CUDA,
    "tpu": 'a TPU needs pip install "jax[tpu]"',
}


def use_every_core() -> None:
    """Makes each CPU core a device of its own, if no device was used before.

    A program of many small operations gains little from several threads in each operation, and
    nearly everything from a share of the batch per core (benchmarks/README.md).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return  # somebody has decided
    try:
        jax.config.update("jax_num_cpu_devices", cores or 1)
    except RuntimeError:
        return  # devices are in use already, as in a notebook


def absence(error: Exception) -> str | None:
    """A sentence about devices that cannot be used, None if the error came from something else.

    JAX looks for devices where the first one is needed: programs that need none never know.

    Args:
      error: an AssertionError or RuntimeError, as which JAX reports it.
    """
    try:
        jax.devices()
        return None
    except (AssertionError, RuntimeError) as again:
        # What follows the device's name may differ, as in "tried to allocate 512 MB".
        if str(again).partition(":")[0] != str(error).partition(":")[0]:
            return None
        # JAX's advice at the end gives way to ours. It passes over CUDA without a word where the
        # system shows no such GPU, and then has nothing left.
        advice = r" \((set JAX_PLATFORMS|you may need to).*"
        reason = re.sub(advice, "", " ".join(str(again).split())).rstrip(".")
    reason = reason or "no NVIDIA GPU is visible"
    asked = jax.config.values["jax_platforms"]
    if not asked:
        return f"no device can be used ({reason}): JAX_PLATFORMS=cpu computes without it"
    ways = [way for name, way in _INSTALLED_BY.items() if name in asked.split(",")]
    ways = list(dict.fromkeys(ways or _INSTALLED_BY.values()))
    return (
        f"JAX_PLATFORMS={asked} asks for a device that cannot be used ({reason}): unset "
        f"JAX_PLATFORMS to compute on what there is; {'; '.join(ways)}"
    )


def data_mesh() -> Mesh:
    """All devices along the axis `data`, those of each process beside one another.

    Auto axes: the default (explicit) ones would need sharding rules in every operation.
    """
    # `jax.make_mesh` may order the devices of a pod by their cables instead.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def local_part(mesh: Mesh) -> range:
    """Places of this process's devices along the axis."""
    owners = [device.process_index for device in mesh.devices.flat]
    start = owners.index(jax.process_index())
    return range(start, start + owners.count(jax.process_index()))


def cached_elements(mesh: Mesh) -> int:
    """Numbers that the largest array of a chunk of work should have on these devices."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return _CPU_ELEMENTS if on_cpu else _ACCELERATOR_ELEMENTS


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The given axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every device holds whole, of arrays that every process computed alike."""
    # `jax.device_put` takes no jax array to another process's devices.
    return jax.jit(lambda same: same, out_shardings=replicated(mesh))(tree)


def from_local_rows(rows: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Arrays split over the mesh, of which each process holds its own part.

    Args:
      rows: tree of numpy arrays; of the whole `axis` they hold the part of this process's devices.
      mesh: the devices.
      axis: which axis is split.
    """
    sharding = by_batch(mesh, axis)
    whole = mesh.size // len(local_part(mesh))

    def place(part: np.ndarray) -> jax.Array:
        shape = (*part.shape[:axis], part.shape[axis] * whole, *part.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, part, shape)

    return jax.tree.map(place, rows)


def in_turn(results: Any) -> Any:
    """Returns what it is given, when it is there if programs must not be in flight side by side.

    Accelerators run programs in the order of their calls. A CPU runs them side by side on as many
    threads as it has devices: two programs with collectives, each with one device waiting for the
    other, then block one another for ever (seen in jax 0.10.1 in one process with two devices and
    in two processes; XLA ends the process after a while).
    """
    if jax.device_count() > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(results)
    return results


def describe() -> str:
    """For example "2 x cpu (TFRT_CPU)", for logs and model cards."""
    kinds, counts = np.unique(
        [f"{device.platform} ({device.device_kind})" for device in jax.devices()],
        return_counts=True,
    )
    return ", ".join(f"{count} x {kind}" for kind, count in zip(kinds, counts, strict=True))
