"""Functions of a batch, computed on every device of a mesh in chunks that fit the device's cache.

Crystals do not interact, so a batch may be cut anywhere. Each device takes its rows, cuts them
into chunks and works through these one after the other. Small chunks keep the pair features and
their gradients, by far the largest arrays, in the cache of a CPU core.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from crystal_diffusion_jax.runtime import devices

# (what all rows share, rows) -> a tree
RowFunction = Callable[[Any, Any], Any]


def num_chunks(num_rows: int, elements_per_row: int, elements_per_chunk: int, mesh: Mesh) -> int:
    """Chunks for one device's rows: a divisor of `num_rows`, as near to the cache as there is.

    Args:
      num_rows: rows on one device.
      elements_per_row: numbers in the largest array of one row.
      elements_per_chunk: numbers that every chunk adds up, such as the gradient. Chunks grow with
        them, so that the sums stay small beside the work.
      mesh: says whether the devices have caches to care for.
    """
    # The quarter is measured, at 0.2 and 2.6 million weights (benchmarks/README.md).
    capacity = devices.cached_elements(mesh) + elements_per_chunk // 4
    wanted = num_rows * elements_per_row / capacity
    divisors = [n for n in range(1, num_rows + 1) if num_rows % n == 0]
    # Nearest as a ratio: half a cache is as far off as two caches.
    return min(divisors, key=lambda n: max(n / wanted, wanted / n)) if wanted > 1 else 1


def sum_over_rows(function: RowFunction, elements_per_row: int, mesh: Mesh) -> RowFunction:
    """Like `function`, which must return sums over its rows, with the work shared out.

    Args:
      function: (shared, rows) -> tree of sums over the rows, of about the size of `shared` (the
        gradient of the weights).
      elements_per_row: numbers in the largest array that it makes of one row.
      mesh: the devices; the leading axis of `rows` must be a multiple of their number.
    """
    traced_once = jax.jit(function)  # for its shapes and for the scan

    def local(shared: Any, rows: Any) -> Any:
        size_of_sums = sum(leaf.size for leaf in jax.tree.leaves(shared))
        chunks = _split(rows, elements_per_row, size_of_sums, mesh)

        def add(total: Any, chunk: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, traced_once(shared, chunk)), None

        like = jax.eval_shape(traced_once, shared, jax.tree.map(lambda leaf: leaf[0], chunks))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        total, _ = jax.lax.scan(add, zeros, chunks)
        return jax.lax.psum(total, devices.AXIS)

    return _on_mesh(local, mesh, PartitionSpec())


def map_rows(function: RowFunction, elements_per_row: int, mesh: Mesh) -> RowFunction:
    """Like `function`, which must treat each row by itself, with the work shared out.

    Arguments are those of `sum_over_rows`; `function` returns a tree with one leading row each.
    """

    def local(shared: Any, rows: Any) -> Any:
        chunks = _split(rows, elements_per_row, 0, mesh)
        results = jax.lax.map(lambda chunk: function(shared, chunk), chunks)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)

    return _on_mesh(local, mesh, PartitionSpec(devices.AXIS))


def _split(rows: Any, elements_per_row: int, elements_per_chunk: int, mesh: Mesh) -> Any:
    """[rows, ...] -> [chunks, rows per chunk, ...]."""
    count = len(jax.tree.leaves(rows)[0])
    chunks = num_chunks(count, elements_per_row, elements_per_chunk, mesh)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks, -1, *leaf.shape[1:]), rows)


def _on_mesh(local: RowFunction, mesh: Mesh, out_specs: PartitionSpec) -> RowFunction:
    # Without the check on varying axes, gradients inside stay local until the one psum.
    mapped: RowFunction = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(devices.AXIS)),
        out_specs=out_specs,
        check_vma=False,
    )
    return mapped
