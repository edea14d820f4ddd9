import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint
from crystal_diffusion_jax.diffusion.joint import Prediction

NUM_SPECIES = 5
COUNTS = np.array([4, 2, 3])
TIMES = np.array([900, 500, 2])
PRIORS = 2000
EPS = float(np.finfo(np.float32).eps)
PVALUE = 6e-7  # of five standard errors

# Compiled, because op-by-op the random draws would cost most of these tests' time.
noise = jax.jit(joint.noise, static_argnames="num_species")
prior = jax.jit(joint.prior, static_argnames="num_species")


def a_batch(num_slots=4):
    rng = np.random.default_rng(0)
    frac_coords = np.zeros((3, num_slots, 3), np.float32)
    species = np.zeros((3, num_slots), np.int32)
    frac_coords[:, :4] = rng.uniform(size=(3, 4, 3))
    species[:, :4] = rng.integers(0, NUM_SPECIES, size=(3, 4))
    return Crystals(
        lattice=jnp.asarray(np.eye(3) + 0.1 * rng.normal(size=(3, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(frac_coords),
        species=jnp.asarray(species),
        mask=jnp.arange(num_slots) < COUNTS[:, None],
    )


def a_prediction(num_slots=4):
    rng = np.random.default_rng(1)
    scaled_score = np.zeros((3, num_slots, 3), np.float32)
    logits = np.zeros((3, num_slots, NUM_SPECIES), np.float32)
    scaled_score[:, :4] = rng.normal(size=(3, 4, 3))
    logits[:, :4] = rng.normal(size=(3, 4, NUM_SPECIES))
    return Prediction(
        lattice_eps=jnp.asarray(rng.normal(size=(3, 3, 3)), jnp.float32),
        scaled_score=jnp.asarray(scaled_score),
        species_logits=jnp.asarray(logits),
    )


@jax.jit
def predictor(keys, crystals, prediction, t, schedule):
    return joint.predictor_step(keys, crystals, prediction, t, t - 1 - t // 10, schedule)


@jax.jit
def corrector(keys, crystals, prediction, t, schedule):
    return joint.corrector_step(keys, crystals, prediction, t, 1e-6, schedule)


@jax.jit
def relaxation(keys, crystals, prediction, t, schedule):
    return joint.relaxation_step(keys, crystals, prediction, t, 0.4, schedule)


def copies_of_three_atoms(number):
    """Many copies of one crystal and its prediction.

    Three atoms have as many coordinates as the lattice has elements, so that parts drawn from one
    key by mistake hold the same numbers in the same places.
    """
    crystals, prediction = jax.tree.map(
        lambda x: jnp.tile(x[:1], (number,) + (1,) * (x.ndim - 1)), (a_batch(), a_prediction())
    )
    atoms = {name: getattr(crystals, name)[:, :3] for name in ("frac_coords", "species", "mask")}
    prediction = prediction.replace(
        scaled_score=prediction.scaled_score[:, :3],
        species_logits=prediction.species_logits[:, :3],
    )
    return crystals.replace(**atoms), prediction


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
    clean = a_batch()
    junk = clean.replace(
        frac_coords=jnp.where(clean.mask[..., None], clean.frac_coords, 37.5),
        species=jnp.where(clean.mask, clean.species, -9),
    )
    t = np.array([1, 400, 1000])
    noisy, targets = noise(jax.random.key(2), clean, t, num_species=NUM_SPECIES, schedule=schedule)
    noisy_junk, targets_junk = noise(
        jax.random.key(2), junk, t, num_species=NUM_SPECIES, schedule=schedule
    )
    mask = np.asarray(clean.mask)
    # One program, so to the bit.
    for name in ("frac_coords", "species"):
        junk_name, clean_name = (np.asarray(getattr(x, name)) for x in (noisy_junk, noisy))
        np.testing.assert_array_equal(junk_name[mask], clean_name[mask])
    np.testing.assert_array_equal(noisy_junk.lattice, noisy.lattice)
    np.testing.assert_array_equal(targets_junk.lattice_eps, targets.lattice_eps)
    np.testing.assert_array_equal(
        np.asarray(targets_junk.scaled_score)[mask], np.asarray(targets.scaled_score)[mask]
    )


def test_targets_are_the_noise_that_was_added(schedule):
    clean, t = a_batch(), np.array([1, 200, 350])
    noisy, targets = noise(jax.random.key(3), clean, t, num_species=NUM_SPECIES, schedule=schedule)
    signal = np.sqrt(np.asarray(schedule.alpha_bar[t], np.float64))[:, None, None]
    spread = np.sqrt(np.asarray(schedule.one_minus_alpha_bar[t], np.float64))[:, None, None]
    np.testing.assert_allclose(
        noisy.lattice, signal * clean.lattice + spread * targets.lattice_eps, atol=8 * EPS
    )
    # sigma stays below 0.026 at these times, so the scaled score is -displacement / sigma. The
    # displacement carries roundings of coordinates below 1, over sigma_1 = 0.005.
    displacement = np.asarray(noisy.frac_coords, np.float64) - np.asarray(
        clean.frac_coords, np.float64
    )
    displacement -= np.round(displacement)
    sigma = np.asarray(schedule.sigma[t], np.float64)[:, None, None]
    np.testing.assert_allclose(targets.scaled_score, -displacement / sigma, atol=4 * EPS / 0.005)


def test_noise_of_lattice_coordinates_and_species_is_independent(schedule):
    number = 4_000
    clean, _ = copies_of_three_atoms(number)
    t = np.full(number, 300)  # sigma = 0.02: the scaled score is minus the coordinates' noise
    noisy, targets = noise(jax.random.key(4), clean, t, num_species=NUM_SPECIES, schedule=schedule)
    columns = np.concatenate(
        [
            np.asarray(part, np.float64).reshape(number, -1)
            for part in (targets.lattice_eps, targets.scaled_score, noisy.species == clean.species)
        ],
        axis=1,
    )
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    # About 200 coefficients of standard error 1 / sqrt(n): 5.5 of them leave a chance of 1e-5.
    assert np.abs(correlations).max() < 5.5 / np.sqrt(number)


def test_prior_draws_uniform_coordinates_and_species():
    keys, mask = jax.random.split(jax.random.key(5), PRIORS), jnp.ones((PRIORS, 4), bool)
    crystals = prior(keys, mask, num_species=NUM_SPECIES)
    counts = np.bincount(np.asarray(crystals.species).ravel(), minlength=NUM_SPECIES)
    assert counts.size == NUM_SPECIES
    assert stats.chisquare(counts).pvalue > PVALUE
    assert stats.kstest(np.asarray(crystals.frac_coords).ravel(), "uniform").pvalue > PVALUE
    assert stats.kstest(np.asarray(crystals.lattice).ravel(), "norm").pvalue > PVALUE
    assert crystals.mask.all()


def test_prior_of_a_crystal_depends_on_its_own_key_alone_whatever_its_padding():
    keys, mask = jax.random.split(jax.random.key(5), PRIORS), jnp.ones((PRIORS, 4), bool)
    together = prior(keys, mask, num_species=NUM_SPECIES)
    alone = prior(keys[7:8], jnp.arange(9)[None] < 4, num_species=NUM_SPECIES)
    expected = jax.tree.map(lambda leaf: leaf[7:8], together)
    assert_same_atoms(alone, expected, np.ones((1, 4), bool))


STEPS = pytest.mark.parametrize("step", [predictor, corrector, relaxation])


@STEPS
def test_step_of_a_crystal_depends_on_its_own_key_alone_whatever_its_padding(schedule, step):
    keys = jax.random.split(jax.random.key(7), 3)
    together = step(keys, a_batch(), a_prediction(), TIMES, schedule)
    wide = (keys, a_batch(num_slots=9), a_prediction(num_slots=9), TIMES)
    for row in range(3):
        one = slice(row, row + 1)
        alone = step(*jax.tree.map(lambda leaf, one=one: leaf[one], wide), schedule)
        expected = jax.tree.map(lambda leaf, one=one: leaf[one], together)
        assert_same_atoms(alone, expected, np.asarray(expected.mask))


@STEPS
def test_steps_repeat_with_the_same_keys_and_differ_with_others(schedule, step):
    first, other = jax.random.split(jax.random.key(10), (2, 3))
    result = step(first, a_batch(), a_prediction(), TIMES, schedule)
    again = step(first, a_batch(), a_prediction(), TIMES, schedule)
    jax.tree.map(np.testing.assert_array_equal, again, result)
    changed = step(other, a_batch(), a_prediction(), TIMES, schedule)
    assert np.all(np.asarray(changed.frac_coords) != np.asarray(result.frac_coords))


@pytest.mark.parametrize("step", [corrector, relaxation])
def test_corrector_and_relaxation_move_the_coordinates_only(schedule, step):
    before = a_batch()
    after = step(jax.random.split(jax.random.key(11), 3), before, a_prediction(), TIMES, schedule)
    assert np.all(np.asarray(after.frac_coords) != np.asarray(before.frac_coords))
    np.testing.assert_array_equal(after.lattice, before.lattice)
    np.testing.assert_array_equal(after.species, before.species)


def test_noise_of_the_parts_of_a_predictor_step_is_independent(schedule):
    number = 4_000
    crystals, prediction = copies_of_three_atoms(number)
    keys = jax.random.split(jax.random.key(12), number)
    t = np.full(number, 200)  # sigma = 0.0125: coordinates move by little; take them unwrapped
    new = predictor(keys, crystals, prediction, t, schedule)
    moved = np.asarray(new.frac_coords, np.float64) - np.asarray(crystals.frac_coords, np.float64)
    moved -= np.round(moved)
    columns = np.concatenate(
        [np.asarray(part, np.float64).reshape(number, -1) for part in (new.lattice, moved)]
        + [np.asarray(new.species == crystals.species, np.float64)],
        axis=1,
    )
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    # As for the forward noise: about 200 coefficients of standard error 1 / sqrt(n).
    assert np.abs(correlations).max() < 5.5 / np.sqrt(number)


def test_steps_leave_coordinates_unwrapped_until_asked(schedule):
    # At the boundary half of all steps go below 0.
    crystals = a_batch().replace(frac_coords=jnp.zeros((3, 4, 3)))
    keys, t = jax.random.split(jax.random.key(14), 3), np.full(3, 500)
    for step in (predictor, corrector, relaxation):
        moved = step(keys, crystals, a_prediction(), t, schedule).frac_coords
        assert moved.min() < 0
        found = joint.wrapped(crystals.replace(frac_coords=moved)).frac_coords
        assert np.all((found >= 0) & (found < 1))
        distance = found - moved
        np.testing.assert_allclose(distance, np.round(distance), atol=4 * EPS)
