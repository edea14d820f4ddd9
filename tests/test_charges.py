"""sampling/charges.py against the enumeration of every combination of species and charges."""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax import model_folder
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import species
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseConfig, noise_schedule, sampling_times
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling import charges
from crystal_diffusion_jax.sampling.guidance import restrict_species
from crystal_diffusion_jax.sampling.plan import plan
from crystal_diffusion_jax.structures import common_oxidation_states
from experiments import sample
from tests.reverse_process import reverse_process

# H, O, F, Ar, Fe, Y, Sn
VOCABULARY = (1, 8, 9, 18, 26, 39, 50)
KNOWN = charges.oxidation_states(common_oxidation_states(VOCABULARY))
STATES = [(-1, 1), (-2,), (-1,), (0,), (2, 3), (3,), (-4, 2, 4)]
SCHEDULE = noise_schedule(NoiseConfig(num_steps=50))


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


@pytest.mark.parametrize("num_atoms", [1, 2, 4])
def test_the_factor_turns_marginals_into_those_given_a_balance(num_atoms):
    probs = random_probs(num_atoms, num_atoms)
    # A crystal of its own size, and the same with two padded atoms, whatever stands there.
    padded = np.concatenate([probs, random_probs(9, 2)])
    padding = np.arange(num_atoms + 2) < num_atoms
    for given, mask in ((probs, np.ones(num_atoms, bool)), (padded, padding)):
        factor = charges.balance_factor(
            jnp.asarray(given, jnp.float32)[None], jnp.asarray(mask)[None], KNOWN
        )[0, :num_atoms]
        share = charges._UNCONDITIONED
        wanted = (1 - share) * enumerated(probs) + share * probs
        # The probability of a neutral crystal is a sum of phases of size 1, in float32.
        atol = 5e-7 / probability_of_neutral(probs)
        np.testing.assert_allclose(probs * np.asarray(factor), wanted, rtol=1e-5, atol=atol)


def test_a_balance_that_is_out_of_reach_changes_nothing():
    # Oxygen alone: no sum of -2 is 0.
    probs = np.full((1, 3, len(VOCABULARY)), 1e-9, np.float32)
    probs[..., 1] = 1.0
    factor = charges.balance_factor(jnp.asarray(probs), jnp.ones((1, 3), bool), KNOWN)
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
    factor = charges.balance_factor(jnp.asarray(probs), jnp.ones((2, 64), bool), states)
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


def test_the_distribution_of_noisy_species_counts_what_they_are():
    logits = np.log(random_probs(3, 3)).astype(np.float32)
    noisy = Crystals(
        lattice=jnp.ones((1, 3, 3)),
        frac_coords=jnp.zeros((1, 3, 3)),
        species=jnp.array([[1, 4, 0]]),
        mask=jnp.ones((1, 3), bool),
    )
    t = jnp.array([20])
    balanced = charges.balanced(undecided(logits), KNOWN, SCHEDULE)(noisy, t)
    # Bayes: prior times the likelihood of the noisy species, alpha_bar if it is the clean one.
    kept = float(SCHEDULE.alpha_bar[20])
    likelihood = kept * np.eye(len(VOCABULARY))[[1, 4, 0]] + (1 - kept) / len(VOCABULARY)
    probs = np.exp(logits) * likelihood
    probs /= probs.sum(axis=1, keepdims=True)
    share = charges._UNCONDITIONED
    wanted = ((1 - share) * enumerated(probs) + share * probs) / likelihood
    found = jax.nn.softmax(balanced.species_logits[0], axis=-1)
    np.testing.assert_allclose(found, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-3)
    # s = 0 of the posterior is then the marginal itself.
    posterior = species.log_posterior(
        jax.nn.log_softmax(balanced.species_logits), noisy.species, t, t * 0, SCHEDULE
    )
    wanted = (1 - share) * enumerated(probs) + share * probs
    np.testing.assert_allclose(np.exp(posterior[0]), wanted, rtol=1e-3, atol=1e-6)


def test_the_reverse_process_ends_with_balanced_crystals():
    probs = random_probs(5, 4)
    free = undecided(np.log(probs).astype(np.float32))
    without_yttrium = np.array(VOCABULARY) != 39
    denoise = charges.balanced(
        restrict_species(free, jnp.asarray(without_yttrium)), KNOWN, SCHEDULE
    )
    mask = jnp.ones((256, 4), bool)
    keys = jax.random.split(jax.random.key(0), 256)
    times = jnp.asarray(sampling_times(50, 50))
    run = jax.jit(
        lambda k: reverse_process(denoise, k, mask, len(VOCABULARY), times, 1e-6, SCHEDULE)
    )
    kinds = np.asarray(run(keys).species).tolist()

    assert without_yttrium[np.unique(kinds)].all()
    probs *= without_yttrium
    probs /= probs.sum(axis=1, keepdims=True)
    can_be_neutral = sum(
        np.prod([p[kind] for p, kind in zip(probs, four, strict=True)])
        for four in itertools.product(range(len(VOCABULARY)), repeat=4)
        if share_neutral(four) > 0
    )
    assert can_be_neutral < 0.5
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


def test_what_cannot_balance_is_warned_of():
    model = model_folder.load("mp20_cds_plus")
    iron = [("Fe", 26), ("Ni", 28)]
    (warning,) = plan(model, "m", {}, num=1, elements=iron, charge_balance=True).warnings
    assert warning.startswith("--charge_balance has no effect")
    assert not plan(model, "m", {}, num=1, elements=[*iron, ("O", 8)], charge_balance=True).warnings
    assert not plan(model, "m", {}, num=1, elements=iron).warnings


def test_a_request_for_balance_reaches_the_crystals():
    model = cdj.load("mp20_cds_plus")
    crystals = model.sample(
        24,
        "min",
        num_atoms=4,
        solver="second_order",
        num_steps=20,
        charge_balance=True,
        say=lambda line: None,
    )
    states = common_oxidation_states(range(1, 119))
    neutral = 0
    for structure in crystals:
        kinds = [states[site.specie.Z - 1] for site in structure]
        neutral += any(sum(choice) == 0 for choice in itertools.product(*kinds))
    assert crystals.settings.charge_balance
    assert neutral >= len(crystals) - 1


def test_a_folder_remembers_whether_charges_were_balanced(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "generate", lambda *_, **__: None)

    def run(*flags: str) -> None:
        arguments = ["--model=perov5_cds", "--num=1", f"--out={tmp_path / 'new'}", *flags]
        monkeypatch.setattr(sys, "argv", ["sample", *arguments])
        sample.main()

    run("--charge_balance")
    record = json.loads((tmp_path / "new" / "samples.json").read_text())
    assert record["settings"]["charge_balance"] is True
    with pytest.raises(UserError, match=r"charge_balance \(there true, now false\)"):
        run()
    del record["settings"]["charge_balance"]  # as before there was a choice
    (tmp_path / "new" / "samples.json").write_text(json.dumps(record))
    (tmp_path / "new" / "unfinished.jsonl").unlink()  # it has the request, too
    run()
    with pytest.raises(UserError, match=r"charge_balance \(there false, now true\)"):
        run("--charge_balance")
