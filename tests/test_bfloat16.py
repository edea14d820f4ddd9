"""Blocks whose activations are bfloat16: near the float32 ones, from the same weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import DTYPES, DenoiserConfig, ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.training.init_from import _architecture
from tests.smoke_run import drawn_params

NUM_SPECIES, NUM_ATOMS, NUM_CRYSTALS = 5, 6, 16
# 7 bits of the mantissa: numbers are rounded by up to half of this.
EPSILON = 2.0**-7


def network(dtype: str, conditioning: str = "cds") -> Denoiser:
    config = DenoiserConfig(
        conditioning=conditioning,
        width=32,
        pair_hidden_width=32,
        num_blocks=2,
        num_heads=2,
        num_radial_features=2,
        dtype=dtype,
    )
    return Denoiser(config, num_species=NUM_SPECIES)


def inputs() -> tuple[Crystals, jax.Array, Condition]:
    rng = np.random.default_rng(0)
    shape = (NUM_CRYSTALS, NUM_ATOMS)
    mask = np.arange(NUM_ATOMS) < rng.integers(1, NUM_ATOMS + 1, (NUM_CRYSTALS, 1))
    crystals = Crystals(
        lattice=jnp.asarray(np.eye(3) + 0.3 * rng.normal(size=(NUM_CRYSTALS, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(rng.random((*shape, 3)), jnp.float32),
        species=jnp.asarray(rng.integers(NUM_SPECIES, size=shape), jnp.int32),
        mask=jnp.asarray(mask),
    )
    values = jnp.asarray(rng.normal(size=(NUM_CRYSTALS, 1)), jnp.float32)
    t = jnp.asarray(rng.integers(1, 1000, NUM_CRYSTALS), jnp.int32)
    return crystals, t, Condition(values, jnp.ones(values.shape, bool))


def scalar(denoiser: Denoiser, params: Any) -> jax.Array:
    """A number that depends on all outputs of real atoms."""
    crystals, t, condition = inputs()
    outputs: Any = denoiser.apply({"params": params}, crystals, t, condition)
    lattice, score, logits = outputs
    real = crystals.mask[..., None]
    return sum(
        (jnp.mean(jnp.square(part)) for part in (lattice, score * real, logits * real)),
        start=jnp.zeros(()),
    )


@pytest.fixture(scope="module")
def params() -> Any:
    return drawn_params(network("float32"))


def test_float32_knows_nothing_of_bfloat16(params: Any) -> None:
    texts = {
        dtype: jax.jit(jax.grad(lambda p, d=dtype: scalar(network(d), p))).lower(params).as_text()
        for dtype in DTYPES
    }
    assert "bf16" not in texts["float32"]
    assert "bf16" in texts["bfloat16"]


def test_outputs_are_float32_and_near(params: Any) -> None:
    found, expected = (
        jax.jit(network(dtype).apply)({"params": params}, *inputs()) for dtype in DTYPES[::-1]
    )
    mask = np.asarray(inputs()[0].mask)
    for name, one, other in zip(("lattice", "score", "logits"), found, expected, strict=True):
        assert one.dtype == jnp.float32
        real = (one, other) if name == "lattice" else (one[mask], other[mask])
        error = np.linalg.norm(real[0] - real[1]) / np.linalg.norm(real[1])
        # Two blocks round some ten times each; errors of random sign add up as the root of them.
        assert 0 < error < EPSILON * np.sqrt(20), name


def test_gradients_are_finite_float32_and_near(params: Any) -> None:
    found, expected = (
        jax.jit(jax.grad(lambda p, d=dtype: scalar(network(d), p)))(params)
        for dtype in DTYPES[::-1]
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    one, other = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (found, expected))
    assert bool(jnp.all(jnp.isfinite(one)))
    assert float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other)) < 2 * EPSILON * np.sqrt(20)


@pytest.mark.parametrize("conditioning", ["none", "cdi", "cds"])
def test_weights_are_those_of_float32(conditioning: str) -> None:
    shapes = [
        jax.eval_shape(network(dtype, conditioning).init, jax.random.key(0), *inputs())
        for dtype in DTYPES
    ]
    assert shapes[0] == shapes[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_a_model_of_the_other_dtype_is_the_same_architecture() -> None:
    one = ExperimentConfig()
    other = dataclasses.replace(one, model=dataclasses.replace(one.model, dtype="bfloat16"))
    assert _architecture(one) == _architecture(other)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be one of"):
        DenoiserConfig(dtype="float16")
