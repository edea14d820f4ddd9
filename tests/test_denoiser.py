"""Symmetries of the denoiser for every conditioning and norm, on random and on trained weights."""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import ortho_group

from crystal_diffusion_jax import denoising, devices
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import dataset_statistics
from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.data.perovskites import abx3_dataset
from crystal_diffusion_jax.models.denoiser import CONDITIONINGS, Denoiser, DenoiserConfig
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.training.loss import LossConfig
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.state import TrainingConfig, TrainState
from crystal_diffusion_jax.training.step import make_train_steps

# The largest error that a symmetry may show in float32.
TOLERANCE = 1e-4

NUM_SPECIES = 12
MAX_ATOMS = 6
PADDED_ATOMS = 8
NUM_ATOMS = np.array([1, 3, 5, 6])
TIMES = np.array([1, 900, 300, 40], np.int32)
VALUES = np.array([[0.5], [-1.0], [2.0], [0.0]], np.float32)
PRESENT = np.array([[True], [True], [False], [True]])

RANDOM = [(kind, norm, "random") for kind in CONDITIONINGS for norm in ("post", "pre")]
# Every conditioning and every norm; each costs seconds of compilation.
TRAINED = [
    ("none", "pre", "trained"),
    ("cdi", "post", "trained"),
    ("cds", "post", "trained"),
]
# Compiling takes longer than running, so the compiler is told to be quick.
QUICK_COMPILATION = {"xla_backend_optimization_level": 0}

# lattice_eps, score, logits
Outputs = tuple[jax.Array, jax.Array, jax.Array]


@functools.cache
def denoiser(conditioning: str, norm: str) -> Denoiser:
    config = DenoiserConfig(
        conditioning=conditioning, norm=norm, width=16, pair_width=16, num_blocks=2, num_heads=2
    )
    if norm == "pre":  # with what the paper's network lacks
        config = dataclasses.replace(config, num_radial=4, pair_time=True)
    return Denoiser(config, num_species=NUM_SPECIES)


@functools.cache
def jitted(conditioning: str, norm: str) -> Callable[..., Any]:
    return jax.jit(denoiser(conditioning, norm).apply, compiler_options=QUICK_COMPILATION)


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


def random_params(conditioning: str, norm: str) -> Any:
    """Weights made by numpy, much quicker than compiling `init`, and with no bias at 0.

    Twice as large as usual, so that the outputs differ clearly between crystals.
    """
    shapes = jax.eval_shape(
        denoiser(conditioning, norm).init,
        jax.random.key(0),
        base_crystals(),
        jnp.asarray(TIMES),
        base_condition(),
    )
    rng = np.random.default_rng(1)

    def draw(path: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
        normal = rng.normal(size=like.shape)
        if path[-1].key == "scale":  # of a layer norm
            return (1.0 + 0.3 * normal).astype(np.float32)
        size = 2.0 / np.sqrt(like.shape[-2]) if len(like.shape) > 1 else 0.3
        return (size * normal).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)["params"]


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
class Training:
    """A train step compiled for one network, the weights before and after 200 steps, the losses."""

    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    unflatten: Callable[[jax.Array], Any]
    before: TrainState
    after: TrainState
    losses: np.ndarray
    last_batch: tuple[Crystals, np.ndarray, np.ndarray]


