"""Features of a property's rank, and networks without them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import DenoiserConfig, ExperimentConfig
from crystal_diffusion_jax.data.arrays import dataset_statistics
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition, PropertyEmbedding, rank_features
from tests.smoke_run import drawn_params, splits
from tests.test_denoiser import NUM_SPECIES, TIMES, base_condition, base_crystals

Z_NORMAL = tuple(scipy.stats.norm.ppf(np.linspace(0.001, 0.999, 101)).tolist())
UNIFORM = tuple(np.linspace(-2.0, 2.0, 101).tolist())


features_of = jax.jit(rank_features, static_argnums=(1, 2))


def shares(values: list[float], row: tuple[float, ...]) -> np.ndarray:
    """u of each value, from its first cosine."""
    cosines = features_of(np.array(values, np.float32)[:, None], (row,), 1)
    return np.arccos(np.clip(np.asarray(cosines[:, 0, 0], np.float64), -1, 1)) / np.pi


def test_the_rank_is_the_cumulative_distribution():
    values = [-1.5, -0.5, 0.0, 0.25, 1.2]
    expected = (scipy.stats.norm.cdf(values) - 0.001) / 0.998
    np.testing.assert_allclose(shares(values, Z_NORMAL), expected, atol=1e-3)


def test_the_rank_is_constant_beyond_the_data():
    found = np.asarray(features_of(np.array([[-9.0], [-2.0], [2.0], [9.0]]), (UNIFORM,), 3))
    np.testing.assert_allclose(found[:2, 0], np.ones((2, 3)), atol=1e-6)
    np.testing.assert_allclose(found[2:, 0], [[-1, 1, -1]] * 2, atol=1e-6)


def test_each_property_has_its_own_quantiles_and_all_cosines():
    values = np.random.default_rng(0).uniform(-2, 2, size=(7, 2)).astype(np.float32)
    wide = tuple(np.linspace(-4.0, 4.0, 101).tolist())
    found = features_of(values, (UNIFORM, wide), 5)
    u = np.stack([(values[:, 0] + 2) / 4, (values[:, 1] + 4) / 8], axis=1)
    np.testing.assert_allclose(found, np.cos(np.pi * u[..., None] * np.arange(1, 6)), atol=1e-5)


def test_a_value_that_many_crystals_share_has_their_mean_rank_and_no_jump_beside_it():
    row = (-0.5,) * 51 + tuple(np.linspace(0.0, 2.0, 50).tolist())  # half the crystals: no gap
    just_below, just_above = np.nextafter(np.float32(-0.5), np.array([-1.0, 1.0], np.float32))
    found = shares([-0.5, float(just_below), float(just_above), 0.0], row)
    np.testing.assert_allclose(found, [0.25, 0.25, 0.25, 0.51], atol=1e-4)


def test_a_constant_property_has_one_rank():
    np.testing.assert_allclose(shares([-1.0, 0.0, 1.0], (0.0,) * 101), 0.5, atol=1e-6)


EMBEDDING = PropertyEmbedding(8, num_rank_features=4, quantiles=(UNIFORM,))
VALUES = np.array([[0.3], [1.1]], np.float32)


def asked_for(values: np.ndarray, present: np.ndarray) -> Condition:
    return Condition(values=jnp.asarray(values, jnp.float32), present=jnp.asarray(present))


@functools.cache
def embedding_params() -> Any:
    condition = asked_for(VALUES, np.ones((2, 1), bool))
    return jax.jit(EMBEDDING.init)(jax.random.key(0), condition)["params"]


@functools.partial(jax.jit, static_argnums=0)
def embed(embedding: PropertyEmbedding, params: Any, condition: Condition) -> Any:
    return embedding.apply({"params": params}, condition)


def test_fresh_weights_do_not_see_the_rank_and_learn_to():
    condition = asked_for(VALUES, np.ones((2, 1), bool))
    params = embedding_params()
    assert np.abs(params["weight"]).min() > 0
    np.testing.assert_array_equal(params["by_rank"], 0.0)
    plain = {name: leaf for name, leaf in params.items() if name != "by_rank"}
    found, expected = (
        np.asarray(embed(*each, condition))
        for each in ((EMBEDDING, params), (PropertyEmbedding(8), plain))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(embed(EMBEDDING, p, condition))))(params)
    cosines = np.cos(np.pi * np.array([2.3, 3.1])[:, None] / 4 * np.arange(1, 5)).sum(axis=0)
    np.testing.assert_allclose(
        gradient["by_rank"], np.tile(cosines[None, :, None], (1, 1, 8)), atol=1e-5
    )


def test_where_the_property_is_absent_its_rank_is_not_seen():
    condition = asked_for(VALUES, np.array([[True], [False]]))
    params = embedding_params()
    moved = {**params, "by_rank": np.ones_like(params["by_rank"])}
    before, after = (np.asarray(embed(EMBEDDING, p, condition)) for p in (params, moved))
    # The sum of the cosines of 0.3, whose rank is 2.3 / 4.
    cosines = np.cos(np.pi * 2.3 / 4 * np.arange(1, 5)).sum()
    np.testing.assert_allclose((after - before)[0], cosines, atol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("conditioning", ["cdi", "cds"])
def test_the_denoiser_uses_the_rank(conditioning):
    config = DenoiserConfig(
        conditioning=conditioning,
        width=16,
        pair_hidden_width=16,
        num_blocks=1,
        num_heads=2,
        num_rank_features=3,
    )
    network = Denoiser(config, NUM_SPECIES, (UNIFORM,))
    apply: Any = jax.jit(network.apply)
    params = drawn_params(network)
    by_rank = params["property"]["by_rank"]
    other = {**params["property"], "by_rank": np.random.default_rng(2).normal(size=by_rank.shape)}
    logits = [
        np.asarray(apply({"params": p}, base_crystals(), TIMES, base_condition())[2])
        for p in (params, {**params, "property": other})
    ]
    changes = np.abs(logits[1] - logits[0]).max(axis=(1, 2))
    assert (changes[[0, 1, 3]] > 0.01).all()
    assert changes[2] == 0  # its property is not asked for


def test_the_network_of_a_data_set_has_its_quantiles_as_z_scores():
    statistics = dataset_statistics(splits()["train"], scale_by_num_atoms=False)
    network = denoising.build(
        ExperimentConfig(model=DenoiserConfig(num_rank_features=2)), statistics
    )
    values = splits()["train"].properties[:, 0]
    z = (values - values.mean()) / values.std()
    np.testing.assert_allclose(
        network.quantiles[0], np.quantile(z, np.linspace(0, 1, 101)), atol=1e-5
    )


def test_without_ranks_the_network_does_not_depend_on_the_quantiles():
    statistics = dataset_statistics(splits()["train"], scale_by_num_atoms=False)
    assert denoising.build(ExperimentConfig(), statistics).quantiles == ()


def test_a_negative_number_of_rank_features_is_refused():
    with pytest.raises(ValueError, match="num_rank_features must be at least 0"):
        DenoiserConfig(num_rank_features=-1)
