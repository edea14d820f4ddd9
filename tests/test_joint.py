import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint
from crystal_diffusion_jax.diffusion.joint import Prediction

NUM_SPECIES = 5
NUMBER = 4_000  # crystals of each batch, so that each function is compiled once
ROWS = np.arange(NUMBER) % 3  # which of three different crystals each is
COUNTS = np.array([3, 1, 2])
TIMES = np.array([900, 500, 2])
EPS = float(np.finfo(np.float32).eps)
PVALUE = 6e-7  # of five standard errors

# Compiled, because op-by-op the random draws would cost most of these tests' time.
noise = jax.jit(joint.noise, static_argnames="num_species")
prior = jax.jit(joint.prior, static_argnames="num_species")


def three_crystals(num_slots=3):
    """Three atoms at most, and as many coordinates as the lattice has elements.

    So parts drawn from one key by mistake hold the same numbers in the same places.
    """
    rng = np.random.default_rng(0)
    frac_coords = np.zeros((3, num_slots, 3), np.float32)
    species = np.zeros((3, num_slots), np.int32)
    frac_coords[:, :3] = rng.uniform(size=(3, 3, 3))
    species[:, :3] = rng.integers(0, NUM_SPECIES, size=(3, 3))
    return Crystals(
        lattice=jnp.asarray(np.eye(3) + 0.1 * rng.normal(size=(3, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(frac_coords),
        species=jnp.asarray(species),
        mask=jnp.arange(num_slots) < COUNTS[:, None],
    )


def three_predictions(num_slots=3):
    rng = np.random.default_rng(1)
    scaled_score = np.zeros((3, num_slots, 3), np.float32)
    logits = np.zeros((3, num_slots, NUM_SPECIES), np.float32)
    scaled_score[:, :3] = rng.normal(size=(3, 3, 3))
    logits[:, :3] = rng.normal(size=(3, 3, NUM_SPECIES))
    return Prediction(
        lattice_eps=jnp.asarray(rng.normal(size=(3, 3, 3)), jnp.float32),
        scaled_score=jnp.asarray(scaled_score),
        species_logits=jnp.asarray(logits),
    )


def batch_of(three, rows=ROWS):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[rows]), three)


def keys_of(number):
    return jax.random.split(jax.random.key(number), NUMBER)


@jax.jit
def predictor(keys, crystals, prediction, t, schedule):
    return joint.predictor_step(keys, crystals, prediction, t, t - 1 - t // 10, schedule)


@jax.jit
def corrector(keys, crystals, prediction, t, schedule):
    return joint.corrector_step(keys, crystals, prediction, t, 1e-6, schedule)


@jax.jit
def renoising(keys, crystals, prediction, t, schedule):
    return joint.renoising_step(keys, crystals, prediction, t, 0.4, schedule)


def assert_same_atoms(found, expected, mask):
    """Lattice everywhere, atoms where `mask` [B, N]; slots beyond N are not compared.

    The compiler may vectorise another shape differently and reorder a few roundings. Those of the
    uniform numbers, EPS / 2, weigh most: the inverse error function, which makes normal ones of
    them, magnifies them by exp(x^2 / 2), by 90 at x = 3; at the times used here a step does by no
    more than 2. A tie within the rounding between two of the 9 atoms' perturbed logits could fall
    either way: chance 1e-4.
    """
    tolerance = 100 * EPS
    atoms = np.s_[:, : mask.shape[1]]
    np.testing.assert_allclose(found.lattice, expected.lattice, atol=tolerance)
    for name in ("frac_coords", "species"):
        left, right = (np.asarray(getattr(x, name))[atoms][mask] for x in (found, expected))
        np.testing.assert_allclose(left, right, atol=tolerance)


def test_junk_on_padding_does_not_change_the_noise_or_targets_of_real_atoms(schedule):
    clean = batch_of(three_crystals())
    mask = np.asarray(clean.mask)
    junk = dataclasses.replace(
        clean,
        frac_coords=jnp.asarray(np.where(mask[..., None], clean.frac_coords, np.float32(37.5))),
        species=jnp.asarray(np.where(mask, clean.species, np.int32(-9))),
    )
    t = np.array([1, 400, 1000])[ROWS]
    noisy, targets = noise(jax.random.key(2), clean, t, num_species=NUM_SPECIES, schedule=schedule)
    noisy_junk, targets_junk = noise(
        jax.random.key(2), junk, t, num_species=NUM_SPECIES, schedule=schedule
    )
    # One program, so to the bit.
    for found, expected in (
        (noisy_junk.frac_coords, noisy.frac_coords),
        (noisy_junk.species, noisy.species),
        (targets_junk.scaled_score, targets.scaled_score),
    ):
        np.testing.assert_array_equal(np.asarray(found)[mask], np.asarray(expected)[mask])
    np.testing.assert_array_equal(noisy_junk.lattice, noisy.lattice)
    np.testing.assert_array_equal(targets_junk.lattice_eps, targets.lattice_eps)


def test_targets_are_the_noise_that_was_added(schedule):
    clean, t = batch_of(three_crystals()), np.array([1, 200, 350])[ROWS]
    noisy, targets = noise(jax.random.key(3), clean, t, num_species=NUM_SPECIES, schedule=schedule)
    signal = np.sqrt(np.asarray(schedule.alpha_bar, np.float64)[t])[:, None, None]
    spread = np.sqrt(np.asarray(schedule.one_minus_alpha_bar, np.float64)[t])[:, None, None]
    np.testing.assert_allclose(
        noisy.lattice,
        signal * np.asarray(clean.lattice) + spread * np.asarray(targets.lattice_eps),
        atol=8 * EPS,
    )
    # sigma stays below 0.026 at these times, so the scaled score is -displacement / sigma. The
    # displacement carries roundings of coordinates below 1, over sigma_1 = 0.005.
    displacement = np.asarray(noisy.frac_coords, np.float64) - np.asarray(
        clean.frac_coords, np.float64
    )
    displacement -= np.round(displacement)
    sigma = np.asarray(schedule.sigma, np.float64)[t][:, None, None]
    np.testing.assert_allclose(targets.scaled_score, -displacement / sigma, atol=4 * EPS / 0.005)


def assert_independent(*parts):
    """Of the crystals of a batch: no column is correlated with another."""
    columns = np.concatenate(
        [np.asarray(part, np.float64).reshape(NUMBER, -1) for part in parts], axis=1
    )
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    # About 200 coefficients of standard error 1 / sqrt(n): 5.5 of them leave a chance of 1e-5.
    assert np.abs(correlations).max() < 5.5 / np.sqrt(NUMBER)


def test_noise_of_lattice_coordinates_and_species_is_independent(schedule):
    clean = batch_of(three_crystals(), 0 * ROWS)
    t = np.full(NUMBER, 300)  # sigma = 0.02: the scaled score is minus the coordinates' noise
    noisy, targets = noise(jax.random.key(4), clean, t, num_species=NUM_SPECIES, schedule=schedule)
    same = np.asarray(noisy.species) == np.asarray(clean.species)
    assert_independent(targets.lattice_eps, targets.scaled_score, same)


def test_prior_draws_uniform_coordinates_and_species():
    crystals = prior(keys_of(5), np.ones((NUMBER, 3), bool), num_species=NUM_SPECIES)
    counts = np.bincount(np.asarray(crystals.species).ravel(), minlength=NUM_SPECIES)
    assert counts.size == NUM_SPECIES
    assert stats.chisquare(counts).pvalue > PVALUE
    assert stats.kstest(np.asarray(crystals.frac_coords).ravel(), "uniform").pvalue > PVALUE
    assert stats.kstest(np.asarray(crystals.lattice).ravel(), "norm").pvalue > PVALUE
    assert crystals.mask.all()


def test_prior_of_a_crystal_depends_on_its_own_key_alone_whatever_its_padding():
    together = prior(keys_of(5), np.ones((NUMBER, 3), bool), num_species=NUM_SPECIES)
    alone = prior(keys_of(5)[7:8], np.arange(9)[None] < 3, num_species=NUM_SPECIES)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf)[7:8], together)
    assert_same_atoms(alone, expected, np.ones((1, 3), bool))


