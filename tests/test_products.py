"""Products with gradients of their own, against the plain expressions and JAX's gradients."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.models import products
from crystal_diffusion_jax.models.products import as_pairs

# Crystals, atoms, features, hidden width, heads, width of a head: all different.
B, N, F, C, H, D = 3, 5, 7, 6, 4, 2


def layer(features: jax.Array, kernel: jax.Array, of_crystal: jax.Array) -> jax.Array:
    return products.hidden_layer(as_pairs(features), kernel, of_crystal)


def plain_layer(features: jax.Array, kernel: jax.Array, of_crystal: jax.Array) -> jax.Array:
    return nn.silu(jnp.einsum("bijf,fc->bijc", features, kernel) + of_crystal[:, None, None])


CASES: list[tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = [
    (layer, plain_layer, [(B, N, N, F), (F, C), (B, C)]),
    (
        products.to_heads,
        lambda hidden, kernel: jnp.einsum("bijc,ch->bijh", hidden, kernel),
        [(B, N, N, C), (C, H)],
    ),
    (
        products.mean_over_pairs,
        lambda weights, hidden: jnp.sum(weights[..., None] * hidden[..., None, :], axis=2),
        [(B, N, N, H), (B, N, N, C)],
    ),
    (
        products.project_heads,
        lambda mean, kernel: jnp.einsum("bihc,hcd->bihd", mean, kernel),
        [(B, N, H, C), (H, C, D)],
    ),
]


@pytest.mark.parametrize(("found", "expected", "shapes"), CASES)
def test_values_and_gradients_are_those_of_the_plain_expression(found, expected, shapes):
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    value, pull = jax.vjp(jax.jit(found), *inputs)
    plain_value, plain_pull = jax.vjp(jax.jit(expected), *inputs)
    np.testing.assert_allclose(value, plain_value, atol=1e-5)
    upstream = jnp.asarray(rng.normal(size=value.shape), jnp.float32)
    for gradient, plain_gradient in zip(pull(upstream), plain_pull(upstream), strict=True):
        assert np.abs(plain_gradient).max() > 0.1
        np.testing.assert_allclose(gradient, plain_gradient, atol=2e-5)
