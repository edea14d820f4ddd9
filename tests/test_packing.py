"""potentials/packing.py: batches that hold what they are given, few capacities, little padding."""

import dataclasses

import numpy as np
import pytest

from crystal_diffusion_jax.potentials import packing
from crystal_diffusion_jax.potentials.neighbours import Capacity


def sizes(count: int, angles_per_atom: float = 59.0, seed: int = 0) -> list[Capacity]:
    """Like crystals of MP-20: 1 to 20 atoms with 26 long and 3 short bonds and 59 angles each."""
    rng = np.random.default_rng(seed)
    return [
        Capacity(
            1, num_atoms, *rng.poisson(num_atoms * np.array([26, 3, angles_per_atom])).tolist()
        )
        for num_atoms in rng.integers(1, 21, count).tolist()
    ]


def total(chosen: list[Capacity]) -> Capacity:
    return Capacity(*np.sum([dataclasses.astuple(size) for size in chosen], axis=0).tolist())


@pytest.mark.parametrize("angles_per_atom", [0.0, 59.0, 400.0])
@pytest.mark.parametrize("num_lanes", [1, 3])
def test_every_crystal_is_chosen_once_and_fits(angles_per_atom: float, num_lanes: int) -> None:
    waiting = sizes(100, angles_per_atom)
    capacities = packing.capacities(waiting)
    common = packing.common(waiting, 8192)
    count = 0
    while waiting:
        chosen, capacity = packing.choose(waiting, capacities, common, num_lanes)
        assert 0 in chosen
        assert len(set(chosen)) == len(chosen)
        assert total([waiting[index] for index in chosen]).fits(capacity)
        assert capacity in capacities[: common + 1]
        waiting = [size for index, size in enumerate(waiting) if index not in chosen]
        count += len(chosen)
    assert count == 100


@pytest.mark.parametrize("angles_per_atom", [59.0, 85.0, 400.0])
def test_batches_are_nearly_full(angles_per_atom: float) -> None:
    waiting = sizes(100, angles_per_atom)
    capacities = packing.capacities(waiting)
    common = packing.common(waiting, 8192)
    chosen, capacity = packing.choose(waiting, capacities, common, 1)
    assert capacity == capacities[common]
    assert packing.rows(total([waiting[index] for index in chosen])) > 0.75 * packing.rows(capacity)


def test_the_last_crystals_are_shared_among_the_lanes_in_small_batches() -> None:
    waiting = sizes(4)
    capacities = packing.capacities(waiting)
    common = packing.common(waiting, 8192)
    alone, large = packing.choose(waiting, capacities, common, 1)
    shared, small = packing.choose(waiting, capacities, common, 4)
    assert len(alone) == 4
    assert len(shared) < 4
    assert packing.rows(small) < packing.rows(large)


def test_a_crystal_that_needs_more_gets_a_larger_capacity() -> None:
    large = Capacity(1, 100, 2600, 300, 60_000)
    waiting = [large, *sizes(10)]
    capacities = packing.capacities(waiting[1:])
    chosen, capacity = packing.choose(waiting, capacities, 1, 1)
    assert large.fits(capacity)
    assert not large.fits(capacities[1])
    # The others fill what it leaves.
    assert len(chosen) == 11


def test_all_runs_on_similar_crystals_share_their_capacities() -> None:
    assert packing.capacities(sizes(64, seed=1)) == packing.capacities(sizes(64, seed=2))
    assert packing.capacities(sizes(64))[-1] == packing.LARGEST
