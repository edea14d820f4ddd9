"""Do an accelerator and the CPU next to it agree on loss, gradient and crystals?

Both start from the same random keys, which give the same noise everywhere. They differ in the
order of sums, in the last digit of elementary functions and, by default, in the rounding of matrix
products. Over a whole chain of steps the smallest difference grows until the crystals are different
ones of the same distribution: short chains are compared crystal by crystal, whole ones by means.
"""

import functools
import math
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import AxisType, Mesh

from benchmarks.speed import random_batch
from crystal_diffusion_jax.config import SECOND_ORDER
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.structures.conversion import cell_defect, minimum_distance, to_structure
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training.step import initial_state, make_train_steps

# Largest differences from the CPU in float32, see `loss_differences` and `differences`.
# Each rounding of a matrix product has a relative error of 6e-8 in float32, 5e-4 in the 10 bits of
# TF32 and 2e-3 in the 7 bits of bfloat16. Random relative changes of that size to all weights of
# perov5_cds change, on the CPU, the loss by 1e-7, 4e-4 and 1e-3, the gradient by 3e-7, 1.4e-3 and
# 6e-3, the species of 0, 5 and 20 % of crystals, lattices by 2e-6, 3e-3 and 1.5e-2, and coordinates
# by 2e-7, 2e-4 and 9e-4. The tolerances are several times as large, in float32 thirty to a hundred
# times, because elementary functions are less accurate on an accelerator.
TOLERANCES = {
    "float32": {
        "loss": 1e-5,
        "gradient": 3e-5,
        "other_species": 0.05,
        "lattice": 1e-4,
        "frac_coords": 1e-5,
    },
    "default": {
        "loss": 2e-3,
        "gradient": 1e-2,
        "other_species": 0.3,
        "lattice": 1.5e-2,
        "frac_coords": 1e-3,
    },
    "bfloat16": {
        "loss": 5e-3,
        "gradient": 4e-2,
        "other_species": 0.5,
        "lattice": 8e-2,
        "frac_coords": 5e-3,
    },
}
# Standard errors between two means; one comparison in 16,000 exceeds it by chance.
LARGEST_Z = 4.0

# Chains with a step of each kind.
CHAINS: dict[str, dict[str, Any]] = {
    "corrector": {},
    "guidance": {"use_guidance": True},
    "renoising": {"use_corrector": False, "renoising_steps": 2},
    "second order": {"solver": SECOND_ORDER},
    "averaging": {"use_corrector": False, "averaging_rounds": 1},
}


def mesh_of(*some: jax.Device) -> Mesh:
    """A mesh of these devices; `devices.data_mesh` has all of them."""
    return Mesh(np.array(some), (devices.AXIS,), axis_types=(AxisType.Auto,))


def _keep_gradient() -> optax.GradientTransformation:
    """An optimizer that leaves the weights unchanged; its state is the last gradient."""

    def update(gradient: Array, state: Any, params: Any = None) -> tuple[Array, Array]:
        return jnp.zeros_like(gradient), gradient

    return optax.GradientTransformation(jnp.zeros_like, update)


def losses_and_gradient(
    model: TrainedModel, mesh: Mesh, num: int
) -> tuple[dict[str, float], np.ndarray]:
    """Losses and gradient of one training step on fixed random crystals and noise.

    Args:
      model: the network and its loss.
      mesh: the devices; their number divides `num`.
      num: number of crystals, of five atoms each.
    """
    params, unflatten = jax.flatten_util.ravel_pytree(model.params)
    optimizer = _keep_gradient()
    steps = make_train_steps(
        model.denoiser,
        unflatten,
        noise_schedule(model.config.noise),
        model.config.loss,
        optimizer,
        model.config.training.ema_decay,
        mesh,
    )
    batch = random_batch(num, 5, model.denoiser.num_species)
    rows = jax.tree.map(lambda leaf: leaf[None], (batch.crystals, batch.properties, batch.weight))
    state, metrics = steps(
        jax.device_put(initial_state(params, optimizer), devices.replicated(mesh)),
        jax.device_put(rows, devices.by_batch(mesh, axis=1)),
        jax.device_put(jax.random.key(1), devices.replicated(mesh)),
    )
    losses = {name: float(values[0]) for name, values in metrics.items() if name != "grad_norm"}
    return losses, np.asarray(state.opt_state)


