"""Crystals whose species are given: their noise, loss, network and chain."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import (
    ANCESTRAL,
    CONDITIONINGS,
    SECOND_ORDER,
    DenoiserConfig,
    LossConfig,
    NoiseConfig,
)
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint, species
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import noise_schedule, sampling_times
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling.chain import reverse_chain
from crystal_diffusion_jax.sampling.guidance import guided
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.sampling.trajectory import recording
from crystal_diffusion_jax.training.loss import diffusion_loss, drop_conditions, noise_batch
from crystal_diffusion_jax.training.step import make_evaluation_step
from tests.reverse_process import closed_form, parameters, reverse_process
from tests.smoke_run import CONFIG, StepInputs, denoiser, drawn_params

NUM_SPECIES = 4
KEY = jax.random.key(7)
NUM_ATOMS = np.array([4, 2, 1, 3, 4, 2])
WEIGHT = jnp.array([1.0, 1.0, 0.0, 1.0, 2.0, 0.0])  # two rows only fill the batch
PROPERTIES = jnp.linspace(-1.0, 1.0, 6)[:, None]


def crystals(seed: int = 0, num_atoms: np.ndarray = NUM_ATOMS) -> Crystals:
    rng = np.random.default_rng(seed)
    num, size = len(num_atoms), int(num_atoms.max())
    return Crystals(
        lattice=jnp.asarray(np.eye(3) + 0.2 * rng.normal(size=(num, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(rng.random((num, size, 3)), jnp.float32),
        species=jnp.asarray(rng.integers(NUM_SPECIES, size=(num, size)), jnp.int32),
        mask=jnp.asarray(np.arange(size) < num_atoms[:, None]),
    )


# Of float32 in two programs, which may differ in the order of their operations.
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def assert_same(found: Crystals, expected: Crystals) -> None:
    """Species and masks exactly, the rest up to rounding."""
    np.testing.assert_array_equal(found.species, expected.species)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert_close(found.lattice, expected.lattice)
    assert_close(found.frac_coords, expected.frac_coords)


noise = jax.jit(noise_batch, static_argnames=("num_species", "condition_dropout", "species_given"))


def noisy(schedule, given: float, dropout: float = 0.1, key: Array = KEY):
    return noise(
        key,
        crystals(),
        PROPERTIES,
        WEIGHT,
        num_species=NUM_SPECIES,
        schedule=schedule,
        condition_dropout=dropout,
        species_given=given,
    )


def test_with_probability_0_nothing_is_given_and_the_noise_is_that_of_the_keys(schedule):
    batch = noisy(schedule, 0.0)
    _, key_noise, key_condition = jax.random.split(KEY, 3)
    expected, _ = jax.jit(joint.noise, static_argnums=3)(
        key_noise, crystals(), batch.t, NUM_SPECIES, schedule
    )
    assert_same(batch.crystals, expected)
    assert batch.condition.species_given is None
    told = jax.jit(drop_conditions, static_argnums=2)(key_condition, PROPERTIES, 0.1)
    np.testing.assert_array_equal(batch.condition.present, told.present)
    np.testing.assert_array_equal(batch.species_weight, batch.atom_weight)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_only_a_network_that_is_told_has_the_vector(conditioning):
    config = DenoiserConfig(conditioning=conditioning, width=8, pair_hidden_width=8, num_heads=2)
    names = [
        set(drawn_params(Denoiser(config, NUM_SPECIES, knows_given_species=told)))
        for told in (False, True)
    ]
    assert names[1] - names[0] == {"species_given"}
    assert not names[0] - names[1]


def test_given_crystals_keep_their_species_and_their_other_noise(schedule):
    shares, plain = [], noisy(schedule, 0.0)
    for seed in range(40):
        key = jax.random.key(seed)
        batch, plain = noisy(schedule, 0.3, key=key), noisy(schedule, 0.0, key=key)
        given = np.asarray(batch.condition.species_given)
        shares.append(given.mean())
        clean, drawn = np.asarray(crystals().species), np.asarray(plain.crystals.species)
        expected = np.where(given[:, None], clean, drawn)
        np.testing.assert_array_equal(batch.crystals.species, expected)
        of_plain = dataclasses.replace(plain.crystals, species=batch.crystals.species)
        assert_same(batch.crystals, of_plain)
        np.testing.assert_array_equal(batch.atom_weight, plain.atom_weight)
    assert abs(np.mean(shares) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / (40 * len(NUM_ATOMS)))


def test_the_species_terms_are_means_over_the_atoms_that_are_not_given(schedule):
    drawn = (noisy(schedule, 0.5, key=jax.random.key(seed)) for seed in range(100))
    batch = next(each for each in drawn if each.condition.species_given[:2].sum() == 1)
    logits = jnp.sin(jnp.arange(6 * 4 * NUM_SPECIES, dtype=jnp.float32)).reshape(6, 4, NUM_SPECIES)
    told = Prediction(jnp.zeros((6, 3, 3)), jnp.zeros((6, 4, 3)), logits)
    _, parts = diffusion_loss(lambda *_: told, batch, schedule, LossConfig(), False)
    per_atom = np.asarray(
        species.kl_divergence(logits, batch.crystals.species, batch.species, batch.t, schedule)
    )
    total, count = 0.0, 0
    for row, num_atoms in enumerate(NUM_ATOMS):
        if WEIGHT[row] > 0 and not batch.condition.species_given[row]:
            total += float(WEIGHT[row]) * per_atom[row, :num_atoms].sum()
            count += num_atoms
    np.testing.assert_allclose(parts["species_kl"], total / count, rtol=1e-5)


def test_with_probability_1_species_have_neither_loss_nor_gradient(schedule):
    batch = noisy(schedule, 1.0)
    assert np.all(batch.condition.species_given)

    def loss(logits: Array) -> Array:
        told = Prediction(jnp.zeros((6, 3, 3)), jnp.zeros((6, 4, 3)), logits)
        total, parts = diffusion_loss(lambda *_: told, batch, schedule, LossConfig(), True)
        assert set(parts) == {"lattice", "frac_coords", "species_kl", "species_cross_entropy"}
        return total

    gradient = jax.jit(jax.grad(loss))(jnp.ones((6, 4, NUM_SPECIES)).at[0, 0, 0].set(3.0))
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, 0.0), (0.1, 0.5), (0.8, 0.8)])
def test_properties_of_given_crystals_are_hidden_more_often_if_ever(schedule, dropout, expected):
    hidden = np.array(
        [
            ~np.asarray(noisy(schedule, 1.0, dropout, jax.random.key(seed)).condition.present)
            for seed in range(200)
        ]
    )
    error = np.sqrt(expected * (1 - expected) / hidden.size)
    assert abs(hidden.mean() - expected) <= 5 * error


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_network_tells_given_species_from_noisy_ones(conditioning, schedule):
    config = DenoiserConfig(conditioning=conditioning, width=8, pair_hidden_width=8, num_heads=2)
    network = Denoiser(config, NUM_SPECIES, knows_given_species=True)
    weights = drawn_params(network)
    batch, t = crystals(1), jnp.full(len(NUM_ATOMS), 500)
    apply = jax.jit(
        lambda weights, given: network.apply(
            {"params": weights}, batch, t, Condition(PROPERTIES, PROPERTIES > 0, given)
        )
    )
    given = jnp.arange(len(NUM_ATOMS)) % 2 == 0
    none, some = apply(weights, None), apply(weights, given)
    fresh = apply({**weights, "species_given": jnp.zeros(8)}, given)
    for without, told, zero in zip(none, some, fresh, strict=True):
        assert_close(without, zero)
        assert_close(without[~given], told[~given])
    assert np.all(np.abs(none[0] - some[0])[given].max(axis=(1, 2)) > 1e-4)


def test_guidance_extrapolates_the_properties_alone():
    asked: list[Condition] = []

    def denoise(batch: Crystals, t: Array, condition: Condition) -> Prediction:
        asked.append(condition)
        num, size = batch.mask.shape
        return Prediction(batch.lattice, batch.frac_coords, jnp.zeros((num, size, NUM_SPECIES)))

    given = jnp.array([True, False, True, True, False, True])
    condition = Condition(PROPERTIES, jnp.ones((6, 1), bool), given)
    guided(denoise, condition, 2.0)(crystals(), jnp.ones(6, jnp.int32))
    np.testing.assert_array_equal(asked[0].species_given, np.tile(given, 2))
    np.testing.assert_array_equal(asked[0].present[:, 0], np.arange(12) < 6)


def test_validation_is_logged_for_both_modes():
    inputs = StepInputs()
    network = dataclasses.replace(denoiser(), knows_given_species=True)
    weights, unflatten = jax.flatten_util.ravel_pytree(drawn_params(network))
    loss = dataclasses.replace(CONFIG.loss, species_given=0.5)
    schedule = noise_schedule(CONFIG.noise)
    evaluate = make_evaluation_step(network, unflatten, schedule, loss, inputs.mesh)
    batch = jax.tree.map(lambda array: array[0], inputs.batches(0))
    state = dataclasses.replace(inputs.state(), ema_params=weights)
    found = evaluate(state, batch, KEY)

    def expected(given: float, dropout: float):
        rows = noise(
            KEY,
            *batch,
            num_species=network.num_species,
            schedule=schedule,
            condition_dropout=dropout,
            species_given=given,
        )

        denoise = denoising.bind(network, unflatten(weights))
        mean_free = network.config.mean_free_score
        return jax.jit(lambda rows: diffusion_loss(denoise, rows, schedule, loss, mean_free))(rows)

    (generating, parts), (_, predicting) = expected(0.0, 0.0), expected(1.0, 1.0)
    np.testing.assert_allclose(found["loss"], generating, rtol=1e-4)
    for name in ("lattice", "species_kl"):
        np.testing.assert_allclose(found[name], parts[name], rtol=1e-4)
    np.testing.assert_allclose(found["given_lattice"], predicting["lattice"], rtol=1e-4)
    assert abs(found["given_lattice"] - found["lattice"]) > 1e-3 * found["lattice"]
    assert "given_species_kl" not in found


# The chain

NOISE = NoiseConfig(num_steps=20)
SIZES = np.array([4, 2, 3, 1])


@pytest.mark.parametrize(
    ("solver", "use_corrector", "renoising_steps", "use_guidance"),
    [
        (ANCESTRAL, True, 0, False),
        (ANCESTRAL, False, 2, True),
        (SECOND_ORDER, True, 0, True),
        (SECOND_ORDER, False, 2, False),
    ],
)
def test_every_state_of_the_chain_has_the_given_species(
    solver, use_corrector, renoising_steps, use_guidance
):
    given = crystals(2, SIZES)
    options = (devices.data_mesh(), solver, use_corrector, renoising_steps)
    network = closed_form(NUM_SPECIES, NOISE)
    draw = make_sampler(network, NOISE, 20, use_guidance, *options, start=0, process=recording(1))
    present = jnp.ones((4, 1), bool)
    condition = Condition(jnp.zeros((4, 1)), present, jnp.ones(4, bool))
    states = draw(
        parameters(NUM_SPECIES),
        jax.random.split(KEY, 4),
        given.mask,
        condition,
        0.5,
        1e-5,
        np.ones(NUM_SPECIES, bool),
        given,
    )
    assert states.species.shape == (4, 21, 4)
    for state in np.moveaxis(np.asarray(states.species), 1, 0):
        np.testing.assert_array_equal(state, given.species)
    # All else starts from noise.
    assert np.abs(np.asarray(states.lattice[:, 0] - given.lattice)).min() > 1e-4


def test_a_started_chain_begins_with_the_noised_crystals(schedule):
    """Their mean and variance are those of the forward process."""
    num, start = 4000, 300
    one = crystals(3, np.array([3]))
    given = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape[1:])), one)

    def never(*_):
        raise AssertionError

    init, _ = reverse_chain(
        never, jax.random.split(KEY, num), given.mask, NUM_SPECIES, 0.0, schedule,
        use_corrector=False, given=given, start=start,
    )  # fmt: skip
    noised, _ = init
    np.testing.assert_array_equal(noised.species, given.species)
    alpha_bar, sigma = float(schedule.alpha_bar[start]), float(schedule.sigma[start])
    assert 0.6 < alpha_bar < 0.9
    for found, mean, std in (
        (noised.lattice, np.sqrt(alpha_bar) * one.lattice, np.sqrt(1 - alpha_bar)),
        # Nearest images, as sigma is 0.02.
        ((noised.frac_coords - given.frac_coords + 0.5) % 1.0 - 0.5, np.zeros((1, 3, 3)), sigma),
    ):
        deviation = np.asarray(found) - np.asarray(mean)
        assert np.abs(deviation.mean(axis=0)).max() < 5 * std / np.sqrt(num)
        np.testing.assert_allclose(deviation.std(axis=0), std, rtol=5 / np.sqrt(2 * num))


def test_a_started_chain_begins_at_its_start_and_skips_the_times_above():
    times = sampling_times(1000, 100)
    np.testing.assert_array_equal(sampling_times(1000, 100, 300), times[times <= 300])
    np.testing.assert_array_equal(sampling_times(1000, 1000, 300), np.arange(300, -1, -1))
    np.testing.assert_array_equal(sampling_times(1000, 100, 305), [305, *times[times <= 300]])
    np.testing.assert_array_equal(sampling_times(1000, 10, 1), [1, 0])
    np.testing.assert_array_equal(sampling_times(1000, 1, 500), [500, 0])
    np.testing.assert_array_equal(sampling_times(1000, 10, 1000), sampling_times(1000, 10))


def test_atoms_in_another_order_give_the_same_crystal_in_that_order(schedule, monkeypatch):
    """With noise that is the same for all atoms, as it is drawn by place."""

    def shared(keys: Array, like: Array) -> Array:
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return jnp.broadcast_to(noise[:, None], like.shape)

    monkeypatch.setattr(joint, "_normal", shared)
    config = DenoiserConfig(width=8, pair_hidden_width=8, num_heads=2, num_blocks=1)
    network = Denoiser(config, NUM_SPECIES, knows_given_species=True)
    weights = jax.tree.map(jnp.asarray, drawn_params(network))
    condition = Condition(jnp.ones((1, 1)), jnp.ones((1, 1), bool), jnp.ones(1, bool))

    def denoise(batch: Crystals, t: Array) -> Prediction:
        return Prediction(*network.apply({"params": weights}, batch, t, condition))

    @jax.jit
    def sampled(given: Crystals) -> Crystals:
        times = jnp.asarray(sampling_times(1000, 100, 50))
        return reverse_process(
            denoise, jax.random.split(KEY, 1), given.mask, NUM_SPECIES, times, 1e-6, schedule,
            SECOND_ORDER, given=given, start=50,
        )  # fmt: skip

    given = crystals(5, np.array([4]))
    order = np.array([2, 0, 3, 1])
    permuted = dataclasses.replace(
        given, frac_coords=given.frac_coords[:, order], species=given.species[:, order]
    )
    one, other = sampled(given), sampled(permuted)
    np.testing.assert_array_equal(one.species[:, order], other.species)
    apart = (one.frac_coords[:, order] - other.frac_coords + 0.5) % 1.0 - 0.5
    np.testing.assert_allclose(apart, 0.0, atol=1e-5)
    np.testing.assert_allclose(one.lattice, other.lattice, atol=1e-5)
    moved = (one.frac_coords - given.frac_coords + 0.5) % 1.0 - 0.5
    assert np.abs(moved).max() > 1e-3
