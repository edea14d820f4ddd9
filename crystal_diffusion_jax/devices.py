"""The one place that knows of devices: a mesh with the single axis `data`, and its shardings."""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"

# Numbers in the largest array of a chunk of work on a CPU core: 0.8 MB in float32, which with its
# neighbours stays in the second-level cache (measured, benchmarks/README.md).
_CPU_ELEMENTS = 200_000
# Accelerators want large batches; this bounds their memory to a few GB.
_ACCELERATOR_ELEMENTS = 100_000_000


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


def data_mesh() -> Mesh:
    """All devices along the axis `data`.

    Auto axes: the default (explicit) ones would need sharding rules in every operation.
    """
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


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


def describe() -> str:
    """For example "2 x cpu (TFRT_CPU)", for logs and model cards."""
    kinds, counts = np.unique(
        [f"{device.platform} ({device.device_kind})" for device in jax.devices()],
        return_counts=True,
    )
    return ", ".join(f"{count} x {kind}" for kind, count in zip(kinds, counts, strict=True))