STEPS = pytest.mark.parametrize("step", [predictor, corrector, renoising])


@STEPS
def test_step_of_a_crystal_depends_on_its_own_key_alone_whatever_its_padding(schedule, step):
    inputs = batch_of(three_crystals()), batch_of(three_predictions()), TIMES[ROWS]
    together = step(keys_of(7), *inputs, schedule)
    wide = three_crystals(num_slots=9), three_predictions(num_slots=9), TIMES
    for row in range(3):
        one = np.array([row])
        alone = step(keys_of(7)[row : row + 1], *batch_of(wide, one), schedule)
        expected = jax.tree.map(lambda leaf, one=one: np.asarray(leaf)[one], together)
        assert_same_atoms(alone, expected, expected.mask)


@STEPS
def test_steps_repeat_with_the_same_keys_and_differ_with_others(schedule, step):
    inputs = batch_of(three_crystals()), batch_of(three_predictions()), TIMES[ROWS]
    result = step(keys_of(10), *inputs, schedule)
    again = step(keys_of(10), *inputs, schedule)
    jax.tree.map(np.testing.assert_array_equal, again, result)
    changed = step(keys_of(11), *inputs, schedule)
    # Now and then two moves round to the same.
    assert np.mean(np.asarray(changed.frac_coords) != np.asarray(result.frac_coords)) > 0.99


