"""Noise in the order of a property: which values come with which crystals."""

import dataclasses

import numpy as np
import pytest

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.data.rank_noise import RankNoise
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.training.training_data import prepare_data
from tests.smoke_run import CONFIG, splits

DRAWS = 20_000


def shares(values: np.ndarray, reach: int) -> np.ndarray:
    """[M, M] how often each crystal comes with the value of each."""
    noise = RankNoise(values[:, None], np.array([True]), reach)
    rows = np.tile(np.arange(len(values)), (DRAWS, 1))
    drawn = noise.draw(np.random.default_rng(0), rows)[..., 0]
    return np.mean(drawn[:, :, None] == values, axis=0)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_values_come_from_near_places_and_are_reflected_at_both_ends(reach):
    values = np.array([3.0, -1.0, 7.0, 2.5, 90.0, 4.0, 0.0])
    places = [-1.0, 0.0, 2.5, 3.0, 4.0, 7.0, 90.0]
    expected = np.zeros((7, 7))
    for place, value in enumerate(places):
        # The line of places, forwards and backwards by turns: ... 1 0 0 1 2 ... 5 6 6 5 ...
        line = [*places[::-1], *places, *places[::-1]]
        near = line[7 + place - reach : 7 + place + reach + 1]
        for other in near:
            row, column = values == value, values == other
            expected[np.ix_(row, column)] += 1 / len(near)
    found = shares(values, reach)
    # Five standard errors of a share of one half.
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / DRAWS**0.5)
    # The lowest value is that of `reach` crystals, equally often, and each value comes as often.
    lowest = np.sort(values)[:reach]
    np.testing.assert_array_equal(found[:, 1] > 1.5 / (2 * reach + 1), np.isin(values, lowest))
    # The same errors of seven independent shares together.
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=5 * 0.5 * (7 / DRAWS) ** 0.5)


def test_missing_values_and_classes_stay():
    rng = np.random.default_rng(1)
    numbers, classes = rng.permutation(40.0 + np.arange(40)), rng.integers(0, 3, 40).astype(float)
    numbers[[0, 7, 39]] = np.nan
    noise = RankNoise(np.stack([numbers, classes], axis=1), np.array([True, False]), 4)
    rows = rng.integers(0, 40, (50, 6))
    drawn = noise.draw(rng, rows)
    np.testing.assert_array_equal(drawn[..., 1], classes[rows])
    np.testing.assert_array_equal(np.isnan(drawn[..., 0]), np.isnan(numbers[rows]))
    known = ~np.isnan(numbers)
    assert set(np.unique(drawn[..., 0][known[rows]])) <= set(numbers[known])
    place = np.argsort(np.argsort(numbers))
    of_value = dict(zip(numbers[known], place[known], strict=True))
    moved = [
        abs(of_value[value] - place[row])
        for value, row in zip(drawn[..., 0].ravel(), rows.ravel(), strict=True)
        if known[row]
    ]
    assert max(moved) == 4


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_so_few_values_that_the_reach_exceeds_them(count):
    values = np.append(np.arange(float(count)), [np.nan, np.nan])[:, None]
    drawn = RankNoise(values, np.array([True]), 10).draw(
        np.random.default_rng(0), np.tile(np.arange(count + 2), (300, 1))
    )
    assert set(np.unique(drawn[:, :count])) == set(range(count))
    assert np.isnan(drawn[:, count:]).all()


def test_training_shows_the_same_crystals_with_values_of_near_rank():
    plain, noised = (
        prepare_data(
            dataclasses.replace(
                CONFIG, training=dataclasses.replace(CONFIG.training, rank_noise=k)
            ),
            splits(),
            devices.data_mesh(),
        )
        for k in (0, 3)
    )
    one, other = plain.batches.group(1), noised.batches.group(1)
    for field in dataclasses.fields(one.crystals):
        np.testing.assert_array_equal(
            getattr(one.crystals, field.name), getattr(other.crystals, field.name)
        )
    mean, std = plain.statistics.property_mean[0], plain.statistics.property_std[0]
    train = np.sort(((splits()["train"].properties[:, 0] - mean) / std).astype(np.float32))
    # Of equal values the first and the last place.
    first, last = (
        [np.searchsorted(train, batch.properties, side) for batch in (one, other)]
        for side in ("left", "right")
    )
    apart = np.maximum(first[0] - last[1], first[1] - last[0]) + 1
    assert apart.max() == 3
    # What is validated, and what a request means, is not noised; each process draws the same.
    assert plain.statistics == noised.statistics
    np.testing.assert_array_equal(plain.validation[0].properties, noised.validation[0].properties)
    parts = [noised.batches.group(1, 2, range(i, i + 1)).properties for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), other.properties)


def test_a_negative_reach_is_refused():
    with pytest.raises(ValueError, match="rank_noise must be at least 0, not -1"):
        TrainingConfig(rank_noise=-1)
