"""The whole reverse process on distributions for which the best denoiser is known exactly."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import stats

from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, Solver
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import wrapped_normal
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import (
    NoiseSchedule,
    cosine_alpha_bar,
    sampling_times,
)
from tests.reverse_process import reverse_process

NUM_SPECIES = 4
GAMMA = 1e-6
TOLERANCE = 1e-2


class Mixture(NamedTuple):
    """C known crystals: weights [C], lattice [C, 3, 3], frac_coords [C, N, 3], species [C, N]."""

    weights: np.ndarray
    lattice: np.ndarray
    frac_coords: np.ndarray
    species: np.ndarray


TWO_CRYSTALS = Mixture(
    weights=np.array([0.3, 0.7]),
    lattice=np.array(
        [np.diag([1.0, 1.0, 1.0]), [[0.8, 0.0, 0.0], [0.3, 1.1, 0.0], [0.0, 0.2, 1.2]]]
    ),
    frac_coords=np.array(
        [
            [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 0.5]],
            [[0.1, 0.0, 0.0], [0.6, 0.3, 0.5], [0.5, 0.0, 0.8]],
        ]
    ),
    species=np.array([[0, 1, 3], [0, 2, 3]]),
)


def analytic_denoiser(mixture: Mixture, schedule: NoiseSchedule) -> Denoise:
    """The posterior means of noise and score given a noisy crystal, and what suits its species.

    Each component's posterior weight is its prior weight times the densities of the noisy
    lattice, coordinates and species given that component. `species.log_posterior` multiplies an
    atom's prediction by the likelihood of its own noisy species, so that is left out here.
    """
    lattice, frac_coords = jnp.asarray(mixture.lattice), jnp.asarray(mixture.frac_coords)
    one_hot = jax.nn.one_hot(mixture.species, NUM_SPECIES)  # [C, N, K]
    images = jnp.arange(-3.0, 4.0)  # beyond, exp(-3^2 / (2 sigma^2)) < exp(-18) of the density

    def denoise(noisy: Crystals, t: Array) -> Prediction:
        alpha_bar = schedule.alpha_bar[t][:, None, None, None]
        one_minus = schedule.one_minus_alpha_bar[t][:, None, None, None]
        variance = schedule.sigma[t][:, None, None, None] ** 2

        added = noisy.lattice[:, None] - jnp.sqrt(alpha_bar) * lattice  # [B, C, 3, 3]
        log_lattice = -jnp.sum(added**2 / (2 * one_minus), axis=(2, 3))

        distance = noisy.frac_coords[:, None] - frac_coords  # [B, C, N, 3]
        distance = (distance - jnp.round(distance))[..., None] + images
        exponent = -(distance**2) / (2 * variance[..., None])
        log_frac = jnp.sum(jax.nn.logsumexp(exponent, axis=-1), axis=(2, 3))
        score = -jnp.sum(jax.nn.softmax(exponent, axis=-1) * distance, axis=-1) / variance

        same = noisy.species[:, None] == mixture.species  # [B, C, N]
        likelihood = alpha_bar[..., 0] * same + one_minus[..., 0] / NUM_SPECIES
        log_species = jnp.sum(jnp.log(likelihood), axis=2)

        log_joint = jnp.log(mixture.weights) + log_lattice + log_frac + log_species
        weights = jax.nn.softmax(log_joint, axis=1)  # [B, C]
        others = jax.nn.softmax(log_joint[..., None] - jnp.log(likelihood), axis=1)  # [B, C, N]
        scale = schedule.score_scale[t][:, None, None]
        return Prediction(
            lattice_eps=jnp.einsum("bc,bcxy->bxy", weights, added / jnp.sqrt(one_minus)),
            scaled_score=scale * jnp.einsum("bc,bcnx->bnx", weights, score),
            species_logits=jnp.log(jnp.einsum("bcn,cnk->bnk", others, one_hot)),
        )

    return denoise


def generate(
    denoise: Denoise,
    num_atoms: int,
    schedule: NoiseSchedule,
    number: int,
    num_steps: int,
    solver: Solver,
    *,
    correct: bool,
    renoising_steps: int = 0,
) -> Crystals:
    """The sampler's own reverse process."""
    keys = jax.random.split(jax.random.key(0), number)
    mask = jnp.ones((number, num_atoms), bool)
    times = jnp.asarray(sampling_times(1000, num_steps))

    @jax.jit
    def run() -> Crystals:
        return reverse_process(
            denoise,
            keys,
            mask,
            NUM_SPECIES,
            times,
            GAMMA,
            schedule,
            solver,
            correct,
            renoising_steps,
        )

    return run()


