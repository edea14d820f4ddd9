import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.diffusion import schedules

NUM_STEPS = 1000
# Compiled, because op by op it would cost most of these tests' time.
_transition = jax.jit(schedules.transition)


def one_step_beta(num_steps):
    """beta_1..beta_T of the clipped cosine schedule, spelled out with the math module."""

    def ideal(t):
        return math.cos((t / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array(
        [min(max(1 - ideal(t) / ideal(t - 1), 1e-4), 0.9999) for t in range(1, num_steps + 1)]
    )


@pytest.mark.parametrize("num_steps", [10, 100, NUM_STEPS])
def test_alpha_bar_is_the_product_of_one_minus_clipped_cosine_betas(num_steps):
    expected = [1.0]
    for beta in one_step_beta(num_steps):
        expected.append(expected[-1] * (1 - beta))
    found = schedules.cosine_alpha_bar(num_steps, 0.008)
    assert found[0] == 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_sigma_is_geometric_between_its_end_points_and_zero_when_clean():
    sigma = schedules.geometric_sigma(NUM_STEPS, 0.005, 0.5)
    assert sigma.shape == (NUM_STEPS + 1,)
    assert sigma[0] == 0.0
    assert sigma[1] == pytest.approx(0.005, rel=1e-12)
    assert sigma[-1] == pytest.approx(0.5, rel=1e-12)
    np.testing.assert_allclose(sigma[2:] / sigma[1:-1], 100.0 ** (1 / 999), rtol=1e-12)


def test_tables_are_float32_roundings_of_the_float64_truth(schedule):
    beta = one_step_beta(NUM_STEPS)
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-beta))])
    half_ulp = 2.0**-24 * (1 + 1e-3)
    np.testing.assert_allclose(schedule.alpha_bar, np.exp(log_alpha_bar), rtol=half_ulp)
    np.testing.assert_allclose(
        schedule.one_minus_alpha_bar, -np.expm1(log_alpha_bar), rtol=half_ulp
    )
    np.testing.assert_allclose(schedule.log_alpha_bar, log_alpha_bar, rtol=half_ulp)
    sigma = [0.0] + [0.005 * 100 ** (k / 999) for k in range(NUM_STEPS)]
    np.testing.assert_allclose(schedule.sigma, sigma, rtol=half_ulp)
    assert all(table.dtype == jnp.float32 for table in vars(schedule).values())
    assert all(table.shape == (NUM_STEPS + 1,) for table in vars(schedule).values())


def test_score_scale_is_sigma_while_narrow_and_the_inverse_of_a_sine_when_wide(schedule):
    assert schedule.score_scale[0] == 0.0
    sigma = np.asarray(schedule.sigma, np.float64)
    narrow = (sigma > 0) & (sigma < 0.05)  # the neighbouring image counts exp(-50)
    np.testing.assert_allclose(schedule.score_scale[narrow], sigma[narrow], rtol=2e-7)
    # Wide: score = -4 pi q sin(2 pi d) / (1 + ...), so E[score^2] = 8 pi^2 q^2 (1 + O(q^2)).
    first = np.exp(-2 * (np.pi * sigma[-1]) ** 2)
    expected = 1 / (np.sqrt(8) * np.pi * first)
    assert float(schedule.score_scale[-1]) == pytest.approx(expected, rel=4 * first**2)


@pytest.mark.parametrize("stride", [1, 2, 7, 10, 100, 500, 999, 1000])
def test_transition_is_accurate_in_float32_from_end_to_end(schedule, stride):
    log_keep = np.concatenate([[0.0], np.cumsum(np.log1p(-one_step_beta(NUM_STEPS)))])
    t = np.arange(stride, NUM_STEPS + 1)
    s = t - stride
    alpha, beta = _transition(schedule, t, s)
    assert alpha.shape == beta.shape == (t.size, 1, 1)
    # beta is a difference of logarithms near t^2 / T^2: one rounding of them is at worst
    # 2^-24 t / 2 = 3e-5 of beta. Subtracting rounded products would lose ten times that.
    np.testing.assert_allclose(alpha[:, 0, 0], np.exp(log_keep[t] - log_keep[s]), rtol=1e-4)
    np.testing.assert_allclose(beta[:, 0, 0], -np.expm1(log_keep[t] - log_keep[s]), rtol=1e-4)


@pytest.mark.parametrize(
    ("total", "number"), [(1000, 1000), (1000, 100), (1000, 7), (5, 4), (9, 1)]
)
def test_sampling_times_fall_evenly_from_the_last_step_to_zero(total, number):
    times = schedules.sampling_times(total, number)
    assert times.shape == (number + 1,)
    assert (times[0], times[-1]) == (total if number == total else total - 1, 0)
    steps = -np.diff(times)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("number", [1000, 500, 100, 50])
def test_no_first_step_magnifies_errors_of_the_predicted_noise_beyond_reason(number):
    first, second = schedules.sampling_times(1000, number)[:2]
    alpha_bar = schedules.cosine_alpha_bar(1000, 0.008)
    alpha = alpha_bar[first] / alpha_bar[second]
    magnification = (1 - alpha) / np.sqrt(alpha)
    # One step of the paper's chain has 100, by the clip of beta to 0.9999; strides must not add.
    assert magnification <= 100.0


@pytest.mark.parametrize("number", [0, -3, 1001])
def test_sampling_times_refuse_a_number_of_steps_outside_the_schedule(number):
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        schedules.sampling_times(1000, number)


def test_config_sets_length_and_widths_of_the_tables():
    schedule = schedules.noise_schedule(
        NoiseConfig(num_steps=20, frac_sigma_min=0.01, frac_sigma_max=0.4)
    )
    assert schedule.alpha_bar.shape == (21,)
    assert float(schedule.sigma[1]) == pytest.approx(0.01, rel=1e-6)
    assert float(schedule.sigma[20]) == pytest.approx(0.4, rel=1e-6)


def test_per_crystal_looks_up_times_and_broadcasts_over_the_trailing_axes():
    table = jnp.arange(5.0) * 10
    found = schedules.per_crystal(table, jnp.array([4, 0]), 3)
    np.testing.assert_array_equal(found, np.array([40.0, 0.0]).reshape(2, 1, 1))


def test_widths_are_refused_where_the_score_is_rounding_noise():
    NoiseConfig(frac_sigma_max=0.7)
    with pytest.raises(ValueError, match=r"frac_sigma_max must be .* at most 0\.7"):
        NoiseConfig(frac_sigma_max=0.7001)
