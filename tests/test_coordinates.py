import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.crystals import wrap
from crystal_diffusion_jax.diffusion import coordinates

EPS = float(np.finfo(np.float32).eps)
SITES = np.array(
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.999, 0.02, 0.31]], np.float32
)


# Compiled, because op by op they would cost most of these tests' time.
_noised = jax.jit(coordinates.noised)
_scaled_score = jax.jit(coordinates.scaled_score)
_corrector_move = jax.jit(coordinates.corrector_move)
_predictor_move = jax.jit(coordinates.predictor_move)
_renoising_move = jax.jit(coordinates.renoising_move, static_argnames="share")


def at(*times):
    return np.array(times, np.int32)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigma_at(t):
    return 0.005 * 100 ** ((np.asarray(t) - 1) / 999)


def circular_distance(a, b):
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.abs(difference - np.round(difference))


def batch_of_sites(number):
    return np.tile(SITES, (number, 1, 1))


STEPS = 10


@jax.jit
def noisy_and_score(noise, t, schedule):
    """Of one batch of sites, all at time t."""
    clean, times = jnp.asarray(batch_of_sites(len(noise))), jnp.full(len(noise), t)
    noisy = coordinates.noised(clean, noise, times, schedule)
    return noisy, coordinates.scaled_score(noisy, clean, times, schedule)


@pytest.mark.parametrize("t", [0, 1, 400, 1000])
def test_noised_coordinates_are_shifted_by_sigma_eps_and_stay_in_the_unit_cell(schedule, t):
    eps = normal(t, 500, 4, 3)
    found = np.asarray(_noised(batch_of_sites(500), eps, np.full(500, t), schedule))
    assert found.min() >= 0.0
    assert found.max() < 1.0
    sigma = 0.0 if t == 0 else sigma_at(t)
    # |sigma eps| stays below 4, where a float32 rounding is 4 EPS.
    assert circular_distance(found, SITES + sigma * eps.astype(np.float64)).max() < 8 * EPS


@pytest.mark.parametrize("t", [1, 300, 600, 800, 1000])
def test_scaled_score_has_unit_second_moment_at_every_time(schedule, t):
    _, score = noisy_and_score(normal(t, 5000, 4, 3), t, schedule)
    squares = np.square(np.asarray(score, np.float64))
    assert abs(squares.mean() - 1) < 5 * squares.std() / np.sqrt(squares.size)


def test_scaled_score_points_from_the_noisy_to_the_clean_site_across_the_cell_boundary(schedule):
    clean = np.full((1, 1, 3), 0.99, np.float32)
    noisy = np.full((1, 1, 3), 0.01, np.float32)
    # While narrow, score = -d / sigma^2 and lambda = sigma^2: the scaled score is -d / sigma.
    # d = 0.02 carries the rounding of 0.99 and 0.01.
    found = _scaled_score(noisy, clean, at(100), schedule)
    np.testing.assert_allclose(
        found, np.full((1, 1, 3), -0.02 / sigma_at(100)), rtol=2 * EPS / 0.02
    )


def test_mean_free_has_zero_mean_over_real_atoms_whatever_the_padding_holds():
    mean_free = jax.jit(coordinates.mean_free)
    per_atom = normal(0, 3, 6, 3)
    mask = np.arange(6) < np.array([[6], [4], [1]])
    junk = np.where(mask[..., None], per_atom, 1e3 * normal(1, 3, 6, 3))
    found = np.asarray(mean_free(per_atom, mask))
    np.testing.assert_array_equal(mean_free(junk, mask), found)
    np.testing.assert_array_equal(found[~mask], 0.0)
    np.testing.assert_allclose(found.sum(axis=1), np.zeros((3, 3)), atol=20 * EPS)
    for row, count in enumerate([6, 4, 1]):
        real = per_atom[row, :count].astype(np.float64)
        np.testing.assert_allclose(found[row, :count], real - real.mean(axis=0), atol=8 * EPS)


def test_mean_free_of_a_crystal_without_atoms_is_zero():
    found = coordinates.mean_free(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool))
    np.testing.assert_array_equal(found, np.zeros((1, 2, 3)))


