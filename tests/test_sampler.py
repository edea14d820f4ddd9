"""The sampler, driven by denoisers whose answer is known and by a small random network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax import denoising, devices
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import wrapped_normal
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import (
    NoiseConfig,
    NoiseSchedule,
    noise_schedule,
    sampling_times,
)
from crystal_diffusion_jax.models.denoiser import Denoiser, DenoiserConfig
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.sampling.guidance import (
    guided,
    restrict_species,
    spoil_undefined_species,
)
from crystal_diffusion_jax.sampling.sampler import SamplingConfig, make_sampler
from crystal_diffusion_jax.sampling.settings import (
    ANCESTRAL,
    SECOND_ORDER,
    SOLVERS,
)
from tests.reverse_process import reverse_process

NUM_SPECIES = 4
LATTICE = np.array([[1.0, 0.0, 0.1], [-0.2, 0.9, 0.0], [0.0, 0.1, 1.3]], dtype=np.float32)
FRAC_COORDS = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.99], [0.3, 0.01, 0.2]], dtype=np.float32)
SPECIES = np.array([3, 0, 2])
NOISE = NoiseConfig(num_steps=20)
MESH = devices.data_mesh()
NETWORK = Denoiser(
    DenoiserConfig(conditioning="cds", width=16, num_blocks=1, num_heads=2, pair_width=16),
    num_species=NUM_SPECIES,
)


def knows_one_crystal(schedule: NoiseSchedule) -> Denoise:
    """The exact noise, score and species of anything noised from one known crystal."""

    def denoise(noisy: Crystals, t: Array) -> Prediction:
        signal = jnp.sqrt(schedule.alpha_bar[t])[:, None, None]
        noise = jnp.sqrt(schedule.one_minus_alpha_bar[t])[:, None, None]
        sigma, scale = (table[t][:, None, None] for table in (schedule.sigma, schedule.score_scale))
        logits = jnp.where(jax.nn.one_hot(SPECIES, NUM_SPECIES) > 0, 0.0, -30.0)
        return Prediction(
            lattice_eps=(noisy.lattice - signal * LATTICE) / noise,
            scaled_score=scale * wrapped_normal.score(noisy.frac_coords - FRAC_COORDS, sigma),
            species_logits=jnp.broadcast_to(logits, (len(t), *logits.shape)),
        )

    return denoise


def keys(*numbers: int) -> Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(7), jnp.array(numbers))


@pytest.fixture(scope="module")
def params() -> object:
    return initial_params()


def initial_params() -> object:
    crystals = Crystals(
        lattice=jnp.asarray(LATTICE)[None],
        frac_coords=jnp.asarray(FRAC_COORDS)[None],
        species=jnp.asarray(SPECIES)[None],
        mask=jnp.ones((1, 3), bool),
    )
    initial = jax.jit(NETWORK.init)  # compiled as a whole, ten times quicker than piece by piece
    return initial(jax.random.key(0), crystals, jnp.ones(1, int), request(1))["params"]


def request(batch_size: int, value: float = -1.5) -> Condition:
    shape = (batch_size, 1)
    return Condition(values=jnp.full(shape, value), present=jnp.ones(shape, bool))


def draw(
    params,
    key_numbers,
    num_steps=20,
    guidance=0.0,
    allowed=None,
    size=3,
    gamma=1e-6,
    solver=ANCESTRAL,
    use_corrector=True,
    relaxation_steps=0,
) -> Crystals:
    sampler = make_sampler(
        NETWORK,
        NOISE,
        num_steps,
        guidance != 0,
        MESH,
        solver,
        use_corrector,
        relaxation_steps,
    )
    count = len(key_numbers)
    mask = jnp.broadcast_to(jnp.arange(size) < 3, (count, size))
    allowed = jnp.ones(NUM_SPECIES, bool) if allowed is None else jnp.asarray(allowed)
    return sampler(
        params, keys(*key_numbers), mask, request(count), jnp.float32(guidance), gamma, allowed
    )


@pytest.mark.parametrize(
    ("num_steps", "solver", "use_corrector"),
    [
        (1000, ANCESTRAL, True),
        (100, ANCESTRAL, True),
        (50, ANCESTRAL, False),
        (50, SECOND_ORDER, False),
        (50, SECOND_ORDER, True),
    ],
)
def test_the_reverse_process_recovers_a_known_crystal(schedule, num_steps, solver, use_corrector):
    times = jnp.asarray(sampling_times(1000, num_steps))
    mask = jnp.ones((16, 3), bool)
    denoise = knows_one_crystal(schedule)

    @jax.jit
    def run(keys: Array) -> Crystals:
        return reverse_process(
            denoise, keys, mask, NUM_SPECIES, times, 8e-6, schedule, solver, use_corrector
        )

    crystals = run(keys(*range(16)))

    distance = crystals.frac_coords - FRAC_COORDS
    assert np.abs(distance - np.round(distance)).max() < 1e-2
    np.testing.assert_array_equal(crystals.species, np.tile(SPECIES, (16, 1)))
    np.testing.assert_allclose(crystals.lattice, np.tile(LATTICE, (16, 1, 1)), atol=1e-2)


def test_guidance_extrapolates_from_the_null_branch():
    def echo(crystals: Crystals, t: Array, condition: Condition) -> Prediction:
        """A denoiser whose outputs show which branch they come from."""
        size = jnp.where(condition.present[:, 0], condition.values[:, 0], 100.0)
        size = size + t + crystals.lattice[:, 0, 0]
        return Prediction(
            lattice_eps=size[:, None, None] * jnp.ones((3, 3)),
            scaled_score=2.0 * size[:, None, None] * jnp.ones((3, 3)),
            species_logits=3.0 * size[:, None, None] * jnp.ones((3, NUM_SPECIES)),
        )

    crystals = Crystals(
        lattice=jnp.array([1.0, 2.0])[:, None, None] * jnp.ones((2, 3, 3)),
        frac_coords=jnp.zeros((2, 3, 3)),
        species=jnp.zeros((2, 3), int),
        mask=jnp.ones((2, 3), bool),
    )
    output = guided(echo, request(2, value=-4.0), 0.5)(crystals, jnp.array([7, 8]))

    conditional, null = np.array([4.0, 6.0]), np.array([108.0, 110.0])
    expected = conditional + 0.5 * (conditional - null)
    np.testing.assert_allclose(output.lattice_eps[:, 0, 0], expected)
    np.testing.assert_allclose(output.scaled_score[:, 2, 1], 2 * expected)
    np.testing.assert_allclose(output.species_logits[:, 1, 3], 3 * expected)


def test_no_guidance_is_plain_conditional_prediction(params):
    conditional = denoising.bind(NETWORK, params)
    crystals = draw(params, [0, 1])
    t = jnp.array([3, 12])

    with_branches = guided(conditional, request(2), 0.0)(crystals, t)
    plain = conditional(crystals, t, request(2))

    for name in ("lattice_eps", "scaled_score", "species_logits"):
        np.testing.assert_allclose(getattr(with_branches, name), getattr(plain, name), atol=1e-5)


def test_guidance_changes_the_samples(params):
    plain, steered = draw(params, [0, 1]), draw(params, [0, 1], guidance=2.0)

    assert np.abs(plain.lattice - steered.lattice).max() > 1e-3


def test_excluded_species_never_come_out_even_if_the_network_insists(schedule):
    times = jnp.asarray(sampling_times(1000, 50))
    mask = jnp.ones((64, 3), bool)
    # The known crystal consists of species 3, 0 and 2, of which 3 and 0 are excluded here.
    allowed = jnp.array([False, True, True, False])
    denoise = restrict_species(knows_one_crystal(schedule), allowed)

    run = jax.jit(lambda k: reverse_process(denoise, k, mask, NUM_SPECIES, times, 1e-6, schedule))
    crystals = run(keys(*range(64)))

    assert set(np.unique(crystals.species)) <= {1, 2}
    np.testing.assert_array_equal(crystals.species[:, 2], 2)


def test_without_the_corrector_crystals_are_those_of_a_corrector_step_of_size_zero(params):
    none = draw(params, [5, 6], num_steps=4, use_corrector=False, gamma=jnp.nan)
    still = draw(params, [5, 6], num_steps=4, gamma=0.0)

    np.testing.assert_allclose(none.lattice, still.lattice, rtol=1e-4, atol=1e-4)
    distance = none.frac_coords - still.frac_coords
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-4)
    np.testing.assert_array_equal(none.species, still.species)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_crystal_does_not_depend_on_its_batch(params, solver):
    # Few steps, because rounding that differs between batch shapes grows along the chain.
    together = draw(params, [5, 6, 7], num_steps=4, solver=solver)
    alone = draw(params, [6], num_steps=4, solver=solver)

    np.testing.assert_allclose(together.lattice[1], alone.lattice[0], rtol=1e-4, atol=1e-4)
    distance = together.frac_coords[1] - alone.frac_coords[0]
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-4)
    np.testing.assert_array_equal(together.species[1], alone.species[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_padding_does_not_change_a_crystal(params, solver):
    tight = draw(params, [5, 6], num_steps=4, solver=solver)
    padded = draw(params, [5, 6], num_steps=4, size=5, solver=solver)

    np.testing.assert_allclose(tight.lattice, padded.lattice, rtol=1e-4, atol=1e-4)
    distance = tight.frac_coords - padded.frac_coords[:, :3]
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-4)
    np.testing.assert_array_equal(tight.species, padded.species[:, :3])


def test_the_sampler_is_traced_once_per_shape(params, sampler_traces):
    sampler = make_sampler(NETWORK, NOISE, 3, use_guidance=True, mesh=MESH)
    mask, allowed = jnp.ones((2, 3), bool), jnp.ones(NUM_SPECIES, bool)
    for guidance, number in ((1.0, 0), (2.0, 1), (3.0, 2)):
        numbers = keys(number, number + 1)
        sampler(params, numbers, mask, request(2, number), jnp.float32(guidance), 1e-6, allowed)
    assert len(sampler_traces) == 1

    sampler(params, keys(1), mask[:1], request(1), jnp.float32(1.0), 1e-6, allowed)
    assert len(sampler_traces) == 2


def test_the_jitted_step_equals_the_eager_one(params):
    schedule = noise_schedule(NOISE)
    mask = jnp.ones((2, 3), bool)
    conditional = denoising.bind(NETWORK, params)

    def run(numbers: Array) -> Crystals:
        def denoise(crystals: Crystals, t: Array) -> Prediction:
            return conditional(crystals, t, request(2))

        times = jnp.array([20, 0])
        return reverse_process(denoise, numbers, mask, NUM_SPECIES, times, 1e-6, schedule)

    jitted = jax.jit(run)(keys(1, 2))
    with jax.disable_jit():
        eager = run(keys(1, 2))
    # One step from T to 0 divides by sqrt(alpha_bar_T), which magnifies rounding.
    scale = np.abs(eager.lattice).max()
    np.testing.assert_allclose(jitted.lattice / scale, eager.lattice / scale, atol=1e-5)
    distance = jitted.frac_coords - eager.frac_coords
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-4)
    np.testing.assert_array_equal(jitted.species, eager.species)


@pytest.mark.parametrize("spoilt", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_crystal_whose_species_are_undefined_is_not_finite_and_no_other_is(spoilt):
    prediction = Prediction(
        lattice_eps=jnp.ones((3, 3, 3)),
        scaled_score=jnp.ones((3, 2, 3)),
        # The first crystal's second atom; of the second crystal only the padding.
        species_logits=jnp.zeros((3, 2, NUM_SPECIES)).at[:2, 1, 2].set(spoilt),
    )
    crystals = Crystals(
        lattice=jnp.ones((3, 3, 3)),
        frac_coords=jnp.zeros((3, 2, 3)),
        species=jnp.zeros((3, 2), int),
        mask=jnp.array([[True, True], [True, False], [True, True]]),
    )
    output = spoil_undefined_species(lambda *_: prediction)(crystals, jnp.ones(3, int))
    assert np.isnan(output.lattice_eps[0]).all()
    np.testing.assert_array_equal(output.lattice_eps[1:], 1.0)


def test_undefined_species_spoil_the_crystal_to_the_end_of_the_chain(params):
    # Guidance so strong that the logits, and not only they, overflow.
    crystals = draw(params, [0, 1], num_steps=4, guidance=1e38)
    assert not np.isfinite(crystals.lattice).all(axis=(1, 2)).any()


def test_a_cell_of_one_atom_is_sampled_like_any_other(params):
    crystals = draw(params, [5, 6], num_steps=4, size=1)
    assert np.isfinite(crystals.lattice).all()
    assert np.all((crystals.frac_coords >= 0) & (crystals.frac_coords < 1))
    assert set(np.unique(crystals.species)) <= set(range(NUM_SPECIES))


SHORT_CHAIN = """
import jax, json, numpy as np
from tests import test_sampler
crystals = test_sampler.short_chain()
assert len(crystals.lattice.sharding.device_set) == len(jax.devices()) == {count}
print(json.dumps([np.asarray(crystals.lattice).tolist(), np.asarray(crystals.frac_coords).tolist(),
                  np.asarray(crystals.species).tolist()]))
"""


def short_chain() -> Crystals:
    return draw(initial_params(), range(8), num_steps=4)


@pytest.mark.parametrize("count", [2, 8])
def test_several_devices_sample_the_crystals_of_one(count):
    finished = subprocess.run(
        [sys.executable, "-c", SHORT_CHAIN.format(count=count)],
        cwd=Path(__file__).parent.parent,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lattice, frac_coords, species = json.loads(finished.stdout)
    alone = short_chain()
    np.testing.assert_allclose(lattice, alone.lattice, rtol=1e-5, atol=1e-5)
    distance = np.array(frac_coords) - alone.frac_coords
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-5)
    np.testing.assert_array_equal(species, alone.species)


@pytest.mark.parametrize("num_steps", [0, 21])
def test_more_steps_than_trained_or_none_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"1\.\.20"):
        make_sampler(NETWORK, NOISE, num_steps, use_guidance=False, mesh=MESH)


def test_a_negative_corrector_step_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        SamplingConfig(gamma=-1e-6)
