"""Truth is linear algebra on the joint Gaussian of (L_s, L_t), in float64."""

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.diffusion import lattice
from crystal_diffusion_jax.diffusion.schedules import cosine_alpha_bar

EPS = float(np.finfo(np.float32).eps)
ALPHA_BAR = cosine_alpha_bar(1000, 0.008)  # checked in test_schedules
STEPS = [(1, 0), (2, 1), (500, 499), (999, 998), (1000, 999)]
STRIDES = [(1000, 990), (1000, 0), (700, 200), (40, 30), (3, 1)]
CELL = np.array([[1.0, 0.1, 0.0], [-0.3, 1.2, 0.2], [0.0, 0.4, 0.9]], np.float32)
# Compiled, because op by op they would cost most of these tests' time.
_posterior = jax.jit(lattice.posterior)
_reverse_step = jax.jit(lattice.reverse_step)
_noised = jax.jit(lattice.noised)
_prior = jax.jit(lattice.prior)


def rounding_of_mean(t, s):
    """Bound on the float32 error of the posterior mean, for |L_t| and |eps| below 5.

    1 / sqrt(alpha) magnifies four roundings of the terms, and that of alpha and beta, which come
    from the difference of two rounded logarithms.
    """
    alpha = ALPHA_BAR[t] / ALPHA_BAR[s]
    return 2 * 5 * (4 * EPS + EPS * abs(np.log(ALPHA_BAR[t]))) / np.sqrt(alpha)


def batch_of(values):
    return np.tile(np.asarray(values, np.float32)[:, None, None], (1, 3, 3))


@pytest.mark.parametrize(("t", "s"), STEPS + STRIDES)
def test_posterior_is_the_joint_gaussian_conditioned_on_the_noisy_lattice(schedule, t, s):
    ab_t, ab_s = ALPHA_BAR[t], ALPHA_BAR[s]
    clean, eps = 1.3, np.array([-2.0, -0.5, 0.0, 1.0, 2.5])
    noisy = np.sqrt(ab_t) * clean + np.sqrt(1 - ab_t) * eps
    # L_t = sqrt(ab_t / ab_s) L_s + independent noise.
    mean = clean * np.sqrt([ab_s, ab_t])
    cross = np.sqrt(ab_t / ab_s) * (1 - ab_s)
    covariance = np.array([[1 - ab_s, cross], [cross, 1 - ab_t]])
    gain = covariance[0, 1] / covariance[1, 1]
    expected_mean = mean[0] + gain * (noisy - mean[1])
    expected_variance = covariance[0, 0] - gain * covariance[1, 0]

    times = np.full(eps.shape, t), np.full(eps.shape, s)
    found_mean, variance = _posterior(batch_of(noisy), batch_of(eps), times[0], times[1], schedule)
    assert variance.shape == (5, 1, 1)
    np.testing.assert_allclose(
        found_mean, np.tile(expected_mean[:, None, None], (1, 3, 3)), atol=rounding_of_mean(t, s)
    )
    # beta is known to 1e-4 (test_schedules); the rest are single roundings.
    np.testing.assert_allclose(variance[:, 0, 0], expected_variance, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(("t", "s"), STEPS + STRIDES)
def test_reverse_step_carries_the_marginal_at_t_to_the_marginal_at_s(schedule, t, s):
    # L_t = sqrt(ab_t) L_0 + sqrt(1 - ab_t) eps, and the step is linear in L_0, eps and its noise:
    # unit vectors give its three coefficients.
    clean, eps, noise = (batch_of(row) for row in np.eye(3))
    times, earlier = np.full(3, t), np.full(3, s)
    noisy = _noised(clean, eps, times, schedule)
    result = _reverse_step(noise, noisy, eps, times, earlier, schedule)
    signal, from_eps, from_noise = np.asarray(result[:, 0, 0], np.float64)
    tolerance = rounding_of_mean(t, s)
    assert signal == pytest.approx(np.sqrt(ALPHA_BAR[s]), abs=tolerance)
    assert from_eps**2 + from_noise**2 == pytest.approx(1 - ALPHA_BAR[s], abs=2 * tolerance)


@pytest.mark.parametrize("t", [1, 2, 50, 500, 1000])
def test_forward_process_is_the_composition_of_its_one_step_kernels(schedule, t):
    signal, variance = 1.0, 0.0
    for step in range(1, t + 1):
        keep = ALPHA_BAR[step] / ALPHA_BAR[step - 1]
        signal, variance = np.sqrt(keep) * signal, keep * variance + (1 - keep)
    times = np.array([t])
    one, zero = batch_of([1.0]), batch_of([0.0])
    found_signal = _noised(one, zero, times, schedule)
    found_noise = _noised(zero, one, times, schedule)
    np.testing.assert_allclose(found_signal, batch_of([signal]), rtol=4 * EPS)
    np.testing.assert_allclose(found_noise, batch_of([np.sqrt(variance)]), rtol=4 * EPS)


@pytest.mark.parametrize("t", [1, 10, 500, 900])
def test_true_noise_gives_the_clean_lattice_back_at_time_zero(schedule, t):
    eps = np.random.default_rng(0).normal(size=(1, 3, 3)).astype(np.float32)
    times = np.array([t])
    noisy = _noised(CELL[None], eps, times, schedule)
    # The step's own noise, however large, has no part in the last step.
    found = _reverse_step(
        np.full((1, 3, 3), 1e6, np.float32), noisy, eps, times, np.array([0]), schedule
    )
    np.testing.assert_allclose(found[0], CELL, atol=rounding_of_mean(t, 0))


def test_prior_is_standard_normal_and_depends_on_each_key_alone():
    keys = jax.random.split(jax.random.key(3), 20_000)
    draws = np.asarray(_prior(keys), np.float64).reshape(20_000, 9)
    np.testing.assert_allclose(draws.mean(axis=0), np.zeros(9), atol=5 / np.sqrt(20_000))
    # An entry of the covariance has standard error sqrt(2 / n) on and sqrt(1 / n) off the diagonal.
    np.testing.assert_allclose(np.cov(draws.T), np.eye(9), atol=5 * np.sqrt(2 / 20_000))
    # Another shape is another program, whose uniform numbers may be rounded otherwise, by EPS / 2;
    # the inverse error function magnifies that by exp(x^2 / 2), by 90 at x = 3.
    np.testing.assert_allclose(_prior(keys[7:8]).reshape(1, 9), draws[7:8], atol=100 * EPS)