@pytest.mark.parametrize("step", [corrector, renoising])
def test_corrector_and_renoising_move_the_coordinates_only(schedule, step):
    before = batch_of(three_crystals())
    inputs = before, batch_of(three_predictions()), TIMES[ROWS]
    after = step(keys_of(11), *inputs, schedule)
    assert np.mean(np.asarray(after.frac_coords) != np.asarray(before.frac_coords)) > 0.99
    np.testing.assert_array_equal(after.lattice, before.lattice)
    np.testing.assert_array_equal(after.species, before.species)


def test_noise_of_the_parts_of_a_predictor_step_is_independent(schedule):
    crystals = batch_of(three_crystals(), 0 * ROWS)
    prediction = batch_of(three_predictions(), 0 * ROWS)
    t = np.full(NUMBER, 200)  # sigma = 0.0125: coordinates move by little; take them unwrapped
    new = predictor(keys_of(12), crystals, prediction, t, schedule)
    moved = np.asarray(new.frac_coords, np.float64) - np.asarray(crystals.frac_coords, np.float64)
    same = np.asarray(new.species) == np.asarray(crystals.species)
    assert_independent(new.lattice, moved - np.round(moved), same)


def test_steps_leave_coordinates_unwrapped_until_asked(schedule):
    # At the boundary half of all steps go below 0.
    crystals = dataclasses.replace(
        batch_of(three_crystals()), frac_coords=jnp.asarray(np.zeros((NUMBER, 3, 3), np.float32))
    )
    prediction, t = batch_of(three_predictions()), np.full(NUMBER, 500)
    wrapped = jax.jit(joint.wrapped)
    for step in (predictor, corrector, renoising):
        after = step(keys_of(14), crystals, prediction, t, schedule)
        assert after.frac_coords.min() < 0
        found = np.asarray(wrapped(after).frac_coords)
        assert np.all((found >= 0) & (found < 1))
        distance = found - np.asarray(after.frac_coords)
        np.testing.assert_allclose(distance, np.round(distance), atol=4 * EPS)
