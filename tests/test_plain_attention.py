"""The form that speed is measured against computes the same numbers."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import plain_attention
from benchmarks.plain_attention import plain_pair_features
from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.models.attention import CrystalAttention
from crystal_diffusion_jax.models.embeddings import pair_features
from crystal_diffusion_jax.models.products import as_pairs

WIDTH, HEADS, FREQUENCIES = 16, 2, 3


@pytest.mark.parametrize("num_atoms", [5, 20])
def test_the_efficient_attention_and_its_gradients_equal_the_plain_ones(num_atoms):
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape, scale=scale), jnp.float32)

    frac_coords = jnp.asarray(rng.random((3, num_atoms, 3)), jnp.float32)
    inputs = {"atoms": normal(3, num_atoms, WIDTH), "gram": normal(3, 6)}
    inputs["condition"] = normal(3, WIDTH)
    mask = jnp.arange(num_atoms) < jnp.array([num_atoms, num_atoms - 1, 1])[:, None]
    upstream = normal(3, num_atoms, WIDTH) * mask[..., None]
    config = DenoiserConfig(width=WIDTH, num_heads=HEADS, pair_hidden_width=WIDTH)
    efficient = CrystalAttention(config)
    plain = plain_attention.CrystalAttention(config)

    def apply(module: nn.Module, features: Any, params: Any, inputs: Any) -> Any:
        pairs = as_pairs(features(frac_coords, FREQUENCIES))
        atoms, gram, condition = (inputs[name] for name in ("atoms", "gram", "condition"))
        return module.apply(params, atoms, pairs, gram, mask, condition)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def value_and_gradients(module: nn.Module, features: Any, params: Any) -> Any:
        value, pull = jax.vjp(functools.partial(apply, module, features), params, inputs)
        return value * mask[..., None], pull(upstream)

    shapes = jax.eval_shape(
        lambda key: efficient.init(
            key,
            inputs["atoms"],
            as_pairs(pair_features(frac_coords, FREQUENCIES)),
            inputs["gram"],
            mask,
            inputs["condition"],
        ),
        jax.random.key(0),
    )
    params = jax.tree.map(lambda like: normal(*like.shape, scale=0.25), shapes)
    found = value_and_gradients(efficient, pair_features, params)
    expected = value_and_gradients(plain, plain_pair_features, params)

    def compare(one: jax.Array, other: jax.Array) -> None:
        largest = float(jnp.abs(other).max())
        assert largest > 0.01
        np.testing.assert_allclose(one, other, atol=1e-5 * largest)

    jax.tree.map(compare, found, expected)


def test_pair_features_equal_the_plain_ones():
    frac_coords = jnp.asarray(np.random.default_rng(0).random((3, 7, 3)), jnp.float32)
    found = jax.jit(pair_features, static_argnums=1)(frac_coords, FREQUENCIES)
    np.testing.assert_allclose(found, plain_pair_features(frac_coords, FREQUENCIES), atol=1e-5)
