"""The formulas at the edges of their ranges: finite, in range, normalised, symmetric."""

from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.crystals import wrap
from crystal_diffusion_jax.diffusion import coordinates, lattice, species, wrapped_normal
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, noise_schedule

T = 1000
B, N, K = 4, 3, 5  # one shape, so that each function is compiled once


def floats(low: float, high: float, *shape: int) -> Any:
    """Arrays of float32 within [low, high], the ends included and, around 0, denormal numbers."""
    low, high = float(np.float32(low)), float(np.float32(high))
    element = st.floats(low, high, width=32)
    return arrays(np.float32, shape, elements=element)


def times(low: int) -> Any:
    return arrays(np.int32, B, elements=st.integers(low, T))


_wrap = jax.jit(wrap)
_score = jax.jit(wrapped_normal.score)
_log_density = jax.jit(wrapped_normal.log_density)
_scaled_score = jax.jit(coordinates.scaled_score)
_log_posterior = jax.jit(species.log_posterior)
_kl = jax.jit(species.kl_divergence)
_posterior = jax.jit(lattice.posterior)
_reverse = jax.jit(lattice.reverse_step)


@given(floats(-1e30, 1e30, B, N, 3))
def test_wrap_ends_in_the_cell_and_stays_there(coords: np.ndarray) -> None:
    wrapped = np.asarray(_wrap(coords))
    assert ((wrapped >= 0) & (wrapped < 1)).all()
    np.testing.assert_array_equal(_wrap(wrapped), wrapped)


@given(arrays(np.int32, (B, N, 3), elements=st.integers(-1000, 1000)), floats(0, 1, B, N, 3))
def test_wrap_forgets_whole_cells(cells: np.ndarray, coords: np.ndarray) -> None:
    shifted = np.asarray(_wrap((coords + cells).astype(np.float32)), np.float64)
    difference = shifted - coords
    # What float32 keeps of a number up to 1001.
    np.testing.assert_allclose(difference - np.round(difference), 0.0, atol=1001 * 2.0**-24)


sigmas = floats(0.001, 1.0, B, N, 3)


@given(floats(-1e6, 1e6, B, N, 3), sigmas)
def test_the_score_is_finite_odd_and_bounded(shift: np.ndarray, sigma: np.ndarray) -> None:
    score = np.asarray(_score(shift, sigma))
    assert np.isfinite(score).all()
    assert np.isfinite(_log_density(shift, sigma)).all()
    nearest = shift - np.round(shift)
    inside = np.abs(nearest) < 0.5  # at a half the two images tie, and rounding decides
    # In units of 1 / sigma, the size of a score, whose 21 terms are rounded to 6e-8 each.
    odd = (np.asarray(_score(-shift, sigma)) + score) * sigma
    np.testing.assert_allclose(odd[inside], 0.0, atol=1e-5)
    # The wrapped normal is flatter than the normal of the nearest image, and falls towards it.
    bound = np.abs(nearest) / np.float64(sigma) ** 2
    assert (np.abs(score) <= bound * (1 + 1e-4) + 1e-4 / np.float64(sigma)).all()
    assert (score * nearest <= 1e-4 / np.float64(sigma)).all()


@given(st.floats(0.02, 1.0))
def test_the_density_is_normalised_at_every_width(sigma: float) -> None:
    points = np.linspace(0, 1, 1024, endpoint=False, dtype=np.float32)
    # Trapezoidal rule on a smooth periodic function; 1024 points resolve 0.02 twentyfold.
    total = np.exp(np.asarray(_log_density(points, np.float32(sigma)))).mean()
    assert total == pytest.approx(1.0, abs=1e-4)


@given(floats(0, 1, B, N, 3), floats(0, 1, B, N, 3), times(1))
def test_the_scaled_score_is_finite_at_every_time(
    schedule: NoiseSchedule, noisy: np.ndarray, clean: np.ndarray, t: np.ndarray
) -> None:
    assert np.isfinite(_scaled_score(noisy, clean, t, schedule)).all()


LOGITS = floats(-1e4, 1e4, B, N, K)
SPECIES = arrays(np.int32, (B, N), elements=st.integers(0, K - 1))


def earlier(t: np.ndarray, fraction: float) -> np.ndarray:
    return np.floor(fraction * t).astype(np.int32)


strides = st.floats(0, 1, exclude_max=True)


