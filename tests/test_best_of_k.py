"""evaluation/best_of_k.py: the best of k against all choices of k."""

import itertools

import numpy as np
import pytest

from crystal_diffusion_jax.evaluation.best_of_k import best_of

POOLS = [
    [np.array([0.3, np.inf, 0.1, 0.3, np.inf])],
    [np.array([np.inf, np.inf])],
    [np.array([0.2])],
    [np.array([0.4, np.inf, 0.2]), np.array([np.inf, 0.3, 0.2, 0.1])],
    [],
]


@pytest.mark.parametrize("pools", POOLS)
@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_it_is_the_mean_over_all_choices(pools: list[np.ndarray], k: int) -> None:
    choices = [itertools.combinations(pool, min(k, len(pool))) for pool in pools]
    smallest = [
        min(itertools.chain.from_iterable(choice), default=np.inf)
        for choice in itertools.product(*choices)
    ]
    values, weights = best_of(pools, k)
    assert np.all(np.diff(values) > 0)
    expected = [np.mean(np.array(smallest) == value) for value in values]
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    assert weights.sum() == pytest.approx(np.mean(np.isfinite(smallest)))


@pytest.mark.parametrize(
    ("k", "value", "share"), [(1, 0.3, 1), (2, 0.3, 1), (3, 0.1, 1), (9, 0.1, 1)]
)
def test_ranked_predictions_count_in_their_order(k: int, value: float, share: float) -> None:
    values, weights = best_of([np.array([0.3, np.inf, 0.1])], k, ranked=True)
    assert weights @ values == pytest.approx(value)
    assert weights.sum() == pytest.approx(share)
