"""When the coordinates are relaxed, how often the network is called, and what a request may say."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax import model_folder
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import coordinates, second_order
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseConfig, sampling_times
from crystal_diffusion_jax.diffusion.second_order import Estimate
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.model_folder import TrainedModel
from crystal_diffusion_jax.sampling.plan import plan
from crystal_diffusion_jax.sampling.relaxation import num_relaxed, relax
from crystal_diffusion_jax.sampling.sampler import SamplingConfig
from crystal_diffusion_jax.sampling.settings import ANCESTRAL, SECOND_ORDER, SOLVERS
from tests.reverse_process import reverse_process
from tests.test_sampler import (
    FRAC_COORDS,
    LATTICE,
    NUM_SPECIES,
    SPECIES,
    keys,
    knows_one_crystal,
)

# sigma is 0.005 * 100^((t - 1) / 999).
FIRST, LAST = 302, 699


def test_it_relaxes_where_sigma_is_between_its_bounds():
    assert 0.005 * 100 ** ((FIRST - 2) / 999) < 0.02 <= 0.005 * 100 ** ((FIRST - 1) / 999)
    assert 0.005 * 100 ** ((LAST - 1) / 999) <= 0.125 < 0.005 * 100 ** (LAST / 999)
    for t in (1, FIRST - 1, FIRST, 500, LAST, LAST + 1, 1000):
        assert num_relaxed(np.array([t]), NoiseConfig()) == (FIRST <= t <= LAST)
    assert num_relaxed(sampling_times(1000, 1000)[:-1], NoiseConfig()) == LAST - FIRST + 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("use_corrector", "relaxation_steps"), [(True, 0), (False, 0), (False, 4), (True, 1)]
)
def test_the_network_is_called_by_corrector_relaxation_and_predictor(
    schedule, solver, use_corrector, relaxation_steps
):
    seen = []
    known = knows_one_crystal(schedule)

    def denoise(crystals: Crystals, t: jax.Array) -> Prediction:
        jax.debug.callback(lambda t: seen.append(int(t)), t[0])
        return known(crystals, t)

    times, mask = sampling_times(1000, 7), jnp.ones((2, 3), bool)

    @jax.jit
    def run(keys: jax.Array) -> Crystals:
        return reverse_process(
            denoise,
            keys,
            mask,
            NUM_SPECIES,
            jnp.asarray(times),
            1e-6,
            schedule,
            solver,
            use_corrector,
            relaxation_steps,
        )

    run(keys(0, 1))
    jax.effects_barrier()

    expected = []
    for t in times[:-1].tolist():
        expected += [t] * (1 + use_corrector + relaxation_steps * (FIRST <= t <= LAST))
    assert sorted(seen, reverse=True) == expected


@pytest.mark.parametrize("solver", SOLVERS)
def test_with_relaxation_the_process_recovers_a_known_crystal(schedule, solver):
    times = jnp.asarray(sampling_times(1000, 50))
    mask = jnp.ones((16, 3), bool)
    denoise = knows_one_crystal(schedule)

    def run(relaxation_steps: int) -> Crystals:
        return jax.jit(
            lambda keys: reverse_process(
                denoise,
                keys,
                mask,
                NUM_SPECIES,
                times,
                0.0,
                schedule,
                solver,
                False,
                relaxation_steps,
            )
        )(keys(*range(16)))

    plain, relaxed = run(0), run(3)
    distance = relaxed.frac_coords - plain.frac_coords
    assert np.abs(distance - np.round(distance)).max() < 2e-2
    np.testing.assert_array_equal(relaxed.species, plain.species)
    np.testing.assert_allclose(relaxed.lattice, plain.lattice, atol=1e-2)


@pytest.mark.parametrize(("time", "moves"), [(701, False), (600, True), (310, True), (300, False)])
def test_relaxing_keeps_the_noise_as_wide_as_it_is_at_the_deciding_times_alone(
    schedule, time, moves
):
    count = 2000
    t, all_keys = jnp.full(count, time), keys(*range(count))
    sites = np.tile(FRAC_COORDS, (count, 1, 1))
    noise = jax.random.normal(jax.random.key(9), sites.shape)
    noisy = Crystals(
        lattice=jnp.tile(jnp.asarray(LATTICE), (count, 1, 1)),
        frac_coords=coordinates.noised(jnp.asarray(sites), noise, t, schedule),
        species=jnp.tile(jnp.asarray(SPECIES), (count, 1)),
        mask=jnp.ones(sites.shape[:2], bool),
    )
    before = second_order.no_estimate(noisy, NUM_SPECIES)

    @jax.jit
    def run(crystals: Crystals, estimate: Estimate) -> tuple[Crystals, Estimate | None]:
        denoise = knows_one_crystal(schedule)
        return relax(denoise, all_keys, crystals, estimate, t, 4, schedule)

    relaxed, after = run(noisy, before)
    assert after is not None
    move = np.asarray(relaxed.frac_coords - noisy.frac_coords)
    assert (np.abs(move).max() > 0.01) == moves
    # The expected clean site stays where it is, whole cells aside.
    kept = np.asarray(after.displacement) + move
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    away = np.asarray(relaxed.frac_coords, np.float64) - sites
    away -= np.round(away)
    sigma = 0.005 * 100 ** ((time - 1) / 999)
    assert abs(away.std() / sigma - 1) < 5 / np.sqrt(2 * away.size)


def shipped(relaxation_steps: int) -> TrainedModel:
    model = model_folder.load("perov5_cds")
    sampling = dataclasses.replace(model.config.sampling, relaxation_steps=relaxation_steps)
    config = dataclasses.replace(model.config, sampling=sampling)
    return dataclasses.replace(model, config=config)


@pytest.mark.parametrize(
    ("own", "asked", "gamma", "steps"),
    [
        (0, {}, 1e-6, 0),
        (5, {}, 0.0, 5),
        (5, {"relaxation_steps": 2}, 0.0, 2),
        (0, {"relaxation_steps": 2}, 0.0, 2),
        (5, {"relaxation_steps": 0}, 1e-6, 0),
        (5, {"gamma": 2e-6}, 2e-6, 0),
        (5, {"gamma": 0.0}, 0.0, 0),
        (5, {"gamma": 0.0, "relaxation_steps": 3}, 0.0, 3),
        (5, {"solver": SECOND_ORDER}, 8e-6, 0),
        (0, {"solver": SECOND_ORDER, "relaxation_steps": 3}, 0.0, 3),
    ],
)
def test_a_request_has_the_models_steps_unless_it_names_others(
    own: int, asked: dict[str, Any], gamma: float, steps: int
):
    settings = plan(shipped(own), "m", {}, num=1, **asked).settings
    assert (settings.gamma, settings.relaxation_steps) == (gamma, steps)
    assert settings.solver == asked.get("solver", ANCESTRAL)
    assert settings.use_corrector == (gamma > 0)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"gamma": 1e-6, "relaxation_steps": 2}, "--relaxation_steps take its place: give one"),
        ({"relaxation_steps": -1}, "--relaxation_steps=-1 must be within 0 .. 1000"),
        ({"relaxation_steps": 1001}, "--relaxation_steps=1001 must be within 0 .. 1000"),
    ],
)
def test_an_impossible_request_is_told_why(asked: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        plan(shipped(0), "m", {}, num=1, **asked)


def test_a_negative_default_is_refused():
    with pytest.raises(ValueError, match="relaxation_steps must be at least 0, not -1"):
        SamplingConfig(relaxation_steps=-1)
