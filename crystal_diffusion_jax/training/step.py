"""The jitted train step and the validation step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from crystal_diffusion_jax import denoising, devices
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.training.loss import LossConfig, diffusion_loss
from crystal_diffusion_jax.training.state import TrainState

# (state, crystals, properties [B, P], weight [B], key) -> (state, metrics)
TrainStep = Callable[
    [TrainState, Crystals, Array, Array, Array], tuple[TrainState, dict[str, Array]]
]
# (state, crystals, properties, weight, key) -> metrics
EvaluationStep = Callable[[TrainState, Crystals, Array, Array, Array], dict[str, Array]]


def make_train_step(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    config: LossConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    mesh: Mesh,
) -> TrainStep:
    """One optimizer step, jitted, with the batch split over the mesh and the state donated.

    The key of step n is fold_in(key, n), so a resumed run draws the same noise.
    """

    def train_step(
        state: TrainState, crystals: Crystals, properties: Array, weight: Array, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        def loss_fn(params: object) -> tuple[Array, dict[str, Array]]:
            return diffusion_loss(
                denoising.bind(denoiser, params),
                jax.random.fold_in(key, state.step),
                crystals,
                properties,
                weight,
                denoiser.num_species,
                schedule,
                config,
                denoiser.config.mean_free_score,
            )

        (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A short memory at first, so that the average forgets the random initial weights.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
        metrics = {"loss": loss, **parts, "grad_norm": optax.tree.norm(grads)}
        new_state = TrainState(
            step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
        )
        return new_state, metrics

    replicated, by_batch = devices.replicated(mesh), devices.by_batch(mesh)
    return jax.jit(
        train_step,
        in_shardings=(replicated, by_batch, by_batch, by_batch, replicated),
        out_shardings=replicated,
        donate_argnums=0,
    )


def make_evaluation_step(
    denoiser: Denoiser, schedule: NoiseSchedule, config: LossConfig, mesh: Mesh
) -> EvaluationStep:
    """Loss of the averaged weights with every property given, jitted."""
    config = dataclasses.replace(config, condition_dropout=0.0)

    def evaluation_step(
        state: TrainState, crystals: Crystals, properties: Array, weight: Array, key: Array
    ) -> dict[str, Array]:
        loss, parts = diffusion_loss(
            denoising.bind(denoiser, state.ema_params),
            key,
            crystals,
            properties,
            weight,
            denoiser.num_species,
            schedule,
            config,
            denoiser.config.mean_free_score,
        )
        return {"loss": loss, **parts}

    replicated, by_batch = devices.replicated(mesh), devices.by_batch(mesh)
    return jax.jit(
        evaluation_step,
        in_shardings=(replicated, by_batch, by_batch, by_batch, replicated),
        out_shardings=replicated,
    )
