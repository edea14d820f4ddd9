"""The sampler, driven by denoisers whose answer is known."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax.config import SECOND_ORDER, DenoiserConfig, NoiseConfig, SamplingConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling.guidance import guided, mark_undefined_species
from crystal_diffusion_jax.sampling.sampler import Sampler, make_sampler
from tests import smoke_run
from tests.child import on_devices
from tests.reverse_process import closed_form, parameters

NUM_SPECIES = 4
NOISE = NoiseConfig(num_steps=20)
NETWORK = closed_form(NUM_SPECIES, NOISE)
PARAMS = parameters(NUM_SPECIES)
# Two programs may round differently: most in the uniform numbers, by 6e-8, which is 5e-6 in a
# normal number of 3; the first step magnifies that by up to 1 / sqrt(alpha) = 6, the second order's
# extrapolation by 2. Species are the largest of perturbed logits, and a tie within the rounding
# could fall either way: in the 36 draws of a test with a chance of 1e-4.
ROUNDING = 1e-4


def keys(*numbers: int) -> Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(7), jnp.array(numbers))


def request(batch_size: int, value: float = -1.5) -> Condition:
    shape = (batch_size, 1)
    return Condition(values=jnp.full(shape, value), present=jnp.ones(shape, bool))


def sampler(use_guidance: bool = False, use_corrector: bool = False, **options: Any) -> Sampler:
    mesh = devices.data_mesh()
    return make_sampler(
        NETWORK, NOISE, 4, use_guidance, mesh, use_corrector=use_corrector, **options
    )


def arguments(
    key_numbers: tuple[int, ...] = (5, 6, 7),
    size: int = 3,
    value: float = -1.5,
    guidance: float = 0.0,
    corrector_step_size: float = 1e-5,
    allowed: tuple[bool, ...] = (True,) * NUM_SPECIES,
    **params: np.ndarray,
) -> tuple[Any, ...]:
    count = len(key_numbers)
    return (
        PARAMS | params,
        keys(*key_numbers),
        jnp.broadcast_to(jnp.arange(size) < 3, (count, size)),
        request(count, value),
        jnp.float32(guidance),
        jnp.float32(corrector_step_size),
        jnp.asarray(allowed),
    )


def assert_same(found: Crystals, expected: Crystals) -> None:
    np.testing.assert_allclose(found.lattice, expected.lattice, atol=ROUNDING)
    distance = np.asarray(found.frac_coords) - np.asarray(expected.frac_coords)
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=ROUNDING)
    np.testing.assert_array_equal(found.species, expected.species)


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_guidance_extrapolates_from_the_null_branch(guidance):
    def echo(crystals: Crystals, t: Array, condition: Condition) -> Prediction:
        """A denoiser whose outputs show which branch they come from."""
        size = jnp.where(condition.present[:, 0], condition.values[:, 0], 100.0)
        size = (size + t + crystals.lattice[:, 0, 0])[:, None, None]
        return Prediction(
            lattice_eps=size * jnp.ones((3, 3)),
            scaled_score=2.0 * size * jnp.ones((3, 3)),
            species_logits=3.0 * size * jnp.ones((3, NUM_SPECIES)),
        )

    crystals = Crystals(
        lattice=jnp.array([1.0, 2.0])[:, None, None] * jnp.ones((2, 3, 3)),
        frac_coords=jnp.zeros((2, 3, 3)),
        species=jnp.zeros((2, 3), int),
        mask=jnp.ones((2, 3), bool),
    )
    output = jax.jit(guided(echo, request(2, value=-4.0), guidance))(crystals, np.array([7, 8]))

    conditional, null = np.array([4.0, 6.0]), np.array([108.0, 110.0])
    expected = conditional + guidance * (conditional - null)
    np.testing.assert_allclose(output.lattice_eps[:, 0, 0], expected)
    np.testing.assert_allclose(output.scaled_score[:, 2, 1], 2 * expected)
    np.testing.assert_allclose(output.species_logits[:, 1, 3], 3 * expected)


def test_guided_samples_are_those_of_the_extrapolated_request():
    # The lattice's noise is linear in the property, so guidance w asks for value (1 + w).
    steered = sampler(use_guidance=True)(*arguments(guidance=2.0, value=-1.5))
    assert_same(steered, sampler()(*arguments(value=-4.5)))
    # The condition reaches the samples: their cells are 0.85 and 0.55 of the network's, on average.
    plain = sampler()(*arguments(value=-1.5))
    assert np.trace(np.asarray(plain.lattice - steered.lattice).mean(axis=0)) > 0.1


def test_excluded_species_never_come_out_even_if_the_network_insists():
    logits = np.array([30.0, 0.0, 0.0, 30.0], np.float32)
    free = sampler()(*arguments(logits=logits))
    assert set(np.unique(free.species)) <= {0, 3}
    kept = sampler()(*arguments(logits=logits, allowed=(False, True, True, False)))
    assert set(np.unique(kept.species)) <= {1, 2}


def test_without_the_corrector_crystals_are_those_of_a_corrector_step_of_size_zero():
    none = sampler()(*arguments(corrector_step_size=np.nan))
    assert_same(none, sampler(use_corrector=True)(*arguments(corrector_step_size=0.0)))


@pytest.mark.parametrize(
    "options",
    [
        {"use_corrector": True, "averaging_rounds": 1},
        pytest.param({"solver": SECOND_ORDER, "renoising_steps": 1}, marks=pytest.mark.slow),
    ],
    ids=["corrector and averaging", "second order and relaxation"],
)
def test_a_crystal_depends_neither_on_its_batch_nor_on_its_padding(options):
    draw = sampler(**options)
    together = draw(*arguments((5, 6, 7)))
    alone = draw(*arguments((6,), size=5))
    atoms = {name: getattr(alone, name)[:, :3] for name in ("frac_coords", "species", "mask")}
    assert_same(dataclasses.replace(alone, **atoms), jax.tree.map(lambda leaf: leaf[1:2], together))


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
    spoiling = jax.jit(mark_undefined_species(lambda *_: prediction))
    output = spoiling(crystals, np.ones(3, np.int32))
    assert np.isnan(output.lattice_eps[0]).all()
    np.testing.assert_array_equal(output.lattice_eps[1:], 1.0)


def test_undefined_species_spoil_the_crystal_to_the_end_of_the_chain():
    logits = np.array([0.0, np.inf, 0.0, 0.0], np.float32)
    crystals = sampler()(*arguments(logits=logits))
    assert not np.isfinite(crystals.lattice).any()


SEVERAL_DEVICES = """
import json, jax, numpy as np
from tests import test_sampler
crystals = test_sampler.eight_crystals()
assert len(crystals.lattice.sharding.device_set) == jax.device_count() == {count}
print(json.dumps([np.asarray(crystals.lattice).tolist(), np.asarray(crystals.frac_coords).tolist(),
                  np.asarray(crystals.species).tolist()]))