@pytest.fixture(scope="session")
def trained(schedule) -> Callable[[str, str], Training]:
    """Trains a network on cubic perovskites, padded by two atoms, the first time it is asked."""
    dataset = abx3_dataset()
    common = np.isin(dataset.atomic_numbers, np.unique(dataset.atomic_numbers)[:NUM_SPECIES])
    rows = np.flatnonzero(common.reshape(-1, 5).all(axis=1))
    dataset = dataset.take(rows)
    statistics = dataset_statistics(dataset, scale_by_num_atoms=False)
    config = TrainingConfig(num_steps=200, batch_size=16, learning_rate=1e-2, warmup_steps=20)
    batches = Batches(dataset, statistics, config.batch_size, seed=0)
    mesh = devices.data_mesh()
    key = jax.device_put(jax.random.key(2), devices.replicated(mesh))

    def arrays(index: int) -> tuple[Crystals, np.ndarray, np.ndarray]:
        batch = jax.tree.map(lambda array: array[0], batches.group(index))
        padding = ((0, 0), (0, 2))
        padded: dict[str, Any] = {
            "frac_coords": np.pad(batch.crystals.frac_coords, (*padding, (0, 0))),
            "species": np.pad(batch.crystals.species, padding),
            "mask": np.pad(batch.crystals.mask, padding),
        }
        crystals = dataclasses.replace(batch.crystals, **padded)
        placed = (crystals, batch.properties, batch.weight)
        # Groups of one step.
        placed = jax.tree.map(lambda array: array[None], placed)
        return jax.device_put(placed, devices.by_batch(mesh, axis=1))

    def train(conditioning: str, norm: str) -> Training:
        optimizer = make_optimizer(config)
        params, unflatten = ravel_pytree(random_params(conditioning, norm))
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jnp.copy(params),
            opt_state=optimizer.init(params),
        )
        before = jax.device_get(state)
        state = jax.device_put(state, devices.replicated(mesh))
        step: Any = make_train_steps(
            denoiser(conditioning, norm),
            unflatten,
            schedule,
            LossConfig(),
            optimizer,
            config.ema_decay,
            mesh,
        )
        compiled = step.lower(state, arrays(0), key).compile(compiler_options=QUICK_COMPILATION)
        losses = []
        for index in range(config.num_steps):
            batch = arrays(index)
            state, metrics = compiled(state, batch, key)
            losses.append(metrics["loss"][0])
        return Training(
            step=lambda state, batch: compiled(
                jax.device_put(state, devices.replicated(mesh)),
                jax.device_put(batch, devices.by_batch(mesh, axis=1)),
                key,
            ),
            unflatten=unflatten,
            before=before,
            after=jax.device_get(state),
            losses=np.array(losses),
            last_batch=batch,
        )

    return functools.cache(train)


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


@pytest.fixture(scope="module", params=RANDOM + TRAINED, ids="-".join)
def network(request, trained) -> Network:
    conditioning, norm, weights = request.param
    if weights == "random":
        params = random_params(conditioning, norm)
    else:
        training = trained(conditioning, norm)
        params = training.unflatten(training.after.params)
    return Network(conditioning, jitted(conditioning, norm), params)


def assert_equal_outputs(found: Outputs, expected: Outputs) -> None:
    """All three outputs agree, the per-atom ones on the real atoms."""
    mask = np.asarray(base_crystals().mask)
    np.testing.assert_allclose(found[0], expected[0], atol=TOLERANCE)
    for part in (1, 2):
        real, wanted = np.asarray(found[part])[mask], np.asarray(expected[part])[mask]
        np.testing.assert_allclose(real, wanted, atol=TOLERANCE)


def test_training_lowers_the_loss(trained):
    for conditioning, norm, _ in TRAINED:
        losses = trained(conditioning, norm).losses
        assert losses[-20:].mean() < 0.7 * losses[:5].mean()


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


@pytest.mark.parametrize(("conditioning", "norm", "weights"), TRAINED, ids=lambda part: part)
def test_junk_on_the_padding_changes_no_loss_and_no_gradient(trained, conditioning, norm, weights):
    training = trained(conditioning, norm)
    crystals, *rest = training.last_batch
    # Adam's first moment after one step is a constant times the clipped gradient.
    plain_state, plain = training.step(training.before, (crystals, *rest))
    junk_state, junk = training.step(training.before, (with_junk(crystals), *rest))
    for name, value in plain.items():
        np.testing.assert_allclose(junk[name], value, rtol=1e-5, err_msg=name)
    moments = [jax.tree.leaves(state.opt_state) for state in (junk_state, plain_state)]
    for found, expected in zip(*moments, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert plain["grad_norm"][0] > 0.01


def test_the_jitted_network_computes_what_the_eager_one_does():
    params = random_params("cds", "post")
    arguments = (base_crystals(), jnp.asarray(TIMES), base_condition())
    eager: Any = denoiser("cds", "post").apply({"params": params}, *arguments)
    for found, expected in zip(
        jitted("cds", "post")({"params": params}, *arguments), eager, strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


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
        ({"activation": "tanh"}, "activation must be one of"),
        ({"norm": "both"}, "norm must be one of"),
        ({"width": 0}, "width must be at least 1"),
        ({"num_blocks": 0}, "num_blocks must be at least 1"),
        ({"num_heads": -1}, "num_heads must be at least 1"),
        ({"num_frequencies": 0}, "num_frequencies must be at least 1"),
        ({"pair_width": 0}, "pair_width must be at least 1"),
        ({"width": 2**40}, "width must be at most 8192"),
        ({"num_blocks": 100_000}, "num_blocks must be at most 64"),
        ({"num_radial": 10**9}, "num_radial must be at most 8192"),
        ({"width": 20, "num_heads": 8}, "a multiple of num_heads"),
        ({"width": 9, "num_heads": 3}, "must be even"),
    ],
)
def test_a_config_that_names_no_network_is_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        DenoiserConfig(**fields)