@pytest.mark.parametrize(("t", "s"), [(300, 299), (300, 100), (2, 1), (300, 0), (1, 0)])
def test_predictor_step_carries_the_marginal_at_t_to_the_marginal_at_s(schedule, t, s):
    # While narrow the step is linear in the noise already present (eps) and the new noise.
    site, one, zero = (np.full((1, 1, 3), value, np.float32) for value in (0.5, 1.0, 0.0))
    shifts = []
    for eps, noise in [(one, zero), (zero, one)]:
        noisy = _noised(site, eps, at(t), schedule)
        score = _scaled_score(noisy, site, at(t), schedule)
        move = _predictor_move(noise, score, at(t), at(s), schedule)
        shifts.append(float(np.asarray(noisy + move)[0, 0, 0]) - 0.5)
    sigma = 0.0 if s == 0 else sigma_at(s)
    # Positions near 0.5 are rounded at EPS / 4; a handful of roundings meet in each shift.
    assert np.hypot(shifts[0], shifts[1]) == pytest.approx(sigma, abs=4 * EPS)


@jax.jit
def corrected(start, key, t, corrector_step_size, schedule):
    """After 4 STEPS steps."""
    target, times = jnp.asarray(batch_of_sites(len(start))), jnp.full(len(start), t)

    def step(frac_coords, key):
        score = coordinates.scaled_score(frac_coords, target, times, schedule)
        noise = jax.random.normal(key, target.shape)
        move = coordinates.corrector_move(noise, score, times, corrector_step_size, schedule)
        return wrap(frac_coords + move), None

    return jax.lax.scan(step, start, jax.random.split(key, 4 * STEPS))[0]


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_langevin_corrector_leaves_the_wrapped_normal_invariant(schedule, t):
    corrector_step_size = 1e-6
    start, _ = noisy_and_score(normal(t, 5000, 4, 3), t, schedule)
    found = corrected(start, jax.random.key(t), t, corrector_step_size, schedule)

    sigma = sigma_at(t)
    angle = 2 * np.pi * (np.asarray(found, np.float64) - SITES)
    resultant = np.exp(-2 * (np.pi * sigma) ** 2)
    # Var cos = (1 + r^4) / 2 - r^2, Var sin = (1 - r^4) / 2. The step
    # h = step_size (sigma / sigma_1)^2 is 0.04 sigma^2 while narrow, so 40 steps forget a wrong
    # start width by exp(-3); its discretisation widens the variance by h / 2, that is lowers r by
    # at most 2 pi^2 h r.
    step_size = corrector_step_size * (sigma / 0.005) ** 2
    error_cos = np.sqrt(((1 + resultant**4) / 2 - resultant**2) / angle.size)
    error_sin = np.sqrt((1 - resultant**4) / 2 / angle.size)
    allowed = 5 * error_cos + 2 * np.pi**2 * step_size * resultant
    assert abs(np.cos(angle).mean() - resultant) < allowed
    assert abs(np.sin(angle).mean()) < 5 * error_sin


@functools.partial(jax.jit, static_argnames="share")
def renoised(start, key, t, share, schedule):
    """After STEPS steps."""
    target, times = jnp.asarray(batch_of_sites(len(start))), jnp.full(len(start), t)

    def step(frac_coords, key):
        score = coordinates.scaled_score(frac_coords, target, times, schedule)
        noise = jax.random.normal(key, target.shape)
        move = coordinates.renoising_move(noise, score, times, share, schedule)
        return wrap(frac_coords + move), None

    return jax.lax.scan(step, start, jax.random.split(key, STEPS))[0]


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("t", [2, 300, 700])
def test_renoising_leaves_the_wrapped_normal_invariant_however_large_its_share(schedule, t, share):
    start, _ = noisy_and_score(normal(t, 5000, 4, 3), t, schedule)
    found = renoised(start, jax.random.key(t), t, share, schedule)
    away = np.asarray(found, np.float64) - SITES
    away = (away - np.round(away)).ravel()
    error = 5 / np.sqrt(away.size)
    assert abs(away.mean() / sigma_at(t)) < error
    assert abs(away.std() / sigma_at(t) - 1) < error


