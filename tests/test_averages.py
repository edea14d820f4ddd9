"""The logged loss against a sum over the crystals that the steps draw."""

import numpy as np
import pytest

from crystal_diffusion_jax.data.arrays import dataset_statistics
from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.training.averages import BySize, LossAverages
from tests.test_batches import made_up

STEPS_PER_CALL = 2
# Loss of a crystal of each size in atoms.
LOSS = {2: 1.0, 3: 2.0, 8: 5.0}


@pytest.fixture(scope="module")
def batches() -> Batches:
    """1,500 crystals of three sizes."""
    dataset = made_up(np.repeat([2, 3, 8], [300, 450, 750]))
    return Batches(dataset, dataset_statistics(dataset, True), 48, 0, STEPS_PER_CALL)


def losses(batches: Batches, first: int, last: int) -> dict[str, np.ndarray]:
    """What the steps give if each crystal has the loss of its size."""
    rows = []
    for step in range(first, last):
        group = batches.group(step // STEPS_PER_CALL)
        weight = group.weight[step % STEPS_PER_CALL]
        size = group.crystals.mask.shape[-1]
        rows.append(LOSS[size] * weight.sum() / np.count_nonzero(weight))
    return {"loss": np.array(rows), "lattice": 10 * np.array(rows), "grad_norm": np.ones(len(rows))}


def test_the_mean_is_that_over_all_crystals_whatever_sizes_were_drawn(batches):
    assert batches.sizes == (2, 3, 8)
    expected = (300 * 1.0 + 450 * 2.0 + 750 * 5.0) / 1500
    averages = LossAverages(batches, {})
    means, by_size = averages.update(losses(batches, 0, 100), 100)
    assert by_size.keys() == LOSS.keys()
    assert means["loss"] == pytest.approx(expected)
    assert means["lattice"] == pytest.approx(10 * expected)
    sizes = set()
    for step in range(100, 120, 2):
        means, by_size = averages.update(losses(batches, step, step + 2), step + 2)
        (size,) = by_size
        sizes.add(size)
        assert means["loss"] == pytest.approx(expected)
    assert len(sizes) > 1  # a mean over the steps would jump from one to another


def test_a_resumed_run_goes_on_with_the_latest_means_of_each_size(batches):
    known: BySize = {}
    whole = LossAverages(batches, {})
    for step in range(0, 40, 2):
        _, by_size = whole.update(losses(batches, step, step + 2), step + 2)
        known |= by_size
    resumed = LossAverages(batches, known)
    for step in range(40, 60, 2):
        window = losses(batches, step, step + 2)
        assert resumed.update(window, step + 2) == whole.update(window, step + 2)


def test_the_norm_of_the_gradient_is_a_mean_over_steps(batches):
    window = losses(batches, 0, 4) | {"grad_norm": np.array([1.0, 2.0, 3.0, 6.0])}
    assert LossAverages(batches, {}).update(window, 4)[0]["grad_norm"] == 3.0
