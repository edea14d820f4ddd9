"""The one place that knows of devices: a mesh with the single axis `data`, and its shardings."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices along the axis `data`.

    Auto axes: the default (explicit) ones would need sharding rules in every operation.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def describe() -> str:
    """For example "2 x cpu (TFRT_CPU)", for logs and model cards."""
    kinds, counts = np.unique(
        [f"{device.platform} ({device.device_kind})" for device in jax.devices()],
        return_counts=True,
    )
    return ", ".join(f"{count} x {kind}" for kind, count in zip(kinds, counts, strict=True))
