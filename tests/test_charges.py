"""sampling/charges.py against the enumeration of every combination of species and charges."""

import dataclasses
import inspect
import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax.cli import sample
from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import species
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, noise_schedule
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling import charges
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.structures.compositions import common_oxidation_states
from crystal_diffusion_jax.structures.samples_reader import read_request
from tests.make_tiny_model import FOLDER
from tests.reverse_process import closed_form, parameters

# H, O, F, Ar, Fe, Y, Sn
VOCABULARY = (1, 8, 9, 18, 26, 39, 50)
KNOWN = charges.oxidation_states(common_oxidation_states(VOCABULARY))
STATES = [(-1, 1), (-2,), (-1,), (0,), (2, 3), (3,), (-4, 2, 4)]


@pytest.fixture(scope="module")
def tables() -> NoiseSchedule:
    return noise_schedule(NoiseConfig(num_steps=50))


def share_neutral(kinds: tuple[int, ...]) -> float:
    """Share of the choices of charges with a sum of 0."""
    sums = [sum(choice) for choice in itertools.product(*(STATES[kind] for kind in kinds))]
    return float(np.mean(np.array(sums) == 0))


def joint(probs: np.ndarray) -> np.ndarray:
    """p(k_i, neutral) of each atom, [N, K], from all combinations."""
    found = np.zeros_like(probs)
    for kinds in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        weight = share_neutral(kinds) * np.prod(
            [p[kind] for p, kind in zip(probs, kinds, strict=True)]
        )
        for atom, kind in enumerate(kinds):
            found[atom, kind] += weight
    return found


def enumerated(probs: np.ndarray) -> np.ndarray:
    """p(k_i | neutral) of each atom, [N, K]."""
    return joint(probs) / probability_of_neutral(probs)


def probability_of_neutral(probs: np.ndarray) -> float:
    return float(joint(probs)[0].sum())


def random_probs(seed: int, num_atoms: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(len(VOCABULARY), 0.5), num_atoms)


def test_the_elements_are_those_of_pymatgen():
    np.testing.assert_allclose(KNOWN.probs.sum(axis=1), 1.0)
    found = [tuple(KNOWN.charges[row > 0]) for row in KNOWN.probs]
    assert found == STATES


balance_factor = jax.jit(lambda probs, mask: charges.balance_factor(probs, mask, KNOWN))


# In a padding of four, whatever stands there.
@pytest.mark.parametrize("num_atoms", [1, 2, 3, 4])
def test_the_factor_turns_marginals_into_those_given_a_balance(num_atoms):
    probs = random_probs(num_atoms, num_atoms)
    padded = np.concatenate([probs, random_probs(9, 4 - num_atoms)]).astype(np.float32)
    factor = balance_factor(padded[None], np.arange(4)[None] < num_atoms)[0, :num_atoms]
    share = charges._UNCONDITIONED
    wanted = (1 - share) * enumerated(probs) + share * probs
    # The probability of a neutral crystal is a sum of phases of size 1, in float32.
    atol = 5e-7 / probability_of_neutral(probs)
    np.testing.assert_allclose(probs * np.asarray(factor), wanted, rtol=1e-5, atol=atol)


def test_a_balance_that_is_out_of_reach_changes_nothing():
    # Oxygen alone: no sum of -2 is 0.
    probs = np.full((1, 4, len(VOCABULARY)), 1e-9, np.float32)
    probs[..., 1] = 1.0
    factor = balance_factor(probs, np.arange(4)[None] < 3)
    np.testing.assert_allclose(factor, 1.0)


def convolved(probs: np.ndarray, states: charges.OxidationStates) -> np.ndarray:
    """P(neutral | species of one atom), [N, K], by convolution of the charges in float64."""
    of_charge = probs.astype(np.float64) @ states.probs
    missing = np.zeros_like(of_charge)
    for atom in range(len(probs)):
        total = np.array([1.0])
        for other in np.delete(of_charge, atom, axis=0):
            total = np.convolve(total, other)
        lowest = (len(probs) - 1) * states.charges[0]
        for place, charge in enumerate(states.charges):
            if 0 <= -charge - lowest < len(total):
                missing[atom, place] = total[-charge - lowest]
    return missing @ states.probs.T


def test_the_charges_of_many_atoms_add_up_as_in_double_precision():
    # Os has a state of 8: the longest sums, in a cell of 64 atoms; Mt has no known state.
    states = charges.oxidation_states(common_oxidation_states((6, 8, 11, 76, 109)))
    probs = np.random.default_rng(0).dirichlet(np.full(5, 0.1), (2, 64)).astype(np.float32)
    of_many = jax.jit(lambda probs, mask: charges.balance_factor(probs, mask, states))
    factor = of_many(probs, np.ones((2, 64), bool))
    for of_one, found in zip(probs, factor, strict=True):
        given = convolved(of_one, states)
        total = (of_one * given).sum(axis=1, keepdims=True)
        share = charges._UNCONDITIONED
        wanted = (1 - share) * given / total + share
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=5e-7 / total.min())


def undecided(logits: np.ndarray) -> Denoise:
    """Knows nothing of the noisy crystal: the same independent species always."""

    def denoise(noisy: Crystals, t: jax.Array) -> Prediction:
        return Prediction(
            lattice_eps=noisy.lattice,
            scaled_score=jnp.zeros_like(noisy.frac_coords),
            species_logits=jnp.broadcast_to(jnp.asarray(logits), (len(t), *logits.shape)),
        )

    return denoise


