from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from crystal_diffusion_jax.models.embeddings import (
    MLP,
    Condition,
    PropertyEmbedding,
    gram_features,
    pair_features,
    sinusoidal_time,
)

pair_features_of = jax.jit(pair_features, static_argnums=1)
gram_features_of = jax.jit(gram_features)
time_embedding_of = jax.jit(sinusoidal_time, static_argnums=1)

# Relative error of an angle 2 pi m f after the rounding of 2 pi and of two products to float32.
ANGLE_ERROR = 3 * 2.0**-24


@pytest.mark.parametrize("num_frequencies", [1, 3, 10])
def test_pair_features_are_sines_and_cosines_of_key_minus_query(num_frequencies):
    frac_coords = np.random.default_rng(0).uniform(size=(2, 4, 3)).astype(np.float32)
    features = np.asarray(pair_features_of(frac_coords, num_frequencies))
    exact = frac_coords.astype(np.float64)
    tolerance = 2 * ANGLE_ERROR * 2 * np.pi * num_frequencies + 5e-7
    assert features.shape == (2, 4, 4, 6 * num_frequencies)
    for b, query, key in np.ndindex(2, 4, 4):
        angles = [
            2 * np.pi * order * (exact[b, key, axis] - exact[b, query, axis])
            for axis in range(3)
            for order in range(1, num_frequencies + 1)
        ]
        expected = np.concatenate([np.sin(angles), np.cos(angles)])
        np.testing.assert_allclose(features[b, query, key], expected, atol=tolerance)


def test_gram_features_are_the_upper_triangle_of_all_scalar_products():
    lattice = np.random.default_rng(2).normal(size=(5, 3, 3)).astype(np.float32)
    features = np.asarray(gram_features_of(lattice))
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    for row, cell in zip(features, lattice.astype(np.float64), strict=True):
        expected = [cell[i] @ cell[j] for i, j in pairs]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_the_time_embedding_is_that_of_the_transformer_paper():
    width, t = 16, np.arange(1, 1001)
    exponents = np.arange(width // 2) / (width // 2)
    angles = t[:, None] / 10_000.0**exponents
    np.testing.assert_allclose(
        time_embedding_of(t, width),
        np.concatenate([np.sin(angles), np.cos(angles)], axis=-1),
        atol=2e-4,  # an angle of 1000 is known to 6e-5 in float32
    )


@pytest.mark.parametrize("width", [8, 64])
def test_no_two_of_a_thousand_times_look_alike(width):
    assert pdist(time_embedding_of(np.arange(1, 1001), width)).min() > 0.01


def asked_for(values: np.ndarray, present: np.ndarray) -> Condition:
    return Condition(values=jnp.asarray(values, jnp.float32), present=jnp.asarray(present))


@pytest.fixture(scope="module")
def embedding():
    """Three properties into width 6, with all parameters away from 0."""
    rng = np.random.default_rng(4)
    params = {
        name: rng.normal(size=(3, 6)).astype(np.float32) for name in ("weight", "bias", "null")
    }
    embed = jax.jit(PropertyEmbedding(6).apply)
    return params, lambda condition: embed({"params": params}, condition)


def all_subsets() -> np.ndarray:
    return (np.arange(8)[:, None] >> np.arange(3)) % 2 == 1


def test_every_subset_of_properties_is_a_sum_of_linear_and_null_vectors(embedding):
    params, embed = embedding
    values = np.random.default_rng(5).normal(size=(8, 3)).astype(np.float32)
    found = embed(asked_for(values, all_subsets()))
    for row, (value, present) in enumerate(zip(values, all_subsets(), strict=True)):
        expected = np.zeros(6)
        for p in range(3):
            given = value[p] * np.asarray(params["weight"][p]) + np.asarray(params["bias"][p])
            expected += given if present[p] else np.asarray(params["null"][p])
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


@pytest.mark.parametrize("junk", [1e30, -7.0, np.nan])
def test_the_value_of_an_absent_property_is_never_seen(embedding, junk):
    _, embed = embedding
    present = all_subsets()
    zero = asked_for(np.where(present, 0.5, 0.0), present)
    other = asked_for(np.where(present, 0.5, junk), present)
    np.testing.assert_array_equal(embed(other), embed(zero))


def test_fresh_properties_have_weights_and_null_vectors_of_their_own():
    condition = Condition(values=jnp.ones((1, 2)), present=jnp.ones((1, 2), bool))
    params = jax.jit(PropertyEmbedding(4).init)(jax.random.key(0), condition)["params"]
    shapes = {name: leaf.shape for name, leaf in params.items()}
    assert shapes == {"weight": (2, 4), "bias": (2, 4), "null": (2, 4)}
    for name in ("weight", "null"):
        assert len(np.unique(params[name])) == 8


def test_the_mlp_is_linear_silu_linear():
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=(3, 5)), rng.normal(size=(5, 2))
    params = {
        "Dense_0": {"kernel": first, "bias": np.full(5, 0.1)},
        "Dense_1": {"kernel": second, "bias": np.full(2, -0.2)},
    }
    inputs = rng.normal(size=(4, 3))
    hidden = inputs @ first + 0.1
    expected = hidden / (1.0 + np.exp(-hidden)) @ second - 0.2
    found: Any = jax.jit(MLP(5, 2).apply)({"params": params}, inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
