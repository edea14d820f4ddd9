"""Symmetries of the denoiser for every conditioning, on random and on trained weights."""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import CONDITIONINGS, DenoiserConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from tests.smoke_run import drawn_params

# The largest error that a symmetry may show in float32: of outputs of up to 12, each after some 130
# roundings along its way through the layers, 12 * 130 * 2^-24.
TOLERANCE = 1e-4

NUM_SPECIES = 12
MAX_ATOMS = 6
PADDED_ATOMS = 8
NUM_ATOMS = np.array([1, 3, 5, 6])
TIMES = np.array([1, 900, 300, 40], np.int32)
VALUES = np.array([[0.5], [-1.0], [2.0], [0.0]], np.float32)
PRESENT = np.array([[True], [True], [False], [True]])

# Every conditioning, the paper's pairs and those with radial features, and the trained tiny model.
NETWORKS = [("none", "radial"), ("cdi", "paper"), ("cds", "radial"), ("cds", "trained")]

# lattice_eps, score, logits
Outputs = tuple[jax.Array, jax.Array, jax.Array]


@functools.cache
def denoiser(conditioning: str, pairs: str) -> Denoiser:
    config = DenoiserConfig(
        conditioning=conditioning,
        width=16,
        pair_hidden_width=16,
        num_blocks=1,
        num_heads=2,
    )
    if pairs == "radial":
        config = dataclasses.replace(config, num_radial_features=4)
    if conditioning == "cds":  # whose condition enters in every block
        config = dataclasses.replace(config, num_blocks=2)
    return Denoiser(config, num_species=NUM_SPECIES)


def base_condition() -> Condition:
    return Condition(values=jnp.asarray(VALUES), present=jnp.asarray(PRESENT))


