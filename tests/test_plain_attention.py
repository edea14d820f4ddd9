"""The form that speed is measured against computes the same numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.plain_attention import PlainAttention, plain_pair_features
from crystal_diffusion_jax.models import attention
from crystal_diffusion_jax.models.attention import CrystalAttention
from crystal_diffusion_jax.models.embeddings import pair_features

WIDTH, HEADS, FREQUENCIES = 16, 2, 3


@pytest.mark.parametrize("average_from", [0, 10**9], ids=["average first", "every pair"])
@pytest.mark.parametrize("num_atoms", [5, 20])
def test_the_efficient_attention_equals_the_plain_one(num_atoms, average_from, monkeypatch):
    monkeypatch.setattr(attention, "AVERAGE_HIDDEN_FROM", average_from)
    rng = np.random.default_rng(0)
    frac_coords = jnp.asarray(rng.random((3, num_atoms, 3)), jnp.float32)
    atoms = jnp.asarray(rng.normal(size=(3, num_atoms, WIDTH)), jnp.float32)
    gram = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)
    condition = jnp.asarray(rng.normal(size=(3, WIDTH)), jnp.float32)
    mask = jnp.arange(num_atoms) < jnp.array([num_atoms, num_atoms - 1, 1])[:, None]
    efficient = CrystalAttention(WIDTH, HEADS, WIDTH)
    plain = PlainAttention(WIDTH, HEADS, WIDTH)

    @jax.jit
    def both(params: Any) -> Any:
        pairs = pair_features(frac_coords, FREQUENCIES)
        plain_pairs = plain_pair_features(frac_coords, FREQUENCIES)
        return (pairs, efficient.apply(params, atoms, pairs, gram, mask, condition)), (
            plain_pairs,
            plain.apply(params, atoms, plain_pairs, gram, mask, condition),
        )

    shapes = jax.eval_shape(
        lambda key: efficient.init(
            key, atoms, pair_features(frac_coords, FREQUENCIES), gram, mask, condition
        ),
        jax.random.key(0),
    )
    params = jax.tree.map(
        lambda like: rng.normal(scale=0.25, size=like.shape).astype(np.float32), shapes
    )
    (pairs, found), (plain_pairs, expected) = jax.device_get(both(params))
    np.testing.assert_allclose(pairs, plain_pairs, atol=1e-5)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