def crystals(model: TrainedModel, mesh: Mesh, num: int, num_steps: int, **options: Any) -> Crystals:
    """The first `num` crystals of five atoms at the middle of the property's range.

    Args:
      model: the model.
      mesh: the devices.
      num: number of crystals.
      num_steps: steps of the reverse process.
      **options: passed to `make_sampler`.
    """
    sample = make_sampler(
        model.denoiser,
        model.config.noise,
        num_steps,
        mesh=mesh,
        **{"use_guidance": False} | options,
    )
    filled = -(-num // mesh.size) * mesh.size
    shape = (filled, len(model.statistics.property_names))
    fold = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))
    arguments = (
        model.params,
        fold(jnp.arange(filled)),
        jnp.ones((filled, 5), bool),
        Condition(values=jnp.zeros(shape), present=jnp.ones(shape, bool)),
        jnp.float32(1.0),
        jnp.float32(model.config.sampling.corrector_step_size),
        jnp.ones(model.denoiser.num_species, bool),
    )
    drawn = sample(*jax.device_put(arguments, devices.replicated(mesh)))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:num], drawn)


def loss_differences(
    found: tuple[dict[str, float], np.ndarray], expected: tuple[dict[str, float], np.ndarray]
) -> dict[str, float]:
    """How much two results of `losses_and_gradient` differ.

    Returns:
      loss: largest relative difference of a part of the loss.
      gradient: norm of the difference relative to the gradient's.
    """
    losses = [abs(found[0][name] / value - 1.0) for name, value in expected[0].items()]
    distance = np.linalg.norm(found[1] - expected[1]) / np.linalg.norm(expected[1])
    return {"loss": max(losses), "gradient": float(distance)}


def differences(found: Crystals, expected: Crystals) -> dict[str, float]:
    """How much the same crystals from two devices differ.

    Returns:
      other_species: fraction of crystals whose species differ somewhere.
      lattice, frac_coords: largest difference of each crystal's lattice (in units of its scale)
        and coordinates (on the torus), the median over the crystals.
    """
    other = np.any(found.species != expected.species, axis=1)
    lattice = np.abs(found.lattice - expected.lattice).max(axis=(1, 2))
    move = found.frac_coords - expected.frac_coords
    coords = np.abs(move - np.round(move)).max(axis=(1, 2))
    return {
        "other_species": float(np.mean(other)),
        "lattice": float(np.median(lattice)),
        "frac_coords": float(np.median(coords)),
    }


def within(differences: dict[str, float], tolerances: dict[str, float]) -> bool:
    """Whether all of these differences are within the tolerances; NaN is not."""
    return all(value <= tolerances[name] for name, value in differences.items())


def measures(model: TrainedModel, drawn: Crystals) -> dict[str, np.ndarray]:
    """Whether each crystal is accepted, and some properties of the accepted ones."""
    count, num_atoms = drawn.species.shape
    unit = model.statistics.lattice_unit(np.full(count, num_atoms))
    lattices = np.asarray(drawn.lattice, np.float64) * unit[:, None, None]
    numbers = np.array(model.statistics.vocabulary)[drawn.species]
    pairs = zip(lattices, drawn.frac_coords, strict=True)
    accepted = np.array([cell_defect(*pair) is None for pair in pairs])
    distances = [
        minimum_distance(to_structure(lattices[i], np.asarray(drawn.frac_coords[i]), numbers[i]))
        for i in np.flatnonzero(accepted)
    ]
    return {
        "accepted": accepted.astype(float),
        "volume": np.abs(np.linalg.det(lattices[accepted])),
        "shortest distance": np.array(distances),
        "mean atomic number": numbers[accepted].mean(axis=1),
    }


def standard_errors(found: np.ndarray, expected: np.ndarray) -> float:
    """Difference of the means of two independent samples, in standard errors; 0 for equal means."""
    distance = abs(np.mean(found) - np.mean(expected))
    error = math.sqrt(np.var(found) / len(found) + np.var(expected) / len(expected))
    return float(distance / error) if error else math.inf if distance else 0.0
