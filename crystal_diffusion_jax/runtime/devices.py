"""Devices: a mesh with the single axis `data`, and its shardings."""

import ctypes
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from crystal_diffusion_jax.runtime.workers import num_cores

AXIS = "data"

# Elements of the largest array in a chunk of work on a CPU core: 0.8 MB in float32, which stays in
# the L2 cache together with its neighbours (measured, benchmarks/README.md).
_CPU_ELEMENTS = 200_000
# Accelerators need large batches. A gradient takes the memory of about 25 such arrays (XLA's
# estimate for perov5_cds), so this limits it to 4 GB.
_ACCELERATOR_ELEMENTS = 40_000_000


def use_every_core() -> None:
    """Makes each CPU core a device, unless devices are in use already.

    A program of many small operations gains little from threads within each operation, and scales
    almost perfectly with a share of the batch per core (benchmarks/README.md).
    """
    if "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return  # the user has decided
    try:
        jax.config.update("jax_num_cpu_devices", num_cores())
    except RuntimeError:
        return  # for example in a notebook


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next program instead of returning it to the system.

    XLA allocates the temporaries of a program at each call, and above 32 MB glibc maps new pages
    for them each time, whose faults cost as much as a third of a relaxation. Must come before
    threads are started. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # numbers in glibc's malloc.h
    mallopt(arena_max, 1)
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def absence(error: Exception) -> str | None:
    """A sentence about devices that cannot be used; None if the error has another cause.

    JAX looks for devices when the first one is needed, so programs without computations never ask.

    Args:
      error: the AssertionError or RuntimeError that JAX raises.
    """
    try:
        jax.devices()
        return None
    except (AssertionError, RuntimeError) as again:
        # The text after the device's name may vary, as in "tried to allocate 512 MB".
        if str(again).partition(":")[0] != str(error).partition(":")[0]:
            return None
        # Without an NVIDIA GPU JAX skips CUDA silently, and the message is empty. What follows in
        # parentheses is JAX's advice, which ours replaces.
        reason = " ".join(str(again).split()).partition(" (")[0].rstrip(".")
    reason = reason or "no NVIDIA GPU is visible"
    asked = jax.config.values["jax_platforms"]
    if not asked:
        return f"no device can be used ({reason}): JAX_PLATFORMS=cpu computes without it"
    return (
        f"JAX_PLATFORMS={asked} asks for a device that cannot be used ({reason}): unset "
        "JAX_PLATFORMS to compute on the devices there are, or install JAX for it: pip install "
        '"jax[cuda13]" for an NVIDIA GPU ("jax[cuda12]" with an older driver), "jax[tpu]" for a TPU'
    )


def data_mesh() -> Mesh:
    """All devices along the axis `data`, grouped by process.

    Auto axes: explicit ones, the default, would need sharding rules in every operation.
    """
    # `jax.make_mesh` may order the devices of a pod by its topology instead.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def local_part(mesh: Mesh) -> range:
    """Positions of this process's devices along the axis."""
    owners = [device.process_index for device in mesh.devices.flat]
    start = owners.index(jax.process_index())
    return range(start, start + owners.count(jax.process_index()))


def cached_elements(mesh: Mesh) -> int:
    """Elements that the largest array of a chunk of work should have on these devices."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return _CPU_ELEMENTS if on_cpu else _ACCELERATOR_ELEMENTS


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding with the given axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def compiler_options() -> dict[str, int]:
    """Compiler options of the large programs: on CPUs, LLVM's first level of optimisation.

    XLA chooses the loops itself. What LLVM adds from the second level on takes a quarter of the
    time to compile the sampler, and programs run as fast without it (benchmarks/README.md). A user
    who wants fewer optimisations still (`JAX_DISABLE_MOST_OPTIMIZATIONS`) gets these.
    """
    fewer = jax.config.values["jax_disable_most_optimizations"]
    if fewer or jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 1}


def options_to_run_once() -> dict[str, int | bool]:
    """Compiler options of a program that runs once: on CPUs, half the time for little optimised."""
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def from_local_rows(rows: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Arrays split over the mesh, from each process's own part.

    Args:
      rows: tree of numpy arrays; along `axis` they hold the part of this process's devices.
      mesh: the devices.
      axis: the axis that is split.
    """
    sharding = by_batch(mesh, axis)
    whole = mesh.size // len(local_part(mesh))

    def place(part: np.ndarray) -> jax.Array:
        shape = (*part.shape[:axis], part.shape[axis] * whole, *part.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, part, shape)

    return jax.tree.map(place, rows)


def wait_on_cpu(results: Any) -> Any:
    """Returns its argument; on several CPU devices only after it has been computed.

    Accelerators run programs in the order of their calls. CPU devices run them concurrently, and
    two programs with collectives then deadlock, each holding a device that the other waits for
    (observed in jax 0.10.1 in one process with two devices and in two processes; XLA aborts the
    process after a while).
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
