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


def circular_distance(a, b):
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.abs(difference - np.round(difference))


def batch_of_sites(number):
    return jnp.tile(SITES, (number, 1, 1))


@pytest.mark.parametrize("t", [0, 1, 400, 1000])
def test_noised_coordinates_are_shifted_by_sigma_eps_and_stay_in_the_unit_cell(schedule, t):
    eps = jax.random.normal(jax.random.key(t), (500, 4, 3))
    found = coordinates.noised(batch_of_sites(500), eps, jnp.full(500, t), schedule)
    assert found.min() >= 0.0
    assert found.max() < 1.0
    sigma = 0.0 if t == 0 else 0.005 * 100 ** ((t - 1) / 999)
    # |sigma eps| stays below 4, where a float32 rounding is 4 EPS.
    assert circular_distance(found, SITES + sigma * np.asarray(eps, np.float64)).max() < 8 * EPS


@pytest.mark.parametrize("t", [1, 300, 600, 800, 1000])
def test_scaled_score_has_unit_second_moment_at_every_time(schedule, t):
    number = 5_000
    times = jnp.full(number, t)
    clean = batch_of_sites(number)
    noisy = coordinates.noised(
        clean, jax.random.normal(jax.random.key(t), clean.shape), times, schedule
    )
    squares = np.square(
        np.asarray(coordinates.scaled_score(noisy, clean, times, schedule), np.float64)
    )
    assert abs(squares.mean() - 1) < 3 * squares.std() / np.sqrt(squares.size)


def test_scaled_score_points_from_the_noisy_to_the_clean_site_across_the_cell_boundary(schedule):
    clean = jnp.full((1, 1, 3), 0.99)
    noisy = jnp.full((1, 1, 3), 0.01)
    # While narrow, score = -d / sigma^2 and lambda = sigma^2: the scaled score is -d / sigma.
    # d = 0.02 carries the rounding of 0.99 and 0.01.
    found = coordinates.scaled_score(noisy, clean, jnp.array([100]), schedule)
    sigma = 0.005 * 100 ** (99 / 999)
    np.testing.assert_allclose(found, np.full((1, 1, 3), -0.02 / sigma), rtol=2 * EPS / 0.02)


def test_mean_free_has_zero_mean_over_real_atoms_whatever_the_padding_holds():
    key, key_junk = jax.random.split(jax.random.key(0))
    per_atom = jax.random.normal(key, (3, 6, 3))
    mask = jnp.arange(6) < jnp.array([[6], [4], [1]])
    junk = jnp.where(mask[..., None], per_atom, 1e3 * jax.random.normal(key_junk, (3, 6, 3)))
    found = coordinates.mean_free(per_atom, mask)
    np.testing.assert_array_equal(coordinates.mean_free(junk, mask), found)
    np.testing.assert_array_equal(np.asarray(found)[~np.asarray(mask)], 0.0)
    np.testing.assert_allclose(found.sum(axis=1), np.zeros((3, 3)), atol=20 * EPS)
    for row, count in enumerate([6, 4, 1]):
        real = np.asarray(per_atom[row, :count], np.float64)
        np.testing.assert_allclose(found[row, :count], real - real.mean(axis=0), atol=8 * EPS)


def test_mean_free_of_a_crystal_without_atoms_is_zero():
    found = coordinates.mean_free(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool))
    np.testing.assert_array_equal(found, np.zeros((1, 2, 3)))


@pytest.mark.parametrize(("t", "s"), [(300, 299), (300, 100), (2, 1), (300, 0), (1, 0)])
def test_predictor_step_carries_the_marginal_at_t_to_the_marginal_at_s(schedule, t, s):
    # While narrow the step is linear in the noise already present (eps) and the new noise.
    site, one, zero = jnp.full((1, 1, 3), 0.5), jnp.ones((1, 1, 3)), jnp.zeros((1, 1, 3))
    times, earlier = jnp.array([t]), jnp.array([s])
    shifts = []
    for eps, noise in [(one, zero), (zero, one)]:
        noisy = coordinates.noised(site, eps, times, schedule)
        score = coordinates.scaled_score(noisy, site, times, schedule)
        move = coordinates.predictor_move(noise, score, times, earlier, schedule)
        shifts.append(float((noisy + move)[0, 0, 0]) - 0.5)
    sigma = 0.0 if s == 0 else 0.005 * 100 ** ((s - 1) / 999)
    # Positions near 0.5 are rounded at EPS / 4; a handful of roundings meet in each shift.
    assert np.hypot(shifts[0], shifts[1]) == pytest.approx(sigma, abs=4 * EPS)


