"""The efficient attention against a textbook one: explicit alpha_ij and beta_ij for every pair."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.models.attention import CrystalAttention
from crystal_diffusion_jax.models.products import as_pairs

WIDTH, HEADS, PAIR_WIDTH = 12, 3, 5
PER_HEAD = WIDTH // HEADS
NUM_ATOMS = (4, 2, 1)
NUM_FEATURES = 6

MODULE = CrystalAttention(
    DenoiserConfig(width=WIDTH, num_heads=HEADS, pair_hidden_width=PAIR_WIDTH)
)


def random_inputs(num_atoms: Sequence[int]) -> dict[str, np.ndarray]:
    """atoms, pairs, of_crystal, mask and condition of crystals with these numbers of atoms."""
    rng = np.random.default_rng(0)
    count, padded = len(num_atoms), max(num_atoms)
    normal = {
        "atoms": (count, padded, WIDTH),
        "pairs": (count, padded, padded, NUM_FEATURES),
        "of_crystal": (count, 6),
        "condition": (count, WIDTH),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in normal.items()}
    return arrays | {"mask": np.arange(padded) < np.array(num_atoms)[:, None]}


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return random_inputs(NUM_ATOMS)


@pytest.fixture(scope="module")
def params(inputs) -> Any:
    """Weights and biases, none of them zero, drawn by numpy."""
    arrays: dict[str, Any] = inputs | {"pairs": as_pairs(jnp.asarray(inputs["pairs"]))}
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), **arrays)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda like: rng.normal(scale=0.5, size=like.shape).astype(np.float32), shapes
    )


def attend(params: Any, inputs: dict[str, np.ndarray], **changed: Any) -> np.ndarray:
    return np.asarray(apply(params, **(inputs | changed)))


@jax.jit
def apply(params: Any, pairs: jax.Array, **others: Any) -> Any:
    return MODULE.apply({"params": params}, pairs=as_pairs(pairs), **others)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def textbook(params: Any, inputs: dict[str, np.ndarray], with_condition: bool) -> np.ndarray:
    """Eqs. (11)-(13) and (17)-(19) pair by pair in float64, for the real atoms alone."""
    p = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    x = {name: array.astype(np.float64) for name, array in inputs.items()}
    out = np.full(inputs["atoms"].shape, np.nan)
    for b, count in enumerate(inputs["mask"].sum(axis=1)):
        z = x["atoms"][b, :count] @ p["qkv"]["kernel"] + p["qkv"]["bias"]
        if with_condition:
            z = z + x["condition"][b] @ p["qkv_condition"]["kernel"]
        query, key, value = z[:, :WIDTH], z[:, WIDTH : 2 * WIDTH], z[:, 2 * WIDTH :]
        alpha = np.zeros((count, count, HEADS))
        beta = np.zeros((count, count, WIDTH))
        first = {
            name: np.concatenate([p[f"{name}_pair"]["kernel"], p[f"{name}_gram"]["kernel"]])
            for name in ("alpha", "beta")
        }
        for i in range(count):
            for j in range(count):
                features = np.concatenate([x["pairs"][b, i, j], x["of_crystal"][b]])
                hidden = {
                    name: silu(features @ kernel + p[f"{name}_gram"]["bias"])
                    for name, kernel in first.items()
                }
                alpha[i, j] = hidden["alpha"] @ p["alpha"]["kernel"]
                for h in range(HEADS):
                    channels = slice(h * PER_HEAD, (h + 1) * PER_HEAD)
                    beta[i, j, channels] = hidden["beta"] @ p["beta_kernel"][h] + p["beta_bias"][h]
        heads = []
        for h in range(HEADS):
            channels = slice(h * PER_HEAD, (h + 1) * PER_HEAD)
            scores = query[:, channels] @ key[:, channels].T / np.sqrt(PER_HEAD) + alpha[..., h]
            weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            values = value[None, :, channels] + beta[..., channels]
            heads.append(np.einsum("ij,ijc->ic", weights, values))
        out[b, :count] = np.concatenate(heads, axis=1) @ p["out"]["kernel"] + p["out"]["bias"]
    return out


@pytest.mark.parametrize("with_condition", [True, False])
@pytest.mark.parametrize("num_atoms", [NUM_ATOMS, (12, 3)])
def test_the_efficient_form_equals_the_textbook_form(params, num_atoms, with_condition):
    inputs = random_inputs(num_atoms)
    changed = {} if with_condition else {"condition": None}
    found = attend(params, inputs, **changed)
    mask = inputs["mask"]
    np.testing.assert_allclose(
        found[mask], textbook(params, inputs, with_condition)[mask], atol=1e-5, rtol=1e-5
    )


def test_padded_atoms_get_no_weight(params, inputs):
    junk = {name: array.copy() for name, array in inputs.items()}
    padding = ~inputs["mask"]
    junk["atoms"][padding] = 50.0
    junk["pairs"][padding[:, None, :] | padding[:, :, None]] = -50.0
    mask = inputs["mask"]
    found = attend(params, junk)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[mask], attend(params, inputs)[mask])