def base_crystals() -> Crystals:
    """Four crystals of 1 to 6 atoms, padded with zeros to 8."""
    rng = np.random.default_rng(0)
    mask = np.arange(PADDED_ATOMS) < NUM_ATOMS[:, None]
    frac_coords = rng.uniform(size=(*mask.shape, 3)) * mask[..., None]
    species = rng.integers(0, NUM_SPECIES, size=mask.shape) * mask
    return Crystals(
        lattice=jnp.asarray(np.eye(3) + 0.3 * rng.normal(size=(4, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(frac_coords, jnp.float32),
        species=jnp.asarray(species, jnp.int32),
        mask=jnp.asarray(mask),
    )


def with_junk(crystals: Crystals) -> Crystals:
    """Numbers on the padding that no crystal could have."""
    rng = np.random.default_rng(2)
    frac_coords = rng.choice([-1e30, -1e6, -0.3, 0.7, 123.4, 1e30], crystals.frac_coords.shape)
    species = rng.choice([-(10**6), -1, 0, 3, NUM_SPECIES, 10**6], crystals.species.shape)
    mask = np.asarray(crystals.mask)
    return dataclasses.replace(
        crystals,
        frac_coords=jnp.where(mask[..., None], crystals.frac_coords, frac_coords),
        species=jnp.where(mask, crystals.species, species).astype(jnp.int32),
    )


@dataclasses.dataclass(frozen=True)
class Network:
    """A jitted network with its weights: (crystals, times, condition) -> outputs."""

    conditioning: str
    apply: Callable[..., Outputs]
    params: Any

    def __call__(
        self, crystals: Crystals, t: np.ndarray = TIMES, condition: Condition | None = None
    ) -> Outputs:
        condition = condition or base_condition()
        return self.apply({"params": self.params}, crystals, jnp.asarray(t), condition)


@pytest.fixture(scope="module", params=NETWORKS, ids="-".join)
def network(request, tiny_model) -> Network:
    conditioning, pairs = request.param
    if pairs == "trained":
        apply = denoising.build(tiny_model.config, tiny_model.statistics).apply
        return Network(conditioning, jax.jit(apply), tiny_model.params)
    # Twice as large as usual, so that the outputs differ clearly between crystals.
    params = drawn_params(denoiser(conditioning, pairs), size=2.0)
    return Network(conditioning, jax.jit(denoiser(conditioning, pairs).apply), params)


def assert_equal_outputs(found: Outputs, expected: Outputs) -> None:
    """All three outputs agree, the per-atom ones on the real atoms."""
    mask = np.asarray(base_crystals().mask)
    np.testing.assert_allclose(found[0], expected[0], atol=TOLERANCE)
    for part in (1, 2):
        real, wanted = np.asarray(found[part])[mask], np.asarray(expected[part])[mask]
        np.testing.assert_allclose(real, wanted, atol=TOLERANCE)


def test_every_conditioning_is_tried():
    assert {conditioning for conditioning, _ in NETWORKS} == set(CONDITIONINGS)


def test_a_conditioning_without_a_branch_in_the_denoiser_is_refused(monkeypatch):
    monkeypatch.setattr("crystal_diffusion_jax.config.CONDITIONINGS", (*CONDITIONINGS, "film"))
    network = Denoiser(DenoiserConfig(conditioning="film"), num_species=NUM_SPECIES)
    arguments = (jax.random.key(0), base_crystals(), jnp.asarray(TIMES), base_condition())
    with pytest.raises(ValueError, match="conditioning 'film' is not implemented"):
        jax.eval_shape(network.init, *arguments)


def test_the_outputs_are_far_from_constant(network):
    # The other tests would pass on a network that answers the same to everything.
    crystals = base_crystals()
    lattice_eps, score, logits = network(crystals)
    mask = np.asarray(crystals.mask)
    assert np.asarray(lattice_eps).std(axis=0).max() > 0.1
    assert np.asarray(score)[mask].std(axis=0).max() > 0.1
    assert np.asarray(logits)[mask].std(axis=0).max() > 0.1


@pytest.mark.parametrize("handedness", [1, -1])
def test_a_rotation_of_the_cell_turns_the_lattice_noise_and_nothing_else(network, handedness):
    rotation = ortho_group.rvs(3, random_state=5)
    rotation = rotation * np.sign(np.linalg.det(rotation)) * handedness
    rotation = jnp.asarray(rotation, jnp.float32)
    crystals = base_crystals()
    lattice_eps, score, logits = network(crystals)
    turned = network(dataclasses.replace(crystals, lattice=crystals.lattice @ rotation))
    assert np.abs(turned[0] - lattice_eps).max() > 0.1
    assert_equal_outputs(turned, (lattice_eps @ rotation, score, logits))


@pytest.mark.parametrize("shift", [(0.3, -0.2, 0.7), (1.0, 2.0, -1.0)])
def test_a_common_shift_of_all_atoms_changes_nothing(network, shift):
    crystals = base_crystals()
    moved = dataclasses.replace(crystals, frac_coords=crystals.frac_coords + jnp.array(shift))
    assert_equal_outputs(network(moved), network(crystals))


def test_an_integer_shift_of_one_atom_changes_nothing(network):
    crystals = base_crystals()
    shift = np.zeros(crystals.frac_coords.shape, np.float32)
    shift[:, 0] = (1.0, -2.0, 1.0)
    moved = dataclasses.replace(crystals, frac_coords=crystals.frac_coords + shift)
    assert_equal_outputs(network(moved), network(crystals))


def test_a_shift_of_one_atom_by_half_a_cell_matters(network):
    crystals = base_crystals()
    shift = np.zeros(crystals.frac_coords.shape, np.float32)
    shift[:, 0] = (0.5, 0.0, 0.0)
    moved = network(dataclasses.replace(crystals, frac_coords=crystals.frac_coords + shift))
    still = network(crystals)
    assert np.abs(moved[1][1:] - still[1][1:]).max() > 0.01


def test_a_permutation_of_the_atoms_permutes_the_outputs_per_atom(network):
    crystals = base_crystals()
    rng = np.random.default_rng(3)
    # Padding included, so that real atoms no longer come first.
    order = np.array([rng.permutation(PADDED_ATOMS) for _ in NUM_ATOMS])
    permuted = Crystals(
        lattice=crystals.lattice,
        frac_coords=jnp.take_along_axis(crystals.frac_coords, order[..., None], axis=1),
        species=jnp.take_along_axis(crystals.species, order, axis=1),
        mask=jnp.take_along_axis(crystals.mask, order, axis=1),
    )
    back = np.argsort(order, axis=1)[..., None]
    lattice_eps, score, logits = network(permuted)
    restored = (
        lattice_eps,
        jnp.take_along_axis(score, back, axis=1),
        jnp.take_along_axis(logits, back, axis=1),
    )
    assert_equal_outputs(restored, network(crystals))


def test_junk_on_the_padding_changes_nothing(network):
    crystals = base_crystals()
    outputs = network(with_junk(crystals))
    for part in outputs:
        assert np.isfinite(part).all()
    np.testing.assert_array_equal(np.asarray(outputs[1])[~np.asarray(crystals.mask)], 0.0)
    assert_equal_outputs(outputs, network(crystals))


def test_padding_to_more_atoms_changes_nothing(network):
    crystals = base_crystals()
    short = jax.tree.map(lambda part: part[:, :MAX_ATOMS], crystals)
    short = dataclasses.replace(short, lattice=crystals.lattice)
    lattice_eps, score, logits = network(short)
    missing = ((0, 0), (0, PADDED_ATOMS - MAX_ATOMS), (0, 0))
    padded = (lattice_eps, jnp.pad(score, missing), jnp.pad(logits, missing))
    assert_equal_outputs(padded, network(with_junk(crystals)))


def test_the_crystals_of_a_batch_do_not_see_each_other(network):
    crystals, condition = base_crystals(), base_condition()
    flipped = jax.tree.map(lambda part: part[::-1], (crystals, condition))
    outputs = network(flipped[0], TIMES[::-1], flipped[1])
    assert_equal_outputs(jax.tree.map(lambda part: part[::-1], outputs), network(crystals))


def test_the_time_matters(network):
    crystals = base_crystals()
    assert np.abs(network(crystals, TIMES + 50)[0] - network(crystals)[0]).max() > 1e-3


def test_the_property_matters_where_it_is_given_unless_the_network_is_unconditional(network):
    crystals, condition = base_crystals(), base_condition()
    changed = dataclasses.replace(condition, values=condition.values + 1.0)
    opposite = dataclasses.replace(condition, present=~condition.present)
    other = network(crystals, condition=changed)
    hidden = network(crystals, condition=opposite)
    plain = network(crystals)
    given = PRESENT[:, 0]
    if network.conditioning == "none":
        np.testing.assert_array_equal(other[0], plain[0])
        np.testing.assert_array_equal(hidden[2], plain[2])
        return
    for part in (0, 2):
        change = np.abs(np.asarray(other[part]) - plain[part]).reshape(len(given), -1).max(axis=1)
        assert (change[given] > 1e-3).all()
        np.testing.assert_array_equal(change[~given], 0.0)
        assert np.abs(np.asarray(hidden[part]) - plain[part]).max() > 1e-3


@pytest.mark.parametrize(("conditioning", "pairs"), [("cdi", "paper"), ("cds", "radial")])
def test_junk_on_the_padding_changes_no_gradient(conditioning, pairs):
    crystals, condition = base_crystals(), base_condition()
    network = denoiser(conditioning, pairs)

    @jax.jit
    def gradient(params: Any, crystals: Crystals) -> Any:
        def total(params: Any) -> jax.Array:
            times = jnp.asarray(TIMES)
            outputs: Any = network.apply({"params": params}, crystals, times, condition)
            lattice_eps, score, logits = outputs
            of_atoms = jnp.sum(jnp.sin(score), axis=-1) + jnp.sum(jnp.sin(logits), axis=-1)
            return jnp.sum(jnp.sin(lattice_eps)) + jnp.sum(jnp.where(crystals.mask, of_atoms, 0.0))

        return jax.grad(total)(params)

    params = drawn_params(network, size=2.0)
    plain, junk = gradient(params, crystals), gradient(params, with_junk(crystals))
    for found, expected in zip(*map(jax.tree.leaves, (junk, plain)), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * max(scale, 1.0))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain["block_0"]))


def test_the_optimised_network_computes_what_the_plain_one_does():
    network = denoiser("cdi", "paper")
    params = {"params": drawn_params(network, size=2.0)}
    arguments = (params, base_crystals(), TIMES, base_condition())
    options = [
        {"xla_backend_optimization_level": level, "xla_llvm_disable_expensive_passes": level == 0}
        for level in (0, 1, 3)
    ]
    plain, *optimised = (jax.jit(network.apply, compiler_options=o)(*arguments) for o in options)
    for outputs in optimised:
        assert_equal_outputs(outputs, plain)


@pytest.mark.parametrize("mean_free", [True, False])
def test_the_bound_denoiser_removes_the_mean_score_where_the_config_says_so(mean_free):
    crystals = base_crystals()
    rng = np.random.default_rng(4)
    mask = np.asarray(crystals.mask)
    raw = rng.normal(size=(*mask.shape, 3)).astype(np.float32) * mask[..., None]
    stub: Any = types.SimpleNamespace(
        config=DenoiserConfig(mean_free_score=mean_free),
        apply=lambda variables, *arguments: (crystals.lattice, jnp.asarray(raw), variables),
    )
    denoise = denoising.bind(stub, "the weights")
    prediction = denoise(crystals, jnp.asarray(TIMES), base_condition())
    assert prediction.species_logits == {"params": "the weights"}
    np.testing.assert_array_equal(prediction.lattice_eps, crystals.lattice)
    for row, count in enumerate(NUM_ATOMS):
        expected = raw[row].copy()
        if mean_free:
            expected[:count] -= raw[row, :count].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(prediction.scaled_score[row], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conditioning": "film"}, "conditioning must be one of"),
        ({"width": 0}, "width must be at least 1"),
        ({"num_blocks": 0}, "num_blocks must be at least 1"),
        ({"num_heads": -1}, "num_heads must be at least 1"),
        ({"num_frequencies": 0}, "num_frequencies must be at least 1"),
        ({"pair_hidden_width": 0}, "pair_hidden_width must be at least 1"),
        ({"width": 2**40}, "width must be at least 1 and at most 8192"),
        ({"num_blocks": 100_000}, "num_blocks must be at least 1 and at most 64"),
        ({"num_radial_features": 10**9}, "num_radial_features must be at least 0 and at most 8192"),
        ({"width": 20, "num_heads": 8}, "a multiple of num_heads"),
        ({"width": 9, "num_heads": 3}, "must be even"),
    ],
)
def test_a_config_that_describes_no_network_is_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        DenoiserConfig(**fields)