def test_the_distribution_of_noisy_species_counts_what_they_are(tables):
    logits = np.log(random_probs(3, 3)).astype(np.float32)
    noisy = Crystals(
        lattice=jnp.ones((1, 3, 3)),
        frac_coords=jnp.zeros((1, 3, 3)),
        species=jnp.array([[1, 4, 0]]),
        mask=jnp.ones((1, 3), bool),
    )
    t = jnp.array([20])

    @jax.jit
    def balance(noisy: Crystals) -> tuple[Array, Array]:
        """The balanced prediction, and the posterior with it at s = 0."""
        logits_given = charges.balanced(undecided(logits), KNOWN, tables)(noisy, t)
        log_probs = jax.nn.log_softmax(logits_given.species_logits)
        posterior = species.log_posterior(log_probs, noisy.species, t, t * 0, tables)
        return jnp.exp(log_probs[0]), jnp.exp(posterior[0])

    found, posterior = balance(noisy)
    # Bayes: prior times the likelihood of the noisy species, alpha_bar if it is the clean one.
    kept = float(tables.alpha_bar[20])
    likelihood = kept * np.eye(len(VOCABULARY))[[1, 4, 0]] + (1 - kept) / len(VOCABULARY)
    probs = np.exp(logits) * likelihood
    probs /= probs.sum(axis=1, keepdims=True)
    share = charges._UNCONDITIONED
    wanted = ((1 - share) * enumerated(probs) + share * probs) / likelihood
    np.testing.assert_allclose(found, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-3)
    # s = 0 of the posterior is then the marginal itself.
    wanted = (1 - share) * enumerated(probs) + share * probs
    np.testing.assert_allclose(posterior, wanted, rtol=1e-3, atol=1e-6)


def test_the_sampler_ends_with_balanced_crystals():
    probs = random_probs(15, 1)[0]
    network = closed_form(len(VOCABULARY), NoiseConfig(num_steps=20))
    draw = make_sampler(
        network,
        network.noise,
        20,
        use_guidance=False,
        mesh=devices.data_mesh(),
        use_corrector=False,
        oxidation_states=tuple(STATES),
    )
    params = parameters(len(VOCABULARY)) | {"logits": np.log(probs).astype(np.float32)}
    without_argon = np.array(VOCABULARY) != 18
    crystals = draw(
        params,
        jax.random.split(jax.random.key(0), 256),
        jnp.ones((256, 4), bool),
        Condition(values=jnp.zeros((256, 1)), present=jnp.zeros((256, 1), bool)),
        0.0,
        1e-6,
        jnp.asarray(without_argon),
    )
    kinds = np.asarray(crystals.species).tolist()

    assert without_argon[np.unique(kinds)].all()
    probs *= without_argon
    probs /= probs.sum()
    can_be_neutral = sum(
        np.prod(probs[list(four)])
        for four in itertools.product(range(len(VOCABULARY)), repeat=4)
        if share_neutral(four) > 0
    )
    assert can_be_neutral < 0.5
    # 20 steps give 0.972 (of 5,000 crystals), with a standard error of 0.010 in 256 of them.
    assert np.mean([share_neutral(tuple(four)) > 0 for four in kinds]) > 0.9


@pytest.mark.parametrize(
    ("vocabulary", "allowed", "wanted"),
    [
        ((8, 26), (True, True), True),
        ((8, 26, 28), (False, True, True), False),  # Fe and Ni: all positive
        ((8, 9), (True, True), False),
        ((8, 18), (True, True), True),  # argon alone is neutral
        ((50,), (True,), True),  # tin: -4 and +4
        ((26,), (True,), False),
    ],
)
def test_a_balance_needs_charges_of_both_signs(vocabulary, allowed, wanted):
    assert charges.can_balance(common_oxidation_states(vocabulary), allowed) is wanted


def test_what_cannot_balance_is_warned_of(tiny_model):
    iron, oxide = (
        resolve(tiny_model, "m", num=1, elements=elements, charge_balance=True)
        for elements in ("Fe,Ni", "Fe,Ni,O")
    )
    (warning,) = warnings(iron, tiny_model)
    assert warning.startswith("--charge_balance has no effect")
    assert warnings(oxide, tiny_model) == []
    assert warnings(dataclasses.replace(iron, charge_balance=False), tiny_model) == []


@pytest.mark.parametrize("balance", [True, False])
def test_a_request_for_balance_reaches_the_sampler(tiny_model, monkeypatch, balance):
    class AskedError(Exception):
        """In place of a sampler."""

    def asked(*arguments: Any, **named: Any) -> None:
        raise AskedError(inspect.signature(make_sampler).bind(*arguments, **named).arguments)

    monkeypatch.setattr("crystal_diffusion_jax.sampling.chains.make_sampler", asked)
    with pytest.raises(AskedError) as found:
        cdj.load(FOLDER).sample(2, 0.9, charge_balance=balance, log=lambda line: None)
    known = common_oxidation_states(tiny_model.statistics.vocabulary)
    assert found.value.args[0]["oxidation_states"] == (known if balance else None)


def test_a_folder_remembers_whether_charges_were_balanced(tmp_path, monkeypatch):
    monkeypatch.setattr("crystal_diffusion_jax.sampling.generate.generate", lambda *_, **__: None)

    def run(*flags: str) -> None:
        arguments = [f"--model={FOLDER}", "--num=1", f"--out={tmp_path / 'new'}", *flags]
        monkeypatch.setattr(sys, "argv", ["sample", *arguments])
        sample.main()

    run("--charge_balance")
    stored = read_request(tmp_path / "new")
    assert stored is not None
    assert stored.request.charge_balance
    with pytest.raises(UserError, match=r"charge_balance \(there true, now false\)"):
        run()