def distance_to(mixture: Mixture, component: np.ndarray, crystals: Crystals) -> tuple[float, float]:
    """Largest deviation of any lattice element and of any fractional coordinate (circular)."""
    lattice = np.asarray(crystals.lattice) - mixture.lattice[component]
    frac = np.asarray(crystals.frac_coords) - mixture.frac_coords[component]
    return float(np.abs(lattice).max()), float(np.abs(frac - np.round(frac)).max())


@pytest.mark.parametrize(
    ("num_steps", "solver", "correct", "renoising_steps"),
    [
        (100, ANCESTRAL, True, 0),
        (50, SECOND_ORDER, False, 2),
        pytest.param(1000, ANCESTRAL, True, 0, marks=pytest.mark.slow),
        pytest.param(100, ANCESTRAL, False, 5, marks=pytest.mark.slow),
    ],
)
def test_reverse_process_with_the_exact_denoiser_draws_a_mixture_with_its_weights(
    schedule, num_steps, solver, correct, renoising_steps
):
    number = 1000
    denoise = analytic_denoiser(TWO_CRYSTALS, schedule)
    crystals = generate(
        denoise,
        3,
        schedule,
        number,
        num_steps,
        solver,
        correct=correct,
        renoising_steps=renoising_steps,
    )
    offset = np.asarray(crystals.lattice)[:, None] - TWO_CRYSTALS.lattice
    component = np.argmin(np.sum(offset**2, axis=(2, 3)), axis=1)
    lattice_error, frac_error = distance_to(TWO_CRYSTALS, component, crystals)
    assert lattice_error < TOLERANCE
    assert frac_error < TOLERANCE
    np.testing.assert_array_equal(crystals.species, TWO_CRYSTALS.species[component])
    share, weight = np.mean(component == 0), TWO_CRYSTALS.weights[0]
    assert abs(share - weight) < 5 * np.sqrt(weight * (1 - weight) / number)


# Independent parts: N(CENTRE, 1) lattices, sites that vibrate by 0.05, species by SHARES.
CENTRE = np.array([[1.0, 0.0, 0.1], [-0.2, 0.9, 0.0], [0.0, 0.1, 1.3]])
SITES = np.array([[0.0, 0.5, 0.98], [0.25, 0.01, 0.7]])
VIBRATION = 0.05
SHARES = np.array([0.5, 0.3, 0.15, 0.05])
NUMBER = 4000  # of crystals


def independent_parts(schedule: NoiseSchedule) -> Denoise:
    """The exact denoiser: normal, wrapped normal and, for each atom alone, categorical data."""

    def denoise(noisy: Crystals, t: Array) -> Prediction:
        signal = jnp.sqrt(schedule.alpha_bar[t])[:, None, None]
        noise = jnp.sqrt(schedule.one_minus_alpha_bar[t])[:, None, None]
        width = jnp.sqrt(schedule.sigma[t] ** 2 + VIBRATION**2)[:, None, None]
        score = wrapped_normal.score(noisy.frac_coords - SITES, width)
        return Prediction(
            lattice_eps=noise * (noisy.lattice - signal * CENTRE),  # of unit variance at every t
            scaled_score=schedule.score_scale[t][:, None, None] * score,
            species_logits=jnp.broadcast_to(jnp.log(SHARES), (*noisy.species.shape, NUM_SPECIES)),
        )

    return denoise