def test_predictor_with_the_exact_score_ends_at_the_known_sites(schedule):
    key_start, key_walk = jax.random.split(jax.random.key(1))
    target = batch_of_sites(16)

    def step(frac_coords, t):
        times = jnp.full(16, t)
        score = coordinates.scaled_score(frac_coords, target, times, schedule)
        noise = jax.random.normal(jax.random.fold_in(key_walk, t), target.shape)
        move = coordinates.predictor_move(noise, score, times, times - 1, schedule)
        return wrap(frac_coords + move), None

    start = jax.random.uniform(key_start, target.shape)
    found, _ = jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(1000, 0, -1)))(start)
    assert circular_distance(found, target).max() < 1e-2


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_langevin_corrector_leaves_the_wrapped_normal_invariant(schedule, t):
    gamma, number, num_steps = 1e-6, 5_000, 40
    times = jnp.full(number, t)
    target = batch_of_sites(number)
    key_start, key_walk = jax.random.split(jax.random.key(t))

    def step(frac_coords, key):
        score = coordinates.scaled_score(frac_coords, target, times, schedule)
        noise = jax.random.normal(key, target.shape)
        move = coordinates.corrector_move(noise, score, times, gamma, schedule)
        return wrap(frac_coords + move), None

    start = coordinates.noised(target, jax.random.normal(key_start, target.shape), times, schedule)
    keys = jax.random.split(key_walk, num_steps)
    found, _ = jax.jit(lambda x: jax.lax.scan(step, x, keys))(start)

    sigma = 0.005 * 100 ** ((t - 1) / 999)
    angle = 2 * np.pi * (np.asarray(found, np.float64) - np.asarray(target, np.float64))
    resultant = np.exp(-2 * (np.pi * sigma) ** 2)
    # Var cos = (1 + r^4) / 2 - r^2, Var sin = (1 - r^4) / 2. The step h = gamma (sigma / sigma_1)^2
    # is 0.04 sigma^2 while narrow, so 40 steps forget a wrong start width by exp(-3); its
    # discretisation widens the variance by h / 2, that is lowers r by at most 2 pi^2 h r.
    step_size = gamma * (sigma / 0.005) ** 2
    error_cos = np.sqrt(((1 + resultant**4) / 2 - resultant**2) / angle.size)
    error_sin = np.sqrt((1 - resultant**4) / 2 / angle.size)
    allowed = 3 * error_cos + 2 * np.pi**2 * step_size * resultant
    assert abs(np.cos(angle).mean() - resultant) < allowed
    assert abs(np.sin(angle).mean()) < 3 * error_sin


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("t", [2, 300, 700])
def test_relaxation_leaves_the_wrapped_normal_invariant_however_large_its_share(schedule, t, share):
    number, num_steps = 20_000, 10
    times = jnp.full(number, t)
    target = batch_of_sites(number)
    key_start, key_walk = jax.random.split(jax.random.key(t))

    def step(frac_coords, key):
        score = coordinates.scaled_score(frac_coords, target, times, schedule)
        noise = jax.random.normal(key, target.shape)
        move = coordinates.relaxation_move(noise, score, times, share, schedule)
        return wrap(frac_coords + move), None

    start = coordinates.noised(target, jax.random.normal(key_start, target.shape), times, schedule)
    found, _ = jax.jit(lambda x: jax.lax.scan(step, x, jax.random.split(key_walk, num_steps)))(
        start
    )
    away = np.asarray(found, np.float64) - np.asarray(target, np.float64)
    away = (away - np.round(away)).ravel()
    sigma = 0.005 * 100 ** ((t - 1) / 999)
    error = 5 / np.sqrt(away.size)
    assert abs(away.mean() / sigma) < error
    assert abs(away.std() / sigma - 1) < error


