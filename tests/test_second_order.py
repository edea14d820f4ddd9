"""Truth is normal data, whose best denoiser is linear: spreads then follow from linear algebra."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import coordinates, joint, lattice, second_order, species
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, cosine_alpha_bar
from crystal_diffusion_jax.diffusion.second_order import CleanEstimate

NUM_SPECIES = 4
SPREAD = 0.1  # standard deviation of the data
ALPHA_BAR = cosine_alpha_bar(1000, 0.008)  # checked in test_schedules
SIGMA = np.concatenate([[0.0], 0.005 * 100 ** (np.arange(1000) / 999)])
UNIT = 0.05  # of a state: small against a period, large against rounding


def normal_data(crystals: Crystals, t: Array, schedule: NoiseSchedule) -> Prediction:
    """Best prediction for lattices and coordinates that are N(0, SPREAD^2), far from wrapping."""
    alpha_bar, one_minus = (
        table[t][:, None, None] for table in (schedule.alpha_bar, schedule.one_minus_alpha_bar)
    )
    sigma, scale = (table[t][:, None, None] for table in (schedule.sigma, schedule.score_scale))
    from_origin = crystals.frac_coords - jnp.round(crystals.frac_coords)
    return Prediction(
        lattice_eps=jnp.sqrt(one_minus) * crystals.lattice / (alpha_bar * SPREAD**2 + one_minus),
        scaled_score=-scale * from_origin / (SPREAD**2 + sigma**2),
        species_logits=jnp.zeros((*crystals.species.shape, NUM_SPECIES)),
    )


def crystals_at(lattice: Array, frac_coords: Array) -> Crystals:
    shape = (len(lattice), 3)
    return Crystals(
        lattice=lattice,
        frac_coords=frac_coords,
        species=jnp.zeros(shape, jnp.int32),
        mask=jnp.ones(shape, bool),
    )


@jax.jit
def drift(previous_t: Array, t: Array, s: Array, schedule: NoiseSchedule) -> tuple[Array, Array]:
    """Of one step, the matrix on (value, what the previous estimate says): lattice, coordinates.

    Rows 1 and 2 of the batch start at one unit of either, row 0 at zero. All share their keys, so
    that the noise drops out of the differences.
    """
    units = UNIT * jnp.eye(3)[:, 1:, None, None] * jnp.ones((3, 3))  # [rows, entries, 3, 3]
    crystals = crystals_at(units[:, 0], units[:, 0])
    same = jnp.full(3, previous_t)
    nothing = second_order.no_estimate(crystals, NUM_SPECIES)
    previous = dataclasses.replace(nothing, t=same, lattice=units[:, 1], displacement=units[:, 1])
    keys = jnp.tile(jax.random.key(0), 3)
    times = jnp.full(3, t)
    prediction = normal_data(crystals, times, schedule)
    new, handed_on = second_order.step(
        keys, crystals, prediction, previous, times, jnp.full(3, s), schedule
    )
    of_lattice = jnp.stack([new.lattice, handed_on.lattice])[:, :, 0, 0]
    of_frac = jnp.stack([new.frac_coords, handed_on.displacement])[:, :, 0, 0]
    changes = (of_lattice[:, 1:] - of_lattice[:, :1], of_frac[:, 1:] - of_frac[:, :1])
    return changes[0] / UNIT, (changes[1] - jnp.round(changes[1])) / UNIT


def final_variances(schedule: NoiseSchedule, times: np.ndarray, *, extrapolate: bool) -> np.ndarray:
    """Variances of lattice and coordinates at the last time, by propagating their covariances.

    The noise of a step is that of the ancestral one, in closed form; in the coordinates it moves
    the value and, the other way, the displacement that is left to the estimate.
    """
    states = [np.zeros((2, 2)), np.zeros((2, 2))]
    states[0][0, 0], states[1][0, 0] = exact_variances(times[0])
    for previous, t, s in zip([0, *times], times, times[1:], strict=False):
        drifts = drift(previous if extrapolate else 0, t, s, schedule)
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[s]
        added = [
            beta * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t]) * np.diag([1.0, 0.0]),
            SIGMA[s] ** 2 * (1 - (SIGMA[s] / SIGMA[t]) ** 2) * np.array([[1, -1], [-1, 1]]),
        ]
        for i in range(2):
            matrix = np.asarray(drifts[i], np.float64)
            states[i] = matrix @ states[i] @ matrix.T + added[i]
    return np.array([states[0][0, 0], states[1][0, 0]])


def exact_variances(t: int) -> np.ndarray:
    """Of lattice and coordinates at time t."""
    return np.array([ALPHA_BAR[t] * SPREAD**2 + 1 - ALPHA_BAR[t], SPREAD**2 + SIGMA[t] ** 2])


def errors(schedule, first, last, num_steps, *, extrapolate=True) -> np.ndarray:
    """Relative errors of the final variances of lattice and coordinates."""
    times = np.linspace(first, last, num_steps + 1).astype(int)
    found = final_variances(schedule, times, extrapolate=extrapolate)
    return found / exact_variances(last) - 1


# From 961 to 161, as below 161 so few steps do not resolve the lattice's log-SNR yet.
@pytest.mark.parametrize(("extrapolate", "factor"), [(False, 2.0), (True, 4.0)])
def test_the_error_of_the_spread_falls_by_the_order_when_the_steps_double(
    schedule, extrapolate, factor
):
    coarse, fine = (
        errors(schedule, 961, 161, number, extrapolate=extrapolate) for number in (40, 80)
    )
    # The next order of the expansion is about one part in ten of the error at 40 steps.
    np.testing.assert_allclose(coarse / fine, factor, rtol=0.1)


def test_ancestral_steps_lose_the_log_range_of_sigma_over_their_number(schedule):
    lost = -errors(schedule, 961, 1, 240, extrapolate=False)[1]
    # Sum of the variances that freezing drops, S steps of h = log(sigma_T / sigma_1) / S, each
    # 4 h^2 u / (1 + u)^3 with u = (sigma / SPREAD)^2: h times the integral of 2 / (1 + u)^3.
    log_range = np.log(SIGMA[961] / SIGMA[1])
    low, high = (SIGMA[1] / SPREAD) ** 2, (SIGMA[961] / SPREAD) ** 2
    expected = log_range / 240 * ((1 + low) ** -2 - (1 + high) ** -2)
    assert lost == pytest.approx(expected, rel=0.05)


def one_crystal(number: int) -> Crystals:
    """Copies of a crystal with sites at the boundary of the cell."""
    sites = jnp.array([[0.0, 0.999, 0.5], [0.001, 0.3, 0.7], [0.25, 0.0, 0.998]])
    cell = jnp.array([[1.0, 0.1, 0.0], [-0.3, 1.2, 0.2], [0.0, 0.4, 0.9]])
    return crystals_at(jnp.tile(cell, (number, 1, 1)), jnp.tile(sites, (number, 1, 1)))


def knows_one_crystal(noisy: Crystals, t: Array, schedule: NoiseSchedule) -> Prediction:
    clean = one_crystal(len(t))
    signal, noise = (
        jnp.sqrt(table[t])[:, None, None]
        for table in (schedule.alpha_bar, schedule.one_minus_alpha_bar)
    )
    score = coordinates.scaled_score(noisy.frac_coords, clean.frac_coords, t, schedule)
    return Prediction(
        lattice_eps=(noisy.lattice - signal * clean.lattice) / noise,
        scaled_score=score,
        species_logits=jnp.zeros((*noisy.species.shape, NUM_SPECIES)),
    )


@jax.jit
def both_steps(
    keys: Array,
    crystals: Crystals,
    prediction: Prediction,
    previous: CleanEstimate,
    t: Array,
    s: Array,
    schedule: NoiseSchedule,
) -> tuple[Crystals, CleanEstimate, Crystals]:
    """The step and the estimate that it hands on, and the ancestral step; compiled once."""
    second, handed_on = second_order.step(keys, crystals, prediction, previous, t, s, schedule)
    return second, handed_on, joint.predictor_step(keys, crystals, prediction, t, s, schedule)


@jax.jit
def noised(normal: np.ndarray, t: Array, schedule: NoiseSchedule) -> Crystals:
    clean = one_crystal(len(t))
    return crystals_at(
        lattice.noised(clean.lattice, normal[0], t, schedule),
        coordinates.noised(clean.frac_coords, normal[1], t, schedule),
    )


NUMBER = 8
exact = jax.jit(knows_one_crystal)
after_move = jax.jit(second_order.moved)
wrapped = jax.jit(joint.wrapped)


def test_a_constant_estimate_makes_it_the_ancestral_step_even_across_the_cell_boundary(schedule):
    # While narrow, sigma below 0.09, the expected clean crystal is the known one at every time.
    times = np.array([600, 560, 500, 300, 20, 0], np.int32)
    rng = np.random.default_rng(1)
    keys = jax.random.split(jax.random.key(0), NUMBER)
    normal = rng.normal(size=(2, NUMBER, 3, 3)).astype(np.float32)
    second = ancestral = noised(normal, np.full(NUMBER, times[0]), schedule)

    previous = second_order.no_estimate(second, NUM_SPECIES)
    crossed = np.zeros(NUMBER, bool)
    for t, s in itertools.pairwise(times):
        here, there = np.full(NUMBER, t), np.full(NUMBER, s)
        # As by a corrector, both move between the steps.
        move = rng.normal(size=(NUMBER, 3, 3)).astype(np.float32) * SIGMA[t].astype(np.float32) / 5
        before = np.asarray(second.frac_coords)
        previous = after_move(previous, move)
        second, ancestral = (
            wrapped(dataclasses.replace(crystals, frac_coords=crystals.frac_coords + move))
            for crystals in (second, ancestral)
        )
        prediction = exact(second, here, schedule)
        moved, handed_on, _ = both_steps(keys, second, prediction, previous, here, there, schedule)
        prediction = exact(ancestral, here, schedule)
        _, _, ancestral = both_steps(keys, ancestral, prediction, previous, here, there, schedule)
        second, previous, ancestral = wrapped(moved), handed_on, wrapped(ancestral)
        crossed |= np.any(np.abs(second.frac_coords - before) > 0.5, axis=(1, 2))

        np.testing.assert_allclose(second.lattice, ancestral.lattice, atol=1e-4)
        distance = np.asarray(second.frac_coords) - np.asarray(ancestral.frac_coords)
        np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-5)
    assert crossed.any()


def test_the_first_step_is_the_ancestral_one(schedule):
    crystals = one_crystal(NUMBER)
    keys = jax.random.split(jax.random.key(0), NUMBER)
    logits = np.random.default_rng(1).normal(size=(NUMBER, 3, NUM_SPECIES)).astype(np.float32)
    t, s = np.full(NUMBER, 700, np.int32), np.full(NUMBER, 650, np.int32)
    prediction = dataclasses.replace(
        exact(crystals, t, schedule), species_logits=jnp.asarray(logits)
    )
    nothing = second_order.no_estimate(crystals, NUM_SPECIES)
    first, _, expected = both_steps(keys, crystals, prediction, nothing, t, s, schedule)
    np.testing.assert_allclose(first.lattice, expected.lattice, atol=1e-6)
    np.testing.assert_allclose(first.frac_coords, expected.frac_coords, atol=1e-6)
    # A tie within rounding between the perturbed logits of 24 atoms: chance 1e-5.
    np.testing.assert_array_equal(first.species, expected.species)


def test_the_last_step_gives_the_expected_clean_crystal(schedule):
    crystals, t = one_crystal(NUMBER), np.full(NUMBER, 30, np.int32)
    prediction = jax.jit(normal_data)(crystals, t, schedule)
    present = jax.jit(second_order.estimate)(crystals, prediction, t, schedule)
    keys = jax.random.split(jax.random.key(0), NUMBER)
    elsewhere = dataclasses.replace(present, t=present.t + 20, lattice=present.lattice + 1.0)
    clean, _, _ = both_steps(
        keys, crystals, prediction, elsewhere, t, np.zeros(NUMBER, np.int32), schedule
    )
    # Of normal data: shrunk towards the mean, 0, by the share of the data in the variance.
    signal, one_minus = ALPHA_BAR[30], 1 - ALPHA_BAR[30]
    share = SPREAD**2 * np.sqrt(signal) / (SPREAD**2 * signal + one_minus)
    np.testing.assert_allclose(clean.lattice, share * np.asarray(crystals.lattice), rtol=1e-5)
    from_origin = np.asarray(crystals.frac_coords)
    from_origin = from_origin - np.round(from_origin)
    distance = clean.frac_coords - SPREAD**2 / (SPREAD**2 + SIGMA[30] ** 2) * from_origin
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-6)


# Of two atoms and three species; the two atoms are strongly correlated.
PAIRS = np.array([[0.0, 0.5, 0.1], [0.2, 0.0, 0.0], [0.0, 0.0, 0.2]])


def chain_of_pairs(schedule: NoiseSchedule, num_steps: int, *, extrapolate: bool) -> np.ndarray:
    """The exact law [3, 3] of a pair after all steps, with the best prediction at each.

    The best prediction for an atom is the distribution of its clean species given the other
    atoms, as the posterior takes its own noisy species into account by itself. The law is that of
    (pair before, pair now), [9, 9]: the extrapolation looks at both.
    """
    pairs = np.array(list(np.ndindex(3, 3)))
    before, now = np.repeat(pairs, 9, axis=0), np.tile(pairs, (9, 1))

    def best(noisy: np.ndarray, t: int) -> np.ndarray:
        seen = ALPHA_BAR[t] * np.eye(3) + (1 - ALPHA_BAR[t]) / 3  # [clean, noisy]
        probs = np.stack([PAIRS @ seen[:, noisy[:, 1]], PAIRS.T @ seen[:, noisy[:, 0]]]).T
        return probs / probs.sum(axis=1, keepdims=True)  # [81, K, atoms]

    times = np.round(np.linspace(999, 0, num_steps + 1)).astype(int)
    law = np.full((9, 9), 1 / 81)
    for previous_t, t, s in zip([0, *times], times, times[1:], strict=False):
        probs = best(now, t).transpose(0, 2, 1)
        probs_before = best(before, previous_t).transpose(0, 2, 1)
        log_transition = pair_step(
            jnp.asarray(now), probs, probs_before, previous_t if extrapolate else 0, t, s, schedule
        )
        transition = np.exp(np.asarray(log_transition, np.float64))  # [81, atoms, K]
        to_pair = transition[:, 0, :, None] * transition[:, 1, None, :]
        law = np.einsum("bn,bnc->nc", law, to_pair.reshape(9, 9, 9))
    return law.sum(axis=0).reshape(3, 3)


@jax.jit
def pair_step(
    now: Array,
    probs: Array,
    probs_before: Array,
    previous_t: Array,
    t: Array,
    s: Array,
    schedule: NoiseSchedule,
) -> Array:
    """log p(a_s) of each atom, [81, 2, 3], given the pairs now and what was predicted before."""
    number = len(now)
    crystals = Crystals(
        lattice=jnp.zeros((number, 3, 3)),
        frac_coords=jnp.zeros((number, 2, 3)),
        species=now,
        mask=jnp.ones((number, 2), bool),
    )
    prediction = Prediction(
        lattice_eps=crystals.lattice,
        scaled_score=crystals.frac_coords,
        species_logits=jnp.log(probs),
    )
    times, there = jnp.full(number, t), jnp.full(number, s)
    present = second_order.estimate(crystals, prediction, times, schedule)
    previous = dataclasses.replace(present, t=jnp.full(number, previous_t), species=probs_before)
    prediction = second_order.extrapolate(prediction, present, previous, there, schedule)
    log_probs = jax.nn.log_softmax(prediction.species_logits)
    return species.log_posterior(log_probs, now, times, there, schedule)


@pytest.mark.parametrize(("extrapolate", "low", "high"), [(False, 1.7, 2.5), (True, 3.0, 5.0)])
def test_the_error_of_the_probabilities_of_a_pair_falls_by_the_order_when_the_steps_double(
    schedule, extrapolate, low, high
):
    coarse, fine = (
        np.abs(chain_of_pairs(schedule, number, extrapolate=extrapolate) - PAIRS).sum() / 2
        for number in (20, 40)
    )
    assert low < coarse / fine < high
    assert fine < 0.02
