"""The reverse process from noise to crystals, shared by the tests of the sampler."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax.config import DenoiserConfig, NoiseConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import wrapped_normal
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import (
    NoiseSchedule,
    noise_schedule,
    per_crystal,
    sampling_times,
)
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.sampling.chain import State, last_state, reverse_chain
from crystal_diffusion_jax.sampling.sampler import Process
from crystal_diffusion_jax.trained_model import TrainedModel


def reverse_process(
    denoise: Denoise,
    keys: Array,
    mask: Array,
    num_species: int,
    times: Array,
    *arguments: Any,
    **options: Any,
) -> Crystals:
    """The last state of `reverse_chain`, which takes all but the times."""
    init, step = reverse_chain(denoise, keys, mask, num_species, *arguments, **options)
    return last_state(init, step, times)


def network_calls(
    times: np.ndarray, schedule: NoiseSchedule, solver: str, **options: Any
) -> list[int]:
    """The times at which a chain calls the network, in the order of the calls."""
    seen: list[int] = []

    def denoise(crystals: Crystals, t: Array) -> Prediction:
        jax.debug.callback(lambda t: seen.append(int(t)), t[0], ordered=True)
        nothing = jnp.zeros_like(crystals.frac_coords)
        return Prediction(crystals.lattice, nothing, nothing)

    @jax.jit
    def run(keys: Array) -> Crystals:
        mask = jnp.ones((2, 3), bool)
        return reverse_process(
            denoise, keys, mask, 3, jnp.asarray(times), 1e-6, schedule, solver, **options
        )

    run(jax.random.split(jax.random.key(0), 2)).lattice.block_until_ready()
    jax.effects_barrier()
    return seen


CELL = np.array([[1.0, 0.0, 0.1], [-0.2, 0.9, 0.0], [0.0, 0.1, 1.3]], np.float32)
SITES = np.random.default_rng(0).uniform(size=(20, 3)).astype(np.float32)
SPREAD = 0.2  # of the entries of the lattice
VIBRATION = 0.25  # of the sites


class ClosedForm(Denoiser):
    """The best denoiser of crystals whose entries are independent, in place of a network.

    Lattices are normal around `cell` times 1 + 0.1 of the property where it is asked for, sites
    vibrate around SITES, species have the logits `logits`. Its programs compile in half the time
    of a network's. Its chains hold all their noise to the end and hardly magnify a rounding: a
    step shrinks lattices' differences, and as the score of sites that vibrate so much has a slope
    of at most 48, it stretches those of coordinates by less than two.

    Attributes:
      noise: the forward process.
    """

    noise: NoiseConfig = NoiseConfig(num_steps=20)

    @nn.compact
    def __call__(
        self, crystals: Crystals, t: Array, condition: Condition
    ) -> tuple[Array, Array, Array]:
        """As `Denoiser`."""
        tables = jax.tree.map(jnp.asarray, _tables(self.noise))
        cell = self.param("cell", nn.initializers.ones, (3, 3))
        logits = self.param("logits", nn.initializers.zeros, (self.num_species,))
        asked = jnp.where(condition.present[:, 0], condition.values[:, 0], 0.0)[:, None, None]
        signal, one_minus, sigma, scale = (
            per_crystal(table, t, 3)
            for table in (
                jnp.sqrt(tables.alpha_bar),
                tables.one_minus_alpha_bar,
                tables.sigma,
                tables.score_scale,
            )
        )
        added = crystals.lattice - signal * (1.0 + 0.1 * asked) * cell
        eps = jnp.sqrt(one_minus) * added / (signal**2 * SPREAD**2 + one_minus)
        away = crystals.frac_coords - SITES[: crystals.mask.shape[1]]
        score = scale * wrapped_normal.score(away, jnp.sqrt(sigma**2 + VIBRATION**2))
        score = jnp.where(crystals.mask[..., None], score, 0.0)
        return eps, score, jnp.broadcast_to(logits, (*crystals.species.shape, self.num_species))


@functools.cache
def _tables(noise: NoiseConfig) -> NoiseSchedule:
    with jax.ensure_compile_time_eval():
        tables: NoiseSchedule = jax.tree.map(np.asarray, noise_schedule(noise))
    return tables


def closed_form(num_species: int, noise: NoiseConfig) -> ClosedForm:
    """The denoiser; `parameters` are its parameters."""
    return ClosedForm(DenoiserConfig(), num_species, noise=noise)


def parameters(num_species: int) -> dict[str, np.ndarray]:
    """Of a `ClosedForm`, with species that differ a little in how frequent they are."""
    return {"cell": CELL, "logits": np.linspace(0.0, 1.0, num_species, dtype=np.float32)}


class ClosedFormModel(TrainedModel):
    """A trained model with a `ClosedForm` for its network."""

    @property
    def denoiser(self) -> Denoiser:
        """The network."""
        return closed_form(len(self.statistics.vocabulary), self.config.noise)


def closed_form_model(like: TrainedModel) -> TrainedModel:
    """With the configuration and statistics of another model."""
    return ClosedFormModel(
        params=parameters(len(like.statistics.vocabulary)),
        config=like.config,
        statistics=like.statistics,
        training={},
        weights_sha256="0" * 64,
    )


def quick_sampler(
    denoiser: Denoiser, noise: NoiseConfig, num_steps: int, *options: Any
) -> Callable[..., Crystals]:
    """Stands for `make_sampler` where its crystals need not be a model's; it compiles at once.

    Each crystal follows from its key, and each step changes all of it a little. For three steps
    these numbers fit into float32, so that no program rounds them.
    """
    process: Process = options[-1]
    times = jnp.asarray(sampling_times(noise.num_steps, num_steps))

    def step(state: State, interval: tuple[Array, Array]) -> tuple[State, None]:
        crystals, estimate = state
        moved = dataclasses.replace(
            crystals,
            lattice=crystals.lattice * 1.0625,
            frac_coords=(crystals.frac_coords + 0.125) % 1.0,
            species=(crystals.species + interval[1]) % denoiser.num_species,
        )
        return (moved, estimate), None

    @jax.jit
    def sample(params: Any, keys: Array, mask: Array, *request: Any) -> Crystals:
        bits = jax.random.key_data(keys)[:, -1] % 1024
        atom = jnp.arange(mask.shape[1]) + 1
        size = (1 + bits / 1024)[:, None, None]
        first = Crystals(
            lattice=size * jnp.eye(3),
            frac_coords=(size * atom[:, None] * jnp.array([0.25, 0.375, 0.0625])) % 1.0,
            species=((bits[:, None] + atom) % denoiser.num_species).astype(jnp.int32),
            mask=mask,
        )
        return process((first, None), step, times)

    return sample