"""


def eight_crystals() -> Crystals:
    return sampler()(*arguments(tuple(range(8))))


# test_parallel.py splits a batch over devices in the quick tests.
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_several_devices_sample_the_crystals_of_one(count):
    printed = on_devices(count, SEVERAL_DEVICES.format(count=count))
    lattice, frac_coords, species = map(jnp.asarray, json.loads(printed))
    alone = eight_crystals()
    assert_same(
        dataclasses.replace(alone, lattice=lattice, frac_coords=frac_coords, species=species),
        alone,
    )


@pytest.mark.parametrize("num_steps", [0, 21])
def test_more_steps_than_trained_or_none_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"1\.\.20"):
        make_sampler(NETWORK, NOISE, num_steps, use_guidance=False, mesh=devices.data_mesh())


def test_a_negative_corrector_step_is_refused():
    with pytest.raises(ValueError, match="corrector_step_size"):
        SamplingConfig(corrector_step_size=-1e-6)


@pytest.mark.slow
def test_a_network_samples_cells_of_one_atom_like_any_other():
    config = DenoiserConfig(
        conditioning="cds", width=16, num_blocks=1, num_heads=2, pair_hidden_width=16
    )
    network = Denoiser(config, NUM_SPECIES)
    draw = make_sampler(network, NOISE, 4, use_guidance=False, mesh=devices.data_mesh())
    crystals = draw(smoke_run.drawn_params(network), *arguments(size=1)[1:])
    assert np.isfinite(crystals.lattice).all()
    assert np.all((crystals.frac_coords >= 0) & (crystals.frac_coords < 1))
    assert set(np.unique(crystals.species)) <= set(range(NUM_SPECIES))


def test_the_sampler_is_traced_once_per_shape(sampler_traces):
    # Tracing alone, which lower() and calls share, compiles nothing.
    for guidance, number in ((1.0, 0), (2.0, 1), (3.0, 2)):
        traced: Any = sampler(use_guidance=True)
        traced.lower(*arguments((number, number + 1), guidance=guidance, value=float(number)))
    assert len(sampler_traces) == 1

    traced.lower(*arguments((1,), guidance=1.0))
    assert len(sampler_traces) == 2
