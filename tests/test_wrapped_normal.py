"""Truth is computed in float64 numpy from the theta (Fourier) series or the sum over images."""

import jax
import numpy as np
import pytest
from scipy import integrate, special

from crystal_diffusion_jax.diffusion import wrapped_normal

SIGMAS = [0.005, 0.02, 0.1, 0.3, 0.5]
IMAGES = np.arange(-15, 16)
EPS = float(np.finfo(np.float32).eps)
GRID = np.linspace(-0.5, 0.5, 201, dtype=np.float32)
# Compiled, because op by op they would cost most of these tests' time.
_score = jax.jit(wrapped_normal.score)
_log_density = jax.jit(wrapped_normal.log_density)
_slope = jax.jit(jax.vmap(jax.grad(wrapped_normal.log_density), in_axes=(0, None)))


def theta_density_and_slope(d, sigma):
    """1 + 2 sum_n exp(-2 pi^2 n^2 sigma^2) cos(2 pi n d), and its derivative, in float64."""
    d, sigma = np.asarray(d, np.float64)[..., None], np.float64(sigma)
    n = np.arange(1, 1 + int(np.ceil(2.0 / sigma)))  # the last term is below exp(-78)
    amplitude = 2.0 * np.exp(-2.0 * (np.pi * n * sigma) ** 2)
    density = 1.0 + np.sum(amplitude * np.cos(2 * np.pi * n * d), axis=-1)
    slope = -np.sum(amplitude * 2 * np.pi * n * np.sin(2 * np.pi * n * d), axis=-1)
    return density, slope


def image_weights(d, sigma):
    d = np.asarray(d, np.float64)[..., None] + IMAGES
    return d, special.softmax(-(d**2) / (2 * np.float64(sigma) ** 2), axis=-1)


def float64_score(d, sigma):
    images, weights = image_weights(d - np.round(d), sigma)
    return -np.sum(weights * images, axis=-1) / np.float64(sigma) ** 2


def rounding_of_score(d, sigma):
    """Bound on the float32 error of the score at each d.

    Each exponent x^2 / 2 sigma^2 carries at most 4 roundings; those with a weight worth counting
    are at most E = 1 / (8 sigma^2) + 20. Errors of the exponents move weight between the images,
    which shifts the mean image by at most their error times the mean deviation of k. The mean
    image itself and the division add 4 roundings more.
    """
    images, weights = image_weights(d, sigma)
    mean_k = np.sum(weights * IMAGES, axis=-1, keepdims=True)
    deviation = np.sum(weights * np.abs(IMAGES - mean_k), axis=-1)
    size = np.sum(weights * np.abs(images), axis=-1)
    largest_exponent = 0.125 / sigma**2 + 20
    return 4 * EPS * (size + largest_exponent * deviation) / sigma**2 + 1e-12


def assert_close_scores(found, expected, tolerance):
    excess = np.abs(np.asarray(found, np.float64) - expected) - tolerance
    assert excess.max() <= 0, f"off by {excess.max():.3g} more than rounding explains"


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_is_the_gradient_of_the_log_density(sigma):
    gradient = _slope(GRID, sigma)
    # Both sides are rounded.
    assert_close_scores(
        _score(GRID, sigma),
        np.asarray(gradient, np.float64),
        2 * rounding_of_score(GRID, sigma),
    )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_density_agrees_with_the_theta_series(sigma):
    sigma = np.float32(sigma)
    density, _ = theta_density_and_slope(GRID, sigma)
    found = np.exp(np.asarray(_log_density(GRID, sigma), np.float64))
    # Where the density counts, the exponent is below 20 and carries 4 relative roundings; the
    # cosines of the series cancel to about 1e-12.
    np.testing.assert_allclose(found, density, rtol=4 * 20 * EPS, atol=1e-7)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_agrees_with_the_theta_series(sigma):
    sigma = np.float32(sigma)
    density, slope = theta_density_and_slope(GRID, sigma)
    # The series cancels to about 1e-12 absolute, so its quotient is worth 1e-8 down to here.
    seen = density > 1e-4
    assert seen.sum() >= 5
    assert_close_scores(
        _score(GRID, sigma)[seen],
        slope[seen] / density[seen],
        rounding_of_score(GRID, sigma)[seen] + 1e-6,
    )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_has_period_one_and_is_odd(sigma):
    d = np.float32(np.arange(-31, 32) / 64)  # binary fractions, so that shifts are exact
    score = _score(d, sigma)
    for shift in (-3.0, 1.0, 12.0):
        np.testing.assert_array_equal(_score(d + shift, sigma), score)
    assert_close_scores(
        _score(-d, sigma),
        -np.asarray(score, np.float64),
        2 * rounding_of_score(d, sigma),
    )
    assert float(_score(np.float32(0.0), sigma)) == pytest.approx(0.0, abs=1e-5)