@pytest.mark.parametrize(
    ("num_steps", "solver", "correct"),
    [
        (50, SECOND_ORDER, False),
        pytest.param(1000, ANCESTRAL, True, marks=pytest.mark.slow),
        pytest.param(1000, ANCESTRAL, False, marks=pytest.mark.slow),
    ],
)
def test_fifty_second_order_steps_give_the_closed_forms_that_the_whole_chain_gives(
    schedule, num_steps, solver, correct
):
    found = generate(
        independent_parts(schedule), 2, schedule, NUMBER, num_steps, solver, correct=correct
    )

    deviation = np.asarray(found.lattice, np.float64) - CENTRE
    # Frozen estimates lose 0.5 % of the variance in 1000 ancestral steps, 50 second-order steps
    # gain 1.1 % (the recursion of test_second_order.py), hence 0.015 beside the sampling error.
    assert abs(np.mean(deviation)) < 5 / np.sqrt(deviation.size)
    assert abs(np.mean(deviation**2) - 1) < 5 * np.sqrt(2 / deviation.size) + 0.015

    angle = 2 * np.pi * (np.asarray(found.frac_coords, np.float64) - SITES)
    resultant = np.exp(-2 * (np.pi * VIBRATION) ** 2)
    error_cos = np.sqrt(((1 + resultant**4) / 2 - resultant**2) / angle.size)
    error_sin = np.sqrt((1 - resultant**4) / 2 / angle.size)
    # The last estimate, from t = 1, lacks sigma_1^2 / VIBRATION^2 = 1 % of the variance; 1000
    # ancestral steps lose 0.5 % more. -log(resultant) is proportional to the variance.
    assert abs(np.mean(np.cos(angle)) - resultant) < 5 * error_cos - 0.015 * resultant * np.log(
        resultant
    )
    assert abs(np.mean(np.sin(angle))) < 5 * error_sin

    counts = np.bincount(np.asarray(found.species).ravel(), minlength=NUM_SPECIES)
    # The last step takes the most probable species, which at t = 1 is nearly always the present
    # one: another kind of atom is there with probability of about 1e-4. Five standard errors.
    assert stats.chisquare(counts, SHARES * counts.sum()).pvalue > 6e-7


def kept_variance(num_steps: int) -> float:
    """Of a lattice of unit variance after ancestral steps, which draw from q(L_s | L_t, E[L_0])."""
    alpha_bar = cosine_alpha_bar(1000, 0.008)
    variance = 1.0
    for t, s in itertools.pairwise(sampling_times(1000, num_steps)):
        alpha = alpha_bar[t] / alpha_bar[s]
        from_clean = np.sqrt(alpha_bar[s]) * (1 - alpha) / (1 - alpha_bar[t])
        from_noisy = np.sqrt(alpha) * (1 - alpha_bar[s]) / (1 - alpha_bar[t])
        added = (1 - alpha) * (1 - alpha_bar[s]) / (1 - alpha_bar[t])
        # E[L_0] deviates from its mean by sqrt(alpha_bar_t) of what L_t does.
        variance = (from_noisy + from_clean * np.sqrt(alpha_bar[t])) ** 2 * variance + added
    return float(variance)


def test_fifty_ancestral_steps_lose_the_spread_that_follows_from_their_recursion(schedule):
    expected = kept_variance(50)
    assert 0.90 < expected < 0.93  # the second-order steps, above, keep it within 1.5 %
    denoise = independent_parts(schedule)
    found = generate(denoise, 2, schedule, NUMBER, 50, ANCESTRAL, correct=False)
    deviation = np.asarray(found.lattice, np.float64) - CENTRE
    error = expected * np.sqrt(2 / deviation.size)
    assert abs(np.mean(deviation**2) - expected) < 5 * error