def test_what_is_the_same_in_all_keys_or_in_all_scores_of_a_crystal_has_no_effect():
    # The former drops out of the softmax, the latter out of the mean-free score.
    network, crystals = denoiser("cds", "radial"), base_crystals()
    named = flax.traverse_util.flatten_dict(drawn_params(network), sep="/")
    times, condition = jnp.asarray(TIMES), base_condition()
    predict = jax.jit(lambda params: denoising.bind(network, params)(crystals, times, condition))
    rng = np.random.default_rng(4)

    def moved_by(which: int) -> Outputs:
        """Outputs with a third of queries, keys and values, or of none, moved."""
        moved = {name: np.array(leaf) for name, leaf in named.items()}
        for name, leaf in moved.items():
            if name.endswith(("qkv/bias", "qkv_condition/kernel")):
                third = leaf.shape[-1] // 3
                part = leaf[..., which * third : (which + 1) * third]
                part += rng.normal(size=part.shape)
        moved["score_head/Dense_1/bias"] += rng.normal(size=3)
        return outputs(moved)

    def outputs(weights: dict[str, np.ndarray]) -> Outputs:
        nested = flax.traverse_util.unflatten_dict(weights, sep="/")
        found = predict(nested)
        return found.lattice_eps, found.scaled_score, found.species_logits

    expected = outputs(named)
    assert_equal_outputs(moved_by(1), expected)
    for queries_or_values in (moved_by(0), moved_by(2)):
        assert np.abs(np.asarray(queries_or_values[0]) - expected[0]).max() > 10 * TOLERANCE
