"""Which of the waiting crystals share a batch, and its capacity: one of few, each compiled once."""

import bisect
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from crystal_diffusion_jax.potentials.neighbours import AtomGraph, CannotEvaluate, Capacity

# A program for batches of one capacity is compiled in some seconds and kept on disk, so capacities
# are the same in all runs: `rows` of them, each twice the one before.
_LADDER = (2048, 4096, 8192, 16384, 32768)
_MOST_ROWS = 131072
# Of a batch that suits the device: on a CPU its largest arrays then stay in the cache.
_ROWS_ON_CPU = 8192
_ROWS_ON_ACCELERATOR = 131072
# Shares of the rows that are directed long and short bonds, and angles, with a little to spare: of
# MP-20, Perov-5 and Carbon-24, whose batches are then filled to more than 90 %.
_SHARES = ((0.5, 0.061, 0.5), (0.411, 0.059, 0.591), (0.283, 0.04, 0.725))
# Atoms and crystals cost next to nothing; these are fewer rows than nearly all have.
_ROWS_PER_ATOM, _ROWS_PER_CRYSTAL = 32, 64
# Of average size, that a batch should have room for.
_CRYSTALS_PER_BATCH = 4


def rows(size: Capacity) -> int:
    """Rows of the largest arrays: one for each angle and one for each direction of a bond."""
    return 2 * (size.long_bonds + size.short_bonds) + size.angles


def _capacity(num_rows: int, long: float, short: float, angles: float) -> Capacity:
    return Capacity(
        crystals=num_rows // _ROWS_PER_CRYSTAL + 2,
        atoms=num_rows // _ROWS_PER_ATOM + 1,
        long_bonds=int(num_rows * long / 2) + 1,
        short_bonds=int(num_rows * short / 2) + 1,
        angles=int(num_rows * angles) + 1,
    )


# For crystals of all kinds. A row takes 15 kB while forces are computed, together 2.5 GB.
LARGEST = _capacity(_MOST_ROWS, 0.46, 0.12, 0.8)


def bounded(graph: AtomGraph) -> AtomGraph:
    """The graph, which has room in the largest of batches.

    Raises:
      CannotEvaluate: it has not.
    """
    if not graph.size.fits(LARGEST):
        raise CannotEvaluate(
            f"too many bonds: {len(graph.bonds)}, with {len(graph.angles)} angles between them"
        )
    return graph


def capacities(sizes: Sequence[Capacity]) -> list[Capacity]:
    """All capacities for crystals like these, ascending.

    Args:
      sizes: of some of the crystals, at least one.
    """
    total = np.sum([dataclasses.astuple(size) for size in sizes], axis=0)
    # The shares of which the crystals need the fewest batches.
    needed = total[2:] * [2, 2, 1]
    long, short, angles = min(_SHARES, key=lambda shares: np.max(needed / shares))
    return [*(_capacity(num_rows, long, short, angles) for num_rows in _LADDER), LARGEST]


def least_rows() -> int:
    """`rows` of a batch that suit the device."""
    return _ROWS_ON_CPU if jax.default_backend() == "cpu" else _ROWS_ON_ACCELERATOR


def common(sizes: Sequence[Capacity], least_rows: int) -> int:
    """Index of the capacity that most batches should have.

    Args:
      sizes: of some of the crystals, at least one.
      least_rows: of a batch.
    """
    several = _CRYSTALS_PER_BATCH * float(np.mean([rows(size) for size in sizes]))
    return bisect.bisect_left(_LADDER, max(least_rows, several))


def choose(
    waiting: Sequence[Capacity], capacities: Sequence[Capacity], common: int, num_lanes: int
) -> tuple[list[int], Capacity]:
    """Crystals for the next batch, and its capacity.

    Args:
      waiting: sizes of the crystals that wait, at least one; the first is always chosen.
      capacities: ascending; the last has room for each of the crystals.
      common: index of the largest that is used unless the first crystal needs more.
      num_lanes: lanes that are free, which should get equal shares of what waits.
    """
    total = np.sum([dataclasses.astuple(size) for size in waiting], axis=0)
    share = Capacity(*np.ceil(total / num_lanes).astype(int).tolist())
    enough = (c for c in capacities[:common] if share.fits(c))
    capacity = next(enough, capacities[common])
    if not waiting[0].fits(capacity):
        capacity = next(c for c in capacities if waiting[0].fits(c))
    # The large ones first, as small ones find room between them.
    by_size = sorted(range(1, len(waiting)), key=lambda index: -rows(waiting[index]))
    chosen, taken = [0], waiting[0]
    for index in by_size:
        if (taken + waiting[index]).fits(capacity):
            chosen.append(index)
            taken += waiting[index]
    return chosen, capacity
