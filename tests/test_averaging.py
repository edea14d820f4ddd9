"""Averaged denoising: towards the clean crystal, at the end of the chain, as often as asked for."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import SECOND_ORDER, NoiseConfig, SamplingConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import coordinates
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import noise_schedule, per_crystal, sampling_times
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.averaging import CALLS, averaged
from crystal_diffusion_jax.sampling.renoising import num_renoised
from crystal_diffusion_jax.sampling.resolve import resolve
from crystal_diffusion_jax.trained_model import TrainedModel
from tests.reverse_process import network_calls, reverse_process

TIME = 4
SITES = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.99], [0.3, 0.01, 0.2]], np.float32)
CELL = np.array([[1.0, 0.0, 0.1], [-0.2, 0.9, 0.0], [0.0, 0.1, 1.3]], np.float32)
COUNT = 1000
SPREAD = 0.03  # of the lattices' entries
OFF = np.float32(0.01)  # what crystals are away from the clean ones


@jax.jit
def averaged_towards_sites(lattice, frac_coords, rounds, schedule):
    """By the exact denoiser of one set of sites, and of lattices normal around CELL."""
    crystals = Crystals(
        lattice=lattice,
        frac_coords=frac_coords,
        species=jnp.ones((COUNT, 3), jnp.int32),
        mask=jnp.ones((COUNT, 3), bool),
    )

    def denoise(noisy: Crystals, t: jax.Array) -> Prediction:
        sites = jnp.broadcast_to(SITES, noisy.frac_coords.shape)
        score = coordinates.scaled_score(noisy.frac_coords, sites, t, schedule)
        alpha_bar = per_crystal(schedule.alpha_bar, t, 3)
        added = noisy.lattice - jnp.sqrt(alpha_bar) * CELL
        variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
        eps = jnp.sqrt(1 - alpha_bar) * added / variance
        return Prediction(eps, score, jnp.zeros((COUNT, 3, 4)))

    keys = jax.random.split(jax.random.key(7), COUNT)
    return averaged(denoise, keys, crystals, rounds, schedule)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_each_round_brings_lattices_and_sites_to_the_mean_of_what_the_denoiser_expects(
    schedule, rounds
):
    lattice = np.broadcast_to(CELL + OFF, (COUNT, 3, 3))
    frac_coords = np.broadcast_to((SITES + OFF) % 1.0, (COUNT, 3, 3)).astype(np.float32)
    after = averaged_towards_sites(lattice, frac_coords, rounds, schedule)
    # The expected lattice is CELL + kept (L_t / sqrt(alpha_bar) - CELL).
    alpha_bar = float(schedule.alpha_bar[TIME])
    kept = alpha_bar * SPREAD**2 / (alpha_bar * SPREAD**2 + 1 - alpha_bar)
    noise = kept**2 * (1 - alpha_bar) / alpha_bar / CALLS  # variance that a round adds
    variance = noise * sum(kept ** (2 * n) for n in range(rounds))
    away = np.asarray(after.lattice, np.float64) - CELL - OFF * kept**rounds
    assert abs(away.mean()) <= 5 * np.sqrt(variance / away.size) + 1e-6
    assert away.std() == pytest.approx(np.sqrt(variance), rel=5 / np.sqrt(2 * away.size), abs=1e-6)
    # The sites have no spread, so the first round ends at them.
    off = np.asarray(after.frac_coords, np.float64) - SITES
    np.testing.assert_allclose(off - np.round(off), OFF if rounds == 0 else 0.0, atol=1e-5)
    assert np.all(np.asarray(after.species) == 1)


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("use_corrector", [False, True])
def test_the_network_is_called_for_it_after_the_last_step_alone(schedule, rounds, use_corrector):
    times = sampling_times(1000, 7)
    options = {"use_corrector": use_corrector, "averaging_rounds": rounds}
    seen = network_calls(times, schedule, SECOND_ORDER, **options)
    chain = [t for t in times[:-1].tolist() for _ in range(1 + use_corrector)]
    assert seen == chain + [TIME] * CALLS * rounds


@pytest.mark.parametrize("start", [None, 24])
def test_no_key_of_a_chain_serves_twice(monkeypatch, start):
    seen: dict[str, list[tuple[int, ...]]] = {}

    def watch(name: str) -> None:
        original, keys = getattr(jax.random, name), seen.setdefault(name, [])

        def watched(key: jax.Array, *how: Any) -> jax.Array:
            jax.debug.callback(lambda data: keys.append(tuple(data.tolist())), key_data(key))
            return original(key, *how)

        monkeypatch.setattr(jax.random, name, watched)

    key_data = jax.random.key_data
    for name in ("normal", "uniform", "gumbel", "randint", "fold_in", "split"):
        watch(name)

    def denoise(crystals: Crystals, t: jax.Array) -> Prediction:
        logits = jnp.zeros((*crystals.species.shape, 3))
        return Prediction(crystals.lattice, jnp.zeros_like(crystals.frac_coords), logits)

    noise, mask = NoiseConfig(num_steps=50), jnp.ones((2, 3), bool)
    times = sampling_times(50, 2, start or 0)
    given = None
    if start:
        given = Crystals(jnp.ones((2, 3, 3)), jnp.zeros((2, 3, 3)), jnp.ones((2, 3), int), mask)

    @jax.jit
    def run(keys: jax.Array) -> Crystals:
        schedule = noise_schedule(noise)
        options: Any = {"renoising_steps": 2, "averaging_rounds": 2, "given": given, "start": start}
        asked = denoise, keys, mask, 3, jnp.asarray(times), 1e-6, schedule, SECOND_ORDER
        return reverse_process(*asked, **options)

    run(jax.vmap(jax.random.key)(jnp.arange(2))).lattice.block_until_ready()
    jax.effects_barrier()
    # At the time before the averaging all roles have their turn.
    assert num_renoised(times[-2:-1], noise) == 1
    parents = {key for name in ("fold_in", "split") for key in seen.pop(name)}
    drawn = [key for keys in seen.values() for key in keys]
    # Lattice, coordinates and species of pure noise, or of given crystals without species; in each
    # step coordinates twice, lattice and species; then coordinates, then lattice and coordinates.
    assert len(drawn) == 2 * ((2 if start else 3) + 4 * (len(times) - 1) + 2 + 2 * CALLS * 2)
    assert len(set(drawn)) == len(drawn)
    assert parents.isdisjoint(drawn)


def test_the_network_is_traced_once_for_chain_and_averaging(schedule):
    traces = []

    @jax.jit
    def denoise(crystals: Crystals, t: jax.Array) -> Prediction:
        traces.append(t)
        nothing = jnp.zeros_like(crystals.frac_coords)
        return Prediction(crystals.lattice, nothing, nothing)

    def run(keys: jax.Array) -> Crystals:
        times, mask = jnp.asarray(sampling_times(1000, 7)), jnp.ones((2, 3), bool)
        return reverse_process(
            denoise, keys, mask, 3, times, 1e-6, schedule, averaging_rounds=2, renoising_steps=1
        )

    jax.jit(run).trace(jax.random.split(jax.random.key(0), 2))
    assert len(traces) == 1


def with_default(model: TrainedModel, rounds: int) -> TrainedModel:
    sampling = dataclasses.replace(model.config.sampling, averaging_rounds=rounds)
    config = dataclasses.replace(model.config, sampling=sampling)
    return dataclasses.replace(model, config=config)


@pytest.mark.parametrize(
    ("default", "asked", "rounds"),
    [
        (0, {}, 0),
        (4, {}, 4),
        (4, {"solver": SECOND_ORDER}, 4),
        (4, {"averaging_rounds": 0}, 0),
        (0, {"averaging_rounds": 2}, 2),
    ],
)
def test_a_request_takes_the_models_rounds_unless_it_says_how_many(
    tiny_model: TrainedModel, default: int, asked: dict[str, Any], rounds: int
):
    request = resolve(with_default(tiny_model, default), "m", num=1, **asked)
    assert request.averaging_rounds == rounds


@pytest.mark.parametrize("rounds", [-1, 1001])
def test_rounds_out_of_range_are_refused(tiny_model: TrainedModel, rounds: int):
    with pytest.raises(UserError, match=f"--averaging_rounds={rounds} must be within 0 .. 1000"):
        resolve(tiny_model, "m", num=1, averaging_rounds=rounds)


def test_a_config_refuses_negative_rounds():
    with pytest.raises(ValueError, match="averaging_rounds must be at least 0, not -1"):
        SamplingConfig(averaging_rounds=-1)