@given(LOGITS, SPECIES, times(1), strides)
def test_the_posterior_of_species_is_a_distribution(
    schedule: NoiseSchedule, logits: np.ndarray, noisy: np.ndarray, t: np.ndarray, stride: float
) -> None:
    log_probs_0 = jax.nn.log_softmax(logits, axis=-1)
    log_probs = np.asarray(_log_posterior(log_probs_0, noisy, t, earlier(t, stride), schedule))
    assert not np.isnan(log_probs).any()
    assert (log_probs <= 1e-6).all()
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, atol=1e-5)


@given(LOGITS, SPECIES, times(1), strides, st.permutations(range(K)))
def test_the_posterior_of_species_does_not_know_their_order(
    schedule: NoiseSchedule,
    logits: np.ndarray,
    noisy: np.ndarray,
    t: np.ndarray,
    stride: float,
    order: list[int],
) -> None:
    s = earlier(t, stride)
    log_probs_0 = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    before = np.exp(_log_posterior(log_probs_0, noisy, t, s, schedule))
    place = np.argsort(order)
    after = np.exp(
        _log_posterior(log_probs_0[..., order], place[noisy].astype(np.int32), t, s, schedule)
    )
    np.testing.assert_allclose(after, before[..., order], atol=1e-5)


@given(LOGITS, SPECIES, SPECIES, times(1))
def test_the_divergence_of_species_is_finite_and_not_negative(
    schedule: NoiseSchedule,
    logits: np.ndarray,
    noisy: np.ndarray,
    clean: np.ndarray,
    t: np.ndarray,
) -> None:
    divergence = np.asarray(_kl(logits, noisy, clean, t, schedule))
    assert np.isfinite(divergence).all()
    assert (divergence >= -1e-5).all()


@given(floats(-1e4, 1e4, B, 3, 3), floats(-100, 100, B, 3, 3), times(1), strides)
def test_the_posterior_of_lattices_is_finite_and_its_variance_between_none_and_beta(
    schedule: NoiseSchedule, noisy: np.ndarray, eps: np.ndarray, t: np.ndarray, stride: float
) -> None:
    s = earlier(t, stride)
    mean, variance = _posterior(noisy, eps, t, s, schedule)
    assert np.isfinite(mean).all()
    log_alpha_bar = np.asarray(schedule.log_alpha_bar, np.float64)
    beta = -np.expm1(log_alpha_bar[t] - log_alpha_bar[s])[:, None, None]
    assert ((np.asarray(variance) >= 0) & (np.asarray(variance) <= beta * (1 + 1e-5))).all()
    assert (np.asarray(variance)[s == 0] == 0).all()


@given(floats(-1e3, 1e3, B, 3, 3), floats(-5, 5, B, 3, 3), floats(-5, 5, B, 3, 3), times(1))
def test_a_step_of_the_lattice_turns_with_its_frame(
    schedule: NoiseSchedule, noisy: np.ndarray, eps: np.ndarray, noise: np.ndarray, t: np.ndarray
) -> None:
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)  # without a rounding
    step = np.asarray(_reverse(noise, noisy, eps, t, t - 1, schedule))
    turned = _reverse(noise @ turn, noisy @ turn, eps @ turn, t, t - 1, schedule)
    # Other elements may be rounded otherwise, a few times; all are at most of this size.
    log_alpha_bar = np.asarray(schedule.log_alpha_bar, np.float64)
    grown = np.exp((log_alpha_bar[t - 1] - log_alpha_bar[t]) / 2)
    size = np.abs(noise).max() + grown.max() * (np.abs(noisy).max() + np.abs(eps).max())
    np.testing.assert_allclose(turned, step @ turn, rtol=0, atol=8 * 2.0**-24 * size)


@settings(max_examples=20)
@given(st.integers(1, 60), st.floats(0, 0.99), st.floats(1e-3, 0.3), st.floats(1.01, 2.3))
def test_every_schedule_that_is_accepted_is_finite_and_monotone(
    num_steps: int, offset: float, sigma_min: float, ratio: float
) -> None:
    made = noise_schedule(NoiseConfig(num_steps, offset, sigma_min, sigma_min * ratio))
    for table in (made.alpha_bar, made.one_minus_alpha_bar, made.log_alpha_bar, made.score_scale):
        assert np.isfinite(table).all()
    assert (np.diff(made.alpha_bar) < 0).all()
    assert (np.diff(made.sigma) > 0).all()
    assert (np.asarray(made.alpha_bar) > 0).all()
    assert (np.asarray(made.score_scale)[1:] > 0).all()
