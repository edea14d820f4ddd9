"""Which of the waiting crystals share a batch, and its capacity: one of few, each compiled once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.potentials.energies import own_capacity
from crystal_diffusion_jax.potentials.neighbours import Capacity

# Each capacity has a quarter of the rows of the next; the smaller ones are for the last crystals.
_RATIO = 4
_NUM_CAPACITIES = 3
_NOTHING = Capacity(0, 0, 0, 0, 0)


def rows(size: Capacity) -> int:
    """Rows of the largest arrays: one for each angle and one for each direction of a bond."""
    return 2 * (size.long_bonds + size.short_bonds) + size.angles


def common_capacities(sizes: Sequence[Capacity], most_rows: int) -> list[Capacity]:
    """Ascending capacities for crystals like these, in their proportion of bonds and angles.

    Args:
      sizes: of some of the crystals, at least one.
      most_rows: `rows` of the largest capacity; more if a tenth of the crystals would not fit.
    """
    table = np.array([dataclasses.astuple(size) for size in sizes], dtype=float)
    mean = table.mean(axis=0)
    wanted = mean * most_rows / rows(Capacity(*mean))
    # Room for crystals and atoms costs next to nothing, so that bonds or angles fill a batch first.
    wanted *= [2.0, 1.5, 1.0, 1.0, 1.0]
    # Crystals without short bonds or angles say little about others.
    wanted = np.maximum(wanted, [2, 2, *[most_rows / 32] * 3])
    largest = np.maximum(wanted, 1.2 * np.quantile(table, 0.9, axis=0))
    fractions = [_RATIO**-power for power in reversed(range(_NUM_CAPACITIES))]
    return [Capacity(*map(_rounded, largest * fraction)) for fraction in fractions]


def _rounded(size: float) -> int:
    """The next larger of four numbers an octave, so that similar runs share their programs."""
    step = 2.0 ** (np.floor(np.log2(max(size, 4.0))) - 2)
    return int(np.ceil(size / step) * step) + 1  # one row of padding


def choose(
    waiting: Sequence[Capacity], common: Sequence[Capacity], num_lanes: int
) -> tuple[list[int], Capacity]:
    """Crystals for the next batch, and its capacity.

    Args:
      waiting: sizes of the crystals that wait, at least one; the first is always chosen.
      common: ascending capacities.
      num_lanes: lanes that are free, which should get equal shares of what waits.
    """
    if not waiting[0].fits(common[-1]):
        return [0], own_capacity(waiting[0])
    total = np.sum([dataclasses.astuple(size) for size in waiting], axis=0)
    share = Capacity(*np.ceil(total / num_lanes).astype(int).tolist())
    enough = (c for c in common if share.fits(c) and waiting[0].fits(c))
    capacity = next(enough, common[-1])
    chosen, taken = [], _NOTHING
    for index, size in enumerate(waiting):
        if (taken + size).fits(capacity):
            chosen.append(index)
            taken += size
    return chosen, capacity
