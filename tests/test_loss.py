import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import stats

from crystal_diffusion_jax.config import LossConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint
from crystal_diffusion_jax.diffusion.coordinates import mean_free
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.training.loss import (
    NoisyBatch,
    diffusion_loss,
    draw_times,
    drop_conditions,
    noise_batch,
)

NUM_SPECIES = 3
NUM_ATOMS = np.array([4, 2, 1, 3])
WEIGHT = jnp.array([1.0, 1.0, 0.0, 1.0])
PROPERTIES = jnp.zeros((4, 1))
KEY = jax.random.key(5)
DEFAULT = LossConfig()


def clean_batch() -> Crystals:
    rng = np.random.default_rng(0)
    return Crystals(
        lattice=jnp.asarray(rng.normal(size=(4, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(rng.random((4, 4, 3)), jnp.float32),
        species=jnp.asarray(rng.integers(NUM_SPECIES, size=(4, 4)), jnp.int32),
        mask=jnp.asarray(np.arange(4) < NUM_ATOMS[:, None]),
    )


def guess(crystals: Crystals, t: Array, condition: Condition) -> Prediction:
    """A wrong denoiser; what it says of an atom or a cell depends on that atom or cell alone."""
    frac_coords = crystals.frac_coords
    return Prediction(
        lattice_eps=0.3 * crystals.lattice + 0.1,
        scaled_score=jnp.cos(9.0 * frac_coords),
        species_logits=jnp.sin(5.0 * frac_coords + crystals.species[..., None]),
    )


noise = jax.jit(noise_batch, static_argnums=(4, 6))


@functools.partial(jax.jit, static_argnums=(3, 4))
def loss_of(
    schedule, batch: NoisyBatch, told: Prediction | None, config: LossConfig, mean_free_score: bool
):
    """Of a denoiser that says what it is told to, or guesses."""
    denoise = guess if told is None else lambda *_: told
    return diffusion_loss(denoise, batch, schedule, config, mean_free_score)


def loss_and_parts(
    schedule,
    crystals: Crystals,
    weight: Array = WEIGHT,
    told: Prediction | None = None,
    config: LossConfig = DEFAULT,
    mean_free_score: bool = True,
):
    dropout = config.condition_dropout
    batch = noise(KEY, crystals, PROPERTIES, weight, NUM_SPECIES, schedule, dropout)
    return loss_of(schedule, batch, told, config, mean_free_score)


@jax.jit
def draw(schedule, crystals: Crystals):
    """Times, noisy crystals and targets that the loss draws with `KEY`."""
    key_time, key_noise, _ = jax.random.split(KEY, 3)
    t = draw_times(key_time, len(NUM_ATOMS), schedule.sigma.shape[0] - 1)
    return t, *joint.noise(key_noise, crystals, t, NUM_SPECIES, schedule)


times_of = jax.jit(draw_times, static_argnums=(1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_times_of_a_batch_fall_one_into_each_equal_part_of_the_range(seed):
    t = np.sort(times_of(jax.random.key(seed), 50, 1000))
    np.testing.assert_array_equal((t - 1) // 20, np.arange(50))


def test_each_time_of_a_batch_is_uniform_on_1_to_T():
    keys = jax.random.split(jax.random.key(0), 5000)
    t = np.asarray(jax.jit(jax.vmap(lambda key: draw_times(key, 3, 10)))(keys))
    for column in t.T:
        counts = np.bincount(column, minlength=11)
        assert counts[0] == 0
        assert len(counts) == 11
        assert stats.chisquare(counts[1:]).pvalue > 1e-6


def test_conditions_are_dropped_with_the_given_probability_each_independently():
    number, probability = 20_000, 0.1
    properties = jnp.arange(2.0 * number).reshape(number, 2)
    condition = jax.jit(drop_conditions)(jax.random.key(0), properties, probability)
    absent = ~np.asarray(condition.present)

    def assert_share(hidden, expected):
        error = np.sqrt(expected * (1 - expected) / number)
        assert abs(hidden.mean() - expected) < 5 * error

    # Either both are hidden together, or else each on its own.
    one = probability + (1 - probability) * probability
    assert_share(absent[:, 0], one)
    assert_share(absent[:, 1], one)
    assert_share(absent.all(axis=1), probability + (1 - probability) * probability**2)
    np.testing.assert_array_equal(condition.values, properties)


def test_a_single_property_is_dropped_with_the_probability_itself():
    number, probability = 20_000, 0.1
    condition = jax.jit(drop_conditions)(jax.random.key(1), np.zeros((number, 1)), probability)
    error = np.sqrt(probability * (1 - probability) / number)
    assert abs(1 - np.asarray(condition.present).mean() - probability) < 5 * error


@pytest.mark.parametrize(("probability", "present"), [(0.0, True), (1.0, False)])
def test_conditions_are_dropped_never_or_always_at_the_ends(probability, present):
    condition = drop_conditions(jax.random.key(0), jnp.zeros((1000, 2)), probability)
    assert np.all(np.asarray(condition.present) == present)


@pytest.mark.parametrize("mean_free_score", [True, False])
def test_a_denoiser_that_knows_the_truth_has_no_loss(schedule, mean_free_score):
    crystals = clean_batch()
    _, _, targets = draw(schedule, crystals)
    score = targets.scaled_score
    if mean_free_score:
        score = mean_free(score, crystals.mask)
    truth = Prediction(
        lattice_eps=targets.lattice_eps,
        scaled_score=score,
        species_logits=100.0 * jax.nn.one_hot(crystals.species, NUM_SPECIES),
    )
    total, parts = loss_and_parts(schedule, crystals, told=truth, mean_free_score=mean_free_score)
    # Squares of roundings, as the targets are computed in two programs.
    assert parts["lattice"] < 1e-10
    assert parts["frac_coords"] < 1e-10
    assert abs(parts["species_kl"]) < 1e-5
    assert abs(parts["species_cross_entropy"]) < 1e-5
    assert abs(total) < 1e-3


@pytest.mark.parametrize("mean_free_score", [True, False])
def test_parts_are_the_means_of_the_formulas(schedule, mean_free_score):
    crystals = clean_batch()
    _, parts = loss_and_parts(schedule, crystals, mean_free_score=mean_free_score)

    t, noisy, targets = draw(schedule, crystals)
    prediction = jax.jit(guess)(noisy, t, None)
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    logits = np.asarray(prediction.species_logits, np.float64)
    probs_0 = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    found: dict[str, list[float]] = {name: [] for name in parts}
    for b in np.flatnonzero(WEIGHT):
        atoms = range(NUM_ATOMS[b])
        eps = np.asarray(prediction.lattice_eps[b] - targets.lattice_eps[b])
        found["lattice"].append(np.mean(eps**2))
        target = np.asarray(targets.scaled_score[b, : NUM_ATOMS[b]])
        if mean_free_score:
            target = target - target.mean(axis=0)
        for n in atoms:
            error = np.asarray(prediction.scaled_score[b, n]) - target[n]
            found["frac_coords"].append(np.mean(error**2))
            truth, seen = int(crystals.species[b, n]), int(noisy.species[b, n])
            # Bayes by enumeration: the earlier species from the matrices of the forward chain.
            now, before = alpha_bar[t[b]], alpha_bar[t[b] - 1]
            likelihood = (now * np.eye(3) + (1 - now) / 3)[:, seen]
            posterior_0 = probs_0[b, n] * likelihood / np.dot(probs_0[b, n], likelihood)
            found["species_cross_entropy"].append(-np.log(posterior_0[truth]))
            one_step = (now / before) * np.eye(3) + (1 - now / before) / 3
            chain = before * np.eye(3) + (1 - before) / 3  # [a_0, a_{t-1}]
            exact = chain[truth] * one_step[:, seen]
            model = (probs_0[b, n] @ chain) * one_step[:, seen]
            found["species_kl"].append(stats.entropy(exact, model))
    for name, values in found.items():
        np.testing.assert_allclose(parts[name], np.mean(values), rtol=2e-4, atol=1e-6, err_msg=name)


def test_the_total_is_the_weighted_sum_of_the_unweighted_parts(schedule):
    config = LossConfig(lattice=2.0, frac_coords=3.0, species_kl=5.0, species_cross_entropy=7.0)
    total, parts = loss_and_parts(schedule, clean_batch(), config=config)
    _, plain = loss_and_parts(schedule, clean_batch())
    # Two programs: sums of some hundred terms of one sign, each rounded to 2^-24, in any order.
    np.testing.assert_allclose(list(parts.values()), list(plain.values()), rtol=1e-5)
    assert parts.keys() == plain.keys()
    expected = sum(float(getattr(config, name)) * float(part) for name, part in parts.items())
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("mean_free_score", [True, False])
def test_crystals_of_weight_0_and_padding_do_not_matter(schedule, mean_free_score):
    crystals = clean_batch()
    counts = crystals.mask & (WEIGHT > 0)[:, None]
    junk = dataclasses.replace(
        crystals,
        lattice=jnp.where((WEIGHT > 0)[:, None, None], crystals.lattice, 17.0),
        frac_coords=jnp.where(counts[..., None], crystals.frac_coords, 0.77),
        species=jnp.where(counts, crystals.species, 0),
    )
    _, clean = loss_and_parts(schedule, crystals, mean_free_score=mean_free_score)
    _, other = loss_and_parts(schedule, junk, mean_free_score=mean_free_score)
    for name, part in clean.items():
        np.testing.assert_allclose(other[name], part, rtol=1e-6, err_msg=name)


def test_a_crystal_of_weight_n_counts_n_times(schedule):
    crystals = clean_batch()
    parts = [loss_and_parts(schedule, crystals, weight=jnp.eye(4)[index])[1] for index in range(4)]
    _, mixed = loss_and_parts(schedule, crystals, weight=jnp.array([1.0, 2.0, 0.0, 0.0]))
    # A mean over two crystals, of which the second counts twice.
    lattice = (parts[0]["lattice"] + 2 * parts[1]["lattice"]) / 2
    np.testing.assert_allclose(mixed["lattice"], lattice, rtol=1e-5)
    # Six atoms: four of weight 1 and two of weight 2.
    score = (4 * parts[0]["frac_coords"] + 4 * parts[1]["frac_coords"]) / 6
    np.testing.assert_allclose(mixed["frac_coords"], score, rtol=1e-5)


def test_the_losses_of_the_parts_of_a_batch_add_up_to_that_of_the_whole(schedule):
    batch = noise(KEY, clean_batch(), PROPERTIES, WEIGHT, NUM_SPECIES, schedule, 0.1)

    def losses(rows: slice):
        part = jax.tree.map(lambda array: array[rows], batch)
        total, parts = loss_of(schedule, part, None, DEFAULT, True)
        return {"total": total, **parts}

    whole, first, second = losses(slice(None)), losses(slice(0, 2)), losses(slice(2, None))
    for name, value in whole.items():
        np.testing.assert_allclose(first[name] + second[name], value, rtol=1e-5, err_msg=name)