def test_renoising_nothing_moves_nothing_and_renoising_all_goes_to_the_expected_site(schedule):
    target, times = batch_of_sites(4), at(100, 300, 500, 700)
    noise = normal(1, *target.shape)
    noisy = _noised(target, noise, times, schedule)
    score = _scaled_score(noisy, target, times, schedule)
    nothing = np.zeros_like(noise)
    np.testing.assert_array_equal(_renoising_move(noise, score, times, 0.0, schedule), nothing)
    arrived = noisy + _renoising_move(nothing, score, times, 1.0, schedule)
    np.testing.assert_allclose(circular_distance(arrived, target), 0.0, atol=1e-3)


def test_corrector_moves_up_the_score_by_its_step_size_and_adds_no_noise_at_the_last_time(schedule):
    site, noisy = np.full((1, 1, 3), 0.5, np.float32), np.full((1, 1, 3), 0.51, np.float32)
    times = at(1)
    score = _scaled_score(noisy, site, times, schedule)
    noise = np.full((1, 1, 3), 123.4, np.float32)
    found = noisy + _corrector_move(noise, score, times, 2e-6, schedule)
    # At t = 1 the step is corrector_step_size itself, and the score -0.01 / sigma_1^2 = -400.
    np.testing.assert_allclose(found, np.full((1, 1, 3), 0.51 - 2e-6 * 400), atol=2 * EPS)


def test_steps_of_the_corrector_grow_with_the_variance_of_the_noise(schedule):
    times, corrector_step_size = at(1, 50, 400, 999), 2e-6
    # The widths are geometric from 0.005 to 0.5.
    step = corrector_step_size * 100.0 ** (2 * (times - 1) / 999)
    noise, nothing = np.ones((4, 1, 3), np.float32), np.zeros((4, 1, 3), np.float32)
    jitter = _corrector_move(noise, nothing, times, corrector_step_size, schedule)
    expected = np.sqrt(2 * step) * (times > 1)
    np.testing.assert_allclose(jitter, np.broadcast_to(expected[:, None, None], (4, 1, 3)), 1e-5)
    # 1 / 20 of a width away from the site, where up to t = 400 (sigma 0.03) no image is near, the
    # score is -1 / (20 sigma).
    sigma = sigma_at(times)
    noisy = np.tile((0.5 + sigma / 20).astype(np.float32)[:, None, None], (1, 1, 3))
    score = _scaled_score(noisy, np.full((4, 1, 3), 0.5, np.float32), times, schedule)
    move = _corrector_move(nothing, score, times, corrector_step_size, schedule)
    away = noisy.astype(np.float64) - 0.5
    drift = -(step / sigma**2)[:, None, None] * away
    np.testing.assert_allclose(move[:3], drift[:3], rtol=1e-4)


def test_integer_shifts_of_atoms_change_nothing(schedule):
    clean, times = batch_of_sites(8), at(*range(100, 900, 100))
    shift = np.random.default_rng(6).integers(-2, 3, clean.shape).astype(np.float32)
    eps = normal(5, *clean.shape)
    noisy = np.asarray(_noised(clean, eps, times, schedule))
    # A shift of up to 2 costs a coordinate one rounding of 3, that is 2 EPS.
    lost = 2 * EPS
    moved = _noised(clean + shift, eps, times, schedule)
    assert circular_distance(moved, noisy).max() < 2 * lost

    score = np.asarray(_scaled_score(noisy, clean, times, schedule))
    score_moved = np.asarray(_scaled_score(noisy + shift, clean, times, schedule))
    # The slope of the scaled score is about 1 / sigma, sigma >= 0.0078 here, but for the jump at
    # the antipode, |d| = 1/2.
    away = circular_distance(noisy, clean) < 0.45
    np.testing.assert_allclose(score_moved[away], score[away], atol=2 * lost / 0.0078)
