"""When coordinates are renoised, how often the network is called, and what a request may say."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, NoiseConfig, SamplingConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import coordinates, second_order
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import sampling_times
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.renoising import num_renoised, renoise
from crystal_diffusion_jax.sampling.resolve import resolve
from crystal_diffusion_jax.trained_model import TrainedModel
from tests.reverse_process import network_calls

# sigma is 0.005 * 100^((t - 1) / 999).
FIRST, LAST = 302, 699


def test_it_renoises_where_sigma_is_between_its_bounds():
    assert 0.005 * 100 ** ((FIRST - 2) / 999) < 0.02 <= 0.005 * 100 ** ((FIRST - 1) / 999)
    assert 0.005 * 100 ** ((LAST - 1) / 999) <= 0.125 < 0.005 * 100 ** (LAST / 999)
    for t in (1, FIRST - 1, FIRST, 500, LAST, LAST + 1, 1000):
        assert num_renoised(np.array([t]), NoiseConfig()) == (FIRST <= t <= LAST)
    assert num_renoised(sampling_times(1000, 1000)[:-1], NoiseConfig()) == LAST - FIRST + 1


@pytest.mark.parametrize(
    ("solver", "use_corrector", "renoising_steps"),
    [(SECOND_ORDER, True, 3), (ANCESTRAL, False, 0)],
)
def test_the_network_is_called_by_corrector_renoising_and_predictor(
    schedule, solver, use_corrector, renoising_steps
):
    times = sampling_times(1000, 7)
    options = {"use_corrector": use_corrector, "renoising_steps": renoising_steps}
    seen = network_calls(times, schedule, solver, **options)
    expected = []
    for t in times[:-1].tolist():
        expected += [t] * (1 + use_corrector + renoising_steps * (FIRST <= t <= LAST))
    assert seen == expected


SITES = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.99], [0.3, 0.01, 0.2]], np.float32)
COUNT = 2000


@jax.jit
def renoised_from(frac_coords, t, schedule):
    """Four steps on copies of a crystal with the sites SITES, by its exact denoiser."""
    crystals = Crystals(
        lattice=jnp.ones((COUNT, 3, 3)),
        frac_coords=frac_coords,
        species=jnp.zeros((COUNT, 3), jnp.int32),
        mask=jnp.ones((COUNT, 3), bool),
    )

    def denoise(noisy: Crystals, t: jax.Array) -> Prediction:
        sites = jnp.broadcast_to(SITES, noisy.frac_coords.shape)
        score = coordinates.scaled_score(noisy.frac_coords, sites, t, schedule)
        return Prediction(noisy.lattice, score, jnp.zeros((COUNT, 3, 4)))

    keys = jax.random.split(jax.random.key(7), COUNT)
    before = second_order.no_estimate(crystals, 4)
    return renoise(denoise, keys, crystals, before, t, 4, schedule)


@pytest.mark.parametrize(("time", "moves"), [(701, False), (600, True), (310, True), (300, False)])
def test_renoising_keeps_the_noise_as_wide_as_it_is_at_the_deciding_times_alone(
    schedule, time, moves
):
    sigma = 0.005 * 100 ** ((time - 1) / 999)
    normal = np.random.default_rng(9).normal(size=(COUNT, 3, 3))
    noisy = np.asarray((SITES + sigma * normal) % 1.0, np.float32)
    renoised, after = renoised_from(noisy, jnp.full(COUNT, time), schedule)
    move = np.asarray(renoised.frac_coords) - noisy
    assert (np.abs(move).max() > 0.01) == moves
    # The expected clean site stays where it is, whole cells aside.
    kept = np.asarray(after.displacement) + move
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    away = np.asarray(renoised.frac_coords, np.float64) - SITES
    away -= np.round(away)
    assert abs(away.std() / sigma - 1) < 5 / np.sqrt(2 * away.size)


def with_default(model: TrainedModel, renoising_steps: int) -> TrainedModel:
    sampling = dataclasses.replace(model.config.sampling, renoising_steps=renoising_steps)
    config = dataclasses.replace(model.config, sampling=sampling)
    return dataclasses.replace(model, config=config)


@pytest.mark.parametrize(
    ("own", "asked", "corrector_step_size", "steps"),
    [
        (0, {}, 1e-6, 0),
        (5, {}, 0.0, 5),
        (5, {"renoising_steps": 2}, 0.0, 2),
        (0, {"renoising_steps": 2}, 0.0, 2),
        (5, {"renoising_steps": 0}, 1e-6, 0),
        (5, {"corrector_step_size": 2e-6}, 2e-6, 0),
        (5, {"corrector_step_size": 0.0}, 0.0, 0),
        (5, {"corrector_step_size": 0.0, "renoising_steps": 3}, 0.0, 3),
        (5, {"solver": SECOND_ORDER}, 8e-6, 0),
        (0, {"solver": SECOND_ORDER, "renoising_steps": 3}, 0.0, 3),
    ],
)
def test_a_request_has_the_models_steps_unless_it_names_others(
    tiny_model: TrainedModel,
    own: int,
    asked: dict[str, Any],
    corrector_step_size: float,
    steps: int,
):
    request = resolve(with_default(tiny_model, own), "m", num=1, **asked)
    assert (request.corrector_step_size, request.renoising_steps) == (corrector_step_size, steps)
    assert request.solver == asked.get("solver", ANCESTRAL)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"corrector_step_size": 1e-6, "renoising_steps": 2},
            "--renoising_steps replace the corrector",
        ),
        ({"renoising_steps": -1}, "--renoising_steps=-1 must be within 0 .. 1000"),
        ({"renoising_steps": 1001}, "--renoising_steps=1001 must be within 0 .. 1000"),
    ],
)
def test_an_impossible_request_is_told_why(
    tiny_model: TrainedModel, asked: dict[str, Any], sentence: str
):
    with pytest.raises(UserError, match=sentence):
        resolve(tiny_model, "m", num=1, **asked)


def test_a_negative_default_is_refused():
    with pytest.raises(ValueError, match="renoising_steps must be at least 0, not -1"):
        SamplingConfig(renoising_steps=-1)