def test_a_relaxation_of_nothing_moves_nothing_and_one_of_all_goes_to_the_expected_site(schedule):
    target, times = batch_of_sites(4), jnp.array([100, 300, 500, 700])
    noise = jax.random.normal(jax.random.key(1), target.shape)
    noisy = coordinates.noised(target, noise, times, schedule)
    score = coordinates.scaled_score(noisy, target, times, schedule)
    nothing = jnp.zeros_like(noise)
    np.testing.assert_array_equal(
        coordinates.relaxation_move(noise, score, times, 0.0, schedule), nothing
    )
    arrived = noisy + coordinates.relaxation_move(nothing, score, times, 1.0, schedule)
    np.testing.assert_allclose(circular_distance(arrived, target), 0.0, atol=1e-3)


def test_corrector_moves_up_the_score_by_gamma_and_adds_no_noise_at_the_last_time(schedule):
    site, noisy = jnp.full((1, 1, 3), 0.5), jnp.full((1, 1, 3), 0.51)
    times = jnp.array([1])
    score = coordinates.scaled_score(noisy, site, times, schedule)
    noise = jnp.full((1, 1, 3), 123.4)
    found = noisy + coordinates.corrector_move(noise, score, times, 2e-6, schedule)
    # At t = 1 the step is gamma itself, and the score -0.01 / sigma_1^2 = -400.
    np.testing.assert_allclose(found, np.full((1, 1, 3), 0.51 - 2e-6 * 400), atol=2 * EPS)


def test_steps_of_the_corrector_grow_with_the_variance_of_the_noise(schedule):
    times, gamma = jnp.array([1, 50, 400, 999]), 2e-6
    # The widths are geometric from 0.005 to 0.5.
    step = gamma * 100.0 ** (2 * (np.array(times) - 1) / 999)
    noise, nothing = jnp.ones((4, 1, 3)), jnp.zeros((4, 1, 3))
    jitter = coordinates.corrector_move(noise, nothing, times, gamma, schedule)
    expected = np.sqrt(2 * step) * (np.array(times) > 1)
    np.testing.assert_allclose(jitter, np.broadcast_to(expected[:, None, None], (4, 1, 3)), 1e-5)
    # 1 / 20 of a width away from the site, where up to t = 400 (sigma 0.03) no image is near, the
    # score is -1 / (20 sigma).
    sigma = 0.005 * 100.0 ** ((np.array(times) - 1) / 999)
    noisy = jnp.asarray(0.5 + sigma / 20, jnp.float32)[:, None, None] * jnp.ones((1, 1, 3))
    score = coordinates.scaled_score(noisy, jnp.full((4, 1, 3), 0.5), times, schedule)
    move = coordinates.corrector_move(nothing, score, times, gamma, schedule)
    away = np.asarray(noisy, np.float64) - 0.5
    drift = -(step / sigma**2)[:, None, None] * away
    np.testing.assert_allclose(move[:3], drift[:3], rtol=1e-4)


def test_integer_shifts_of_atoms_change_nothing(schedule):
    key_eps, key_shift = jax.random.split(jax.random.key(5))
    clean, times = batch_of_sites(8), jnp.arange(100, 900, 100)
    shift = jax.random.randint(key_shift, clean.shape, -2, 3).astype(jnp.float32)
    eps = jax.random.normal(key_eps, clean.shape)
    noisy = coordinates.noised(clean, eps, times, schedule)
    # A shift of up to 2 costs a coordinate one rounding of 3, that is 2 EPS.
    lost = 2 * EPS
    moved = coordinates.noised(clean + shift, eps, times, schedule)
    assert circular_distance(moved, noisy).max() < 2 * lost

    score = coordinates.scaled_score(noisy, clean, times, schedule)
    score_moved = coordinates.scaled_score(noisy + shift, clean, times, schedule)
    # The slope of the scaled score is about 1 / sigma, sigma >= 0.0078 here, but for the jump at
    # the antipode, |d| = 1/2.
    away = circular_distance(noisy, clean) < 0.45
    np.testing.assert_allclose(score_moved[away], score[away], atol=2 * lost / 0.0078)