def test_narrow_wrapped_normal_has_the_score_of_a_normal():
    d = np.linspace(-0.4, 0.4, 81, dtype=np.float32)
    # The next image's share is below exp(-4000); four roundings remain.
    np.testing.assert_allclose(
        _score(d, 0.005),
        -np.asarray(d, np.float64) / 0.005**2,
        rtol=4 * EPS,
        atol=0,
    )


def test_wide_wrapped_normal_is_nearly_flat_with_a_sine_for_its_score():
    sigma = 0.6
    first = np.exp(-2 * (np.pi * sigma) ** 2)  # the second harmonic is first^4
    expected = -4 * np.pi * first * np.sin(2 * np.pi * np.asarray(GRID, np.float64))
    tolerance = 3 * first * np.abs(expected).max() + rounding_of_score(GRID, sigma)
    assert_close_scores(_score(GRID, sigma), expected, tolerance)
    # At sigma = 1 the ripple 2 exp(-2 pi^2) is 5e-9, below float32: 4 roundings of exponents < 20.
    np.testing.assert_allclose(_log_density(GRID, 1.0), np.zeros(GRID.shape), atol=4 * 20 * EPS)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_density_integrates_to_one_over_a_period(sigma):
    d = np.float32(np.arange(4096) / 4096 - 0.5)
    total = np.mean(np.exp(np.asarray(_log_density(d, sigma), np.float64)))
    assert total == pytest.approx(1.0, abs=4 * 20 * EPS)


def test_sigma_broadcasts_against_the_displacement():
    d = np.linspace(-0.4, 0.4, 6, dtype=np.float32).reshape(2, 3)
    sigma = np.array([[0.02], [0.3]], np.float32)
    score = _score(d, sigma)
    for row in range(2):
        np.testing.assert_allclose(score[row], _score(d[row], sigma[row, 0]), rtol=4 * EPS)


def mean_squared_score(sigma):
    return float(wrapped_normal.mean_squared_score(np.array([sigma]))[0])


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mean_squared_score_agrees_with_adaptive_integration(sigma):
    def integrand(d):
        images = d + IMAGES
        density = np.sum(np.exp(-(images**2) / (2 * sigma**2))) / (sigma * np.sqrt(2 * np.pi))
        return density * float64_score(np.array(d), sigma) ** 2

    # Beyond 10 sigma the integrand is below exp(-40) of its peak.
    edge = min(0.5, 10 * sigma)
    expected, _ = integrate.quad(integrand, -edge, edge, epsabs=0, epsrel=1e-10)
    assert mean_squared_score(sigma) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.02, 0.05])
def test_mean_squared_score_of_a_narrow_wrapped_normal_is_one_over_the_variance(sigma):
    # The neighbouring image enters with exp(-1 / (8 sigma^2)), at most exp(-50).
    assert mean_squared_score(sigma) == pytest.approx(1 / sigma**2, rel=1e-11)


@pytest.mark.parametrize(
    ("num_sigmas", "lowest", "highest"), [(1000, 0.005, 0.5), (50, 0.06, 0.065), (100, 0.1, 0.7)]
)
def test_mean_squared_scores_agree_with_a_fine_sum_over_images(num_sigmas, lowest, highest):
    sigmas = np.geomspace(lowest, highest, num_sigmas)
    expected = []
    for sigma in sigmas:
        # A normal with a period is summed exactly by 10 points per sigma.
        num_points = int(np.ceil(10 / sigma))
        d = np.arange(num_points) / num_points - 0.5
        images, _ = image_weights(d, sigma)
        density = np.exp(-(images**2) / (2 * sigma**2)).sum(axis=-1) / (sigma * np.sqrt(2 * np.pi))
        expected.append(np.mean(density * float64_score(d, sigma) ** 2))
    found = wrapped_normal.mean_squared_score(sigmas)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_mean_squared_score_of_the_narrowest_is_finite():
    assert mean_squared_score(1e-12) == pytest.approx(1e24)
