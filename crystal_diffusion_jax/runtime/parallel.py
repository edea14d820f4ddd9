"""Functions of a batch, split over the devices of a mesh and into chunks that fit their caches.

Crystals do not interact, so a batch may be split anywhere. Each device splits its rows into chunks
and processes them one by one. Small chunks keep the pair features and their gradients, by far the
largest arrays, in the cache of a CPU core.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from crystal_diffusion_jax.runtime import devices

# (shared by all rows, rows) -> a tree
RowFunction = Callable[[Any, Any], Any]


def num_chunks(
    num_rows: int, elements_per_row: int, elements_per_chunk: int, cached_elements: int
) -> int:
    """Number of chunks on one device: the divisor of `num_rows` whose chunks best fit the cache.

    Args:
      num_rows: rows on one device.
      elements_per_row: size of the largest array of one row.
      elements_per_chunk: size of what every chunk adds to a sum, such as the gradient. Chunks grow
        with it, so that summing stays cheap relative to the work.
      cached_elements: see `devices.cached_elements`.
    """
    capacity = cached_elements + capacity_for_sums(elements_per_chunk)
    wanted = num_rows * elements_per_row / capacity
    divisors = [n for n in range(1, num_rows + 1) if num_rows % n == 0]
    # Nearest as a ratio: half a cache is as far off as two caches.
    return min(divisors, key=lambda n: max(n / wanted, wanted / n)) if wanted > 1 else 1


def capacity_for_sums(size: int) -> int:
    """By how many elements chunks grow that each add `size` elements to a sum."""
    # A quarter was measured, at 0.2 and 2.6 million weights (benchmarks/README.md).
    return size // 4


def sum_over_rows(
    function: RowFunction, elements_per_row: int, mesh: Mesh, cached_elements: int | None = None
) -> RowFunction:
    """Parallel version of a `function` that returns sums over its rows.

    Args:
      function: (shared, rows) -> tree of sums over the rows, of about the size of `shared` (the
        gradient of the weights).
      elements_per_row: size of the largest array that it computes for one row.
      mesh: the devices; the leading axis of `rows` must be a multiple of their number.
      cached_elements: that largest array's size in a chunk; by default `devices.cached_elements`.
    """
    cached = cached_elements or devices.cached_elements(mesh)
    traced_once = jax.jit(function)  # both for its shapes and in the scan

    def local(shared: Any, rows: Any) -> Any:
        size_of_sums = sum(leaf.size for leaf in jax.tree.leaves(shared))
        chunks = _split(rows, elements_per_row, size_of_sums, cached)

        def add(total: Any, chunk: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, traced_once(shared, chunk)), None

        like = jax.eval_shape(traced_once, shared, jax.tree.map(lambda leaf: leaf[0], chunks))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        total, _ = jax.lax.scan(add, zeros, chunks)
        return jax.lax.psum(total, devices.AXIS)

    return _on_mesh(local, mesh, PartitionSpec())


def map_rows(function: RowFunction, elements_per_row: int, mesh: Mesh) -> RowFunction:
    """Parallel version of a `function` that treats each row independently.

    Arguments as in `sum_over_rows`, but `function` returns a tree of arrays with an axis of rows.
    """

    cached = devices.cached_elements(mesh)

    def local(shared: Any, rows: Any) -> Any:
        chunks = _split(rows, elements_per_row, 0, cached)
        results = jax.lax.map(lambda chunk: function(shared, chunk), chunks)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)

    return _on_mesh(local, mesh, PartitionSpec(devices.AXIS))


def _split(rows: Any, elements_per_row: int, elements_per_chunk: int, cached_elements: int) -> Any:
    """[rows, ...] -> [chunks, rows per chunk, ...]."""
    count = len(jax.tree.leaves(rows)[0])
    chunks = num_chunks(count, elements_per_row, elements_per_chunk, cached_elements)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks, -1, *leaf.shape[1:]), rows)


def _on_mesh(local: RowFunction, mesh: Mesh, out_specs: PartitionSpec) -> RowFunction:
    # With check_vma, gradients would get a psum each; without, they stay local until the one above.
    mapped: RowFunction = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(devices.AXIS)),
        out_specs=out_specs,
        check_vma=False,
    )
    return mapped
