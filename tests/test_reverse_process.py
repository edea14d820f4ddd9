"""The whole reverse process on distributions for which the best denoiser is known exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, sampling_times
from crystal_diffusion_jax.sampling.sampler import reverse_process

NUM_SPECIES = 4
GAMMA = 1e-6
TOLERANCE = 1e-2


class Mixture(NamedTuple):
    """C known crystals: weights [C], lattice [C, 3, 3], frac_coords [C, N, 3], species [C, N]."""

    weights: np.ndarray
    lattice: np.ndarray
    frac_coords: np.ndarray
    species: np.ndarray


ONE_CRYSTAL = Mixture(
    weights=np.array([1.0]),
    lattice=np.array([[[1.0, 0.0, 0.1], [-0.2, 0.9, 0.0], [0.0, 0.1, 1.3]]]),
    frac_coords=np.array(
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.99, 0.4, 0.6], [0.3, 0.01, 0.2]]]
    ),
    species=np.array([[0, 1, 3, 3, 2]]),
)
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
    """The posterior means of noise, score and species given a noisy crystal.

    Each component's posterior weight is its prior weight times the densities of the noisy
    lattice, coordinates and species given that component.
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
        scale = schedule.score_scale[t][:, None, None]
        return Prediction(
            lattice_eps=jnp.einsum("bc,bcxy->bxy", weights, added / jnp.sqrt(one_minus)),
            scaled_score=scale * jnp.einsum("bc,bcnx->bnx", weights, score),
            species_logits=jnp.log(jnp.einsum("bc,cnk->bnk", weights, one_hot)),
        )

    return denoise


def generate(
    mixture: Mixture, schedule: NoiseSchedule, number: int, times: np.ndarray, *, correct: bool
) -> Crystals:
    """The sampler's own reverse process, with or without its corrector."""
    keys = jax.random.split(jax.random.key(0), number)
    mask = jnp.ones((number, mixture.species.shape[1]), bool)
    gamma = GAMMA if correct else 0.0  # a Langevin step of size 0 changes nothing

    @jax.jit
    def run() -> Crystals:
        denoise = analytic_denoiser(mixture, schedule)
        return reverse_process(
            denoise, keys, mask, NUM_SPECIES, jnp.asarray(times), gamma, schedule
        )

    return run()


def distance_to(mixture: Mixture, component: np.ndarray, crystals: Crystals) -> tuple[float, float]:
    """Largest deviation of any lattice element and of any fractional coordinate (circular)."""
    lattice = np.asarray(crystals.lattice) - mixture.lattice[component]
    frac = np.asarray(crystals.frac_coords) - mixture.frac_coords[component]
    return float(np.abs(lattice).max()), float(np.abs(frac - np.round(frac)).max())


@pytest.mark.parametrize(
    ("num_steps", "correct"),
    [(1000, True), (100, False)],
    ids=["every step with corrector", "100 strided steps"],
)
def test_reverse_process_with_the_exact_denoiser_recovers_a_known_crystal(
    schedule, num_steps, correct
):
    times = sampling_times(1000, num_steps)
    crystals = generate(ONE_CRYSTAL, schedule, 64, times, correct=correct)
    component = np.zeros(64, int)
    lattice_error, frac_error = distance_to(ONE_CRYSTAL, component, crystals)
    assert lattice_error < TOLERANCE
    assert frac_error < TOLERANCE
    np.testing.assert_array_equal(crystals.species, ONE_CRYSTAL.species[component])


def test_reverse_process_with_the_exact_denoiser_draws_a_mixture_with_its_weights(schedule):
    number = 1000
    crystals = generate(TWO_CRYSTALS, schedule, number, sampling_times(1000, 1000), correct=True)
    offset = np.asarray(crystals.lattice)[:, None] - TWO_CRYSTALS.lattice
    component = np.argmin(np.sum(offset**2, axis=(2, 3)), axis=1)
    lattice_error, frac_error = distance_to(TWO_CRYSTALS, component, crystals)
    assert lattice_error < TOLERANCE
    assert frac_error < TOLERANCE
    np.testing.assert_array_equal(crystals.species, TWO_CRYSTALS.species[component])
    share, weight = np.mean(component == 0), TWO_CRYSTALS.weights[0]
    assert abs(share - weight) < 3 * np.sqrt(weight * (1 - weight) / number)
