"""Truth is enumeration with explicit K x K transition matrices, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from crystal_diffusion_jax.diffusion import species
from crystal_diffusion_jax.diffusion.schedules import cosine_alpha_bar

NUM_STEPS = 1000
ALPHA_BAR = cosine_alpha_bar(NUM_STEPS, 0.008)  # checked in test_schedules
BETA = 1 - ALPHA_BAR[1:] / ALPHA_BAR[:-1]
TIMES = [(1, 0), (2, 1), (500, 499), (1000, 999), (1000, 990), (700, 200), (3, 1), (1000, 0)]

# float32: transition probabilities are good to 1e-4 (test_schedules), and normalising a product
# of two of them at most doubles that.
RTOL = 2e-4
# A KL divergence weighs differences of logarithms that reach log(1e-4 / K) = -11, each with a few
# roundings of 11 * 6e-8.
KL_ATOL = 5e-6


# Compiled, because op by op they would cost most of these tests' time.
_noised = jax.jit(species.noised)
_log_posterior = jax.jit(species.log_posterior)
_kl_divergence = jax.jit(species.kl_divergence)
_cross_entropy = jax.jit(species.cross_entropy)
_reverse_step = jax.jit(species.reverse_step)


@jax.jit
@jax.value_and_grad
def divergence_and_gradient(logits, noisy, clean, t, schedule):
    """Of the sum over all atoms."""
    return jnp.sum(species.kl_divergence(logits, noisy, clean, t, schedule))


@jax.jit
@jax.value_and_grad
def entropy_and_gradient(logits, noisy, clean, t, schedule):
    return jnp.sum(species.cross_entropy(logits, noisy, clean, t, schedule))


BOTH_LOSSES = (divergence_and_gradient, entropy_and_gradient)


def at(*times):
    return np.array(times, np.int32)


@functools.cache
def chain(s, t, num_species):
    """Q_{s+1} ... Q_t; element [i, j] is the probability of j at time t given i at time s."""
    product = np.eye(num_species)
    for beta in BETA[s:t]:
        step = (1 - beta) * np.eye(num_species) + beta / num_species
        product = product @ step
    return product


def bayes_posterior(probs_0, species_t, t, s):
    """p(a_s | a_t) for one atom, by the sum over a_0 of the joint probability."""
    num_species = probs_0.size
    joint = np.zeros(num_species)
    for a_0 in range(num_species):
        for a_s in range(num_species):
            joint[a_s] += (
                probs_0[a_0]
                * chain(0, s, num_species)[a_0, a_s]
                * chain(s, t, num_species)[a_s, species_t]
            )
    return joint / joint.sum()


def bayes_kl(logits, species_t, species_0, t):
    exact = bayes_posterior(np.eye(logits.size)[species_0], species_t, t, t - 1)
    model = bayes_posterior(special.softmax(np.asarray(logits, np.float64)), species_t, t, t - 1)
    return np.sum(special.rel_entr(exact, model))


def pairs(num_species):
    """Every (clean, noisy) pair of species."""
    return list(itertools.product(range(num_species), repeat=2))


def every_pair(num_species):
    """The same as arrays: clean and noisy species, each [1, K * K]."""
    clean, noisy = np.array(pairs(num_species), np.int32).T
    return clean[None], noisy[None]


@pytest.mark.parametrize("num_species", [1, 2, 5])
@pytest.mark.parametrize("t", [0, 1, 2, 300, 1000])
def test_noised_species_follow_the_product_of_the_transition_matrices(schedule, t, num_species):
    # All combinations of a fine grid of `keep` with every clean and every resampled species.
    grid = 2_000
    clean, resampled = every_pair(num_species)
    keep = ((np.arange(grid) + 0.5) / grid).astype(np.float32)[:, None]
    shape = (grid, num_species**2)
    noisy = _noised(
        np.broadcast_to(keep, shape),
        np.broadcast_to(resampled, shape),
        np.broadcast_to(clean, shape),
        np.full(grid, t, np.int32),
        schedule,
    )
    for a_0 in range(num_species):
        counts = np.bincount(
            np.asarray(noisy)[:, np.asarray(clean[0]) == a_0].ravel(), minlength=num_species
        )
        # The grid places the threshold to within one of its cells.
        np.testing.assert_allclose(
            counts / counts.sum(), chain(0, t, num_species)[a_0], atol=1.0 / grid
        )


@pytest.mark.parametrize("num_species", [1, 2, 5])
@pytest.mark.parametrize(("t", "s"), TIMES)
def test_posterior_of_a_known_species_is_bayes_rule(schedule, t, s, num_species):
    clean, noisy = every_pair(num_species)
    log_probs_0 = np.where(np.eye(num_species)[clean] > 0, 0.0, -np.inf).astype(np.float32)
    found = np.exp(_log_posterior(log_probs_0, noisy, at(t), at(s), schedule))
    expected = [bayes_posterior(np.eye(num_species)[i], j, t, s) for i, j in pairs(num_species)]
    np.testing.assert_allclose(found[0], expected, rtol=RTOL)


@pytest.mark.parametrize("num_species", [2, 5])
@pytest.mark.parametrize(("t", "s"), TIMES)
def test_posterior_of_a_predicted_distribution_is_the_explicit_sum(schedule, t, s, num_species):
    probs_0 = np.random.default_rng(0).dirichlet(np.full(num_species, 0.5)) + 1e-3
    probs_0 /= probs_0.sum()
    noisy = np.arange(num_species, dtype=np.int32)[None]
    log_probs_0 = np.tile(np.log(probs_0.astype(np.float32)), (1, num_species, 1))
    found = np.exp(_log_posterior(log_probs_0, noisy, at(t), at(s), schedule))
    expected = [bayes_posterior(probs_0, a_t, t, s) for a_t in range(num_species)]
    np.testing.assert_allclose(found[0], expected, rtol=RTOL)


@pytest.mark.parametrize("num_species", [2, 5])
@pytest.mark.parametrize("t", [1, 2, 30, 500, 999, 1000])
def test_kl_divergence_is_the_enumerated_one_and_not_negative(schedule, t, num_species):
    clean, noisy = every_pair(num_species)
    rng = np.random.default_rng(t)
    logits = 3 * rng.normal(size=(1, num_species**2, num_species)).astype(np.float32)
    found = _kl_divergence(logits, noisy, clean, at(t), schedule)
    expected = [bayes_kl(logits[0, n], j, i, t) for n, (i, j) in enumerate(pairs(num_species))]
    np.testing.assert_allclose(found[0], expected, rtol=RTOL, atol=KL_ATOL)
    assert found.min() >= -KL_ATOL


@pytest.mark.parametrize("num_species", [2, 5])
def test_kl_divergence_at_the_first_time_is_the_negative_log_likelihood(schedule, num_species):
    clean, noisy = every_pair(num_species)
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(1, num_species**2, num_species)).astype(np.float32)
    found = _kl_divergence(logits, noisy, clean, at(1), schedule)
    # p(a_0 | a_1) is p(a_0) q(a_1 | a_0) normalised, with Q_1 the only matrix.
    prior = special.softmax(np.asarray(logits[0], np.float64), axis=-1)
    likelihood = chain(0, 1, num_species)[:, np.asarray(noisy[0])].T
    model = prior * likelihood / np.sum(prior * likelihood, axis=-1, keepdims=True)
    expected = -np.log(model[np.arange(num_species**2), np.asarray(clean[0])])
    np.testing.assert_allclose(found[0], expected, rtol=RTOL, atol=KL_ATOL)


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_kl_divergence_vanishes_for_the_true_species(schedule, t):
    clean, noisy = every_pair(5)
    # exp(-40) is below every rounding, also after division by beta_1 / K = 2e-5.
    logits = 40 * np.eye(5, dtype=np.float32)[clean]
    found = _kl_divergence(logits, noisy, clean, at(t), schedule)
    np.testing.assert_allclose(found, np.zeros((1, 25)), atol=KL_ATOL)


@pytest.mark.parametrize("t", [1, 2, 1000])
def test_kl_divergence_and_its_gradient_are_zero_with_a_single_species(schedule, t):
    zeros = np.zeros((1, 3), np.int32)
    logits = np.array([[[0.0], [1e3], [-1e3]]], np.float32)
    value, gradient = divergence_and_gradient(logits, zeros, zeros, at(t), schedule)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((1, 3, 1)))


@pytest.mark.parametrize("t", [1, 2, 1000])
@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_gradients_stay_finite_for_extreme_logits(schedule, t, scale):
    clean, noisy = every_pair(4)
    logits = scale * np.eye(4, dtype=np.float32)[(clean + 1) % 4]  # certain, and wrong or nearly so
    for loss in BOTH_LOSSES:
        value, gradient = loss(logits, noisy, clean, at(t), schedule)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("t", [1, 2, 400, 1000])
def test_gradient_of_the_kl_divergence_is_its_finite_difference(schedule, t):
    logits = np.array([0.4, -1.1, 0.7], np.float32)
    noisy, clean = np.array([[2]], np.int32), np.array([[0]], np.int32)
    _, gradient = divergence_and_gradient(logits[None, None], noisy, clean, at(t), schedule)
    step = 1e-5
    expected = [
        (bayes_kl(logits + step * unit, 2, 0, t) - bayes_kl(logits - step * unit, 2, 0, t))
        / (2 * step)
        for unit in np.eye(3)
    ]
    np.testing.assert_allclose(gradient[0, 0], expected, rtol=1e-3, atol=KL_ATOL)


@pytest.mark.parametrize("t", [1, 2, 400, 1000])
def test_cross_entropy_is_that_of_the_posterior_of_the_clean_species(schedule, t):
    logits = np.array([0.4, -1.1, 0.7], np.float32)
    prior = special.softmax(np.asarray(logits, np.float64))
    clean, noisy = every_pair(3)
    found = _cross_entropy(np.tile(logits, (1, 9, 1)), noisy, clean, at(t), schedule)
    expected = [
        -np.log(bayes_posterior(prior, int(seen), t, 0)[int(truth)])
        for seen, truth in zip(noisy[0], clean[0], strict=True)
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("t", [2, 400, 990])
def test_kl_divergence_and_cross_entropy_have_their_optimum_at_the_same_logits(schedule, t):
    """One atom with a known prior: both expected losses are stationary at log prior."""
    prior = np.array([0.5, 0.3, 0.15, 0.05])
    alpha_bar = float(schedule.alpha_bar[t])
    clean, noisy = every_pair(4)
    forward = alpha_bar * np.eye(4) + (1 - alpha_bar) / 4
    joint = prior[clean[0]] * forward[clean[0], noisy[0]]

    def gradient(loss, logits):
        """Of the expected loss; each pair of species has an atom of its own."""
        each = np.tile(np.float32(logits), (1, 16, 1))
        of_each = loss(each, noisy, clean, at(t), schedule)[1]
        return joint @ np.asarray(of_each[0], np.float64)

    for loss in BOTH_LOSSES:
        at_optimum, elsewhere = gradient(loss, np.log(prior)), gradient(loss, np.zeros(4))
        assert np.abs(at_optimum).max() < 2e-3 * np.abs(elsewhere).max()


@pytest.mark.parametrize(("t", "s"), [(2, 1), (500, 499), (900, 400), (1000, 990)])
def test_reverse_steps_draw_species_with_the_frequencies_of_the_posterior(schedule, t, s):
    number, num_species, species_t = 20_000, 4, 2
    logits = np.array([1.0, -0.5, 0.2, -2.0], np.float32)
    gumbel = np.random.default_rng(t).gumbel(size=(1, number, num_species)).astype(np.float32)
    batch = np.tile(logits, (1, number, 1)), np.full((1, number), species_t, np.int32)
    draws = _reverse_step(gumbel, *batch, at(t), at(s), schedule)
    expected = bayes_posterior(special.softmax(np.asarray(logits, np.float64)), species_t, t, s)
    counts = np.bincount(np.asarray(draws[0]), minlength=num_species)
    assert stats.chisquare(counts, number * expected).pvalue > 6e-7  # of five standard errors


@pytest.mark.parametrize("t", [1, 10, 1000])
def test_last_step_takes_the_most_probable_species_whatever_the_noise(schedule, t):
    rng = np.random.default_rng(t)
    logits = 4 * rng.normal(size=(1, 50, 4)).astype(np.float32)
    species_t = rng.integers(0, 4, size=(1, 50))
    expected = [
        np.argmax(bayes_posterior(special.softmax(np.asarray(row, np.float64)), a_t, t, 0))
        for row, a_t in zip(logits[0], species_t[0], strict=True)
    ]
    noise = np.float32(1e3 * rng.normal(size=(1, 50, 4)))
    batch = logits, np.asarray(species_t, np.int32)
    found = _reverse_step(noise, *batch, at(t), at(0), schedule)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("t", [1, 10, 1000])
def test_excluded_species_never_come_out_of_the_last_step(schedule, t):
    # Every noisy species is one of the excluded, and at t = 1 staying is the likeliest move.
    logits = np.tile(np.array([-np.inf, 0.0, -np.inf, -3.0], np.float32), (1, 2, 1))
    batch = np.zeros((1, 2, 4), np.float32), logits, np.array([[0, 2]], np.int32)
    found = _reverse_step(*batch, at(t), at(0), schedule)
    np.testing.assert_array_equal(found, [[1, 1]])
