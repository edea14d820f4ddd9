"""TrainingConfig, the train state and the optimizer."""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, logging and checkpoints.

    Attributes:
      num_steps: optimizer steps in all.
      batch_size: crystals per step, a multiple of the number of devices.
      learning_rate: peak, reached after the warm-up.
      final_learning_rate: reached at the last step, by a cosine.
      warmup_steps: steps of linear warm-up from 0.
      weight_decay: of AdamW; 0 is Adam.
      gradient_clip: largest global norm of the gradient.
      ema_decay: of the moving average of the weights, which is what is validated and sampled.
      log_every: steps between lines of the log.
      checkpoint_every: steps between validations with a checkpoint each; a multiple of log_every.
      keep_last: checkpoints kept besides the one of the lowest validation loss.
    """

    num_steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 500
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_last: int = 2

    def __post_init__(self) -> None:
        """Rejects values that cannot be run."""
        for field in ("num_steps", "batch_size", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("learning_rate", "gradient_clip"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be positive and finite, not {getattr(self, field)}")
        for field in ("final_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(
                    f"{field} must be at least 0 and finite, not {getattr(self, field)}"
                )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if not 0 <= self.warmup_steps < self.num_steps:
            raise ValueError("warmup_steps must be at least 0 and fewer than num_steps")
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every ({self.checkpoint_every}) must be a multiple of log_every "
                f"({self.log_every}), so that a resumed run logs the same means"
            )


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    Attributes:
      step: scalar int32, steps taken.
      params: the weights.
      ema_params: their exponential moving average.
      opt_state: of optax.
    """

    step: Array
    params: Any
    ema_params: Any
    opt_state: Any


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipped AdamW with linear warm-up and cosine decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.num_steps,
        end_value=config.final_learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def initial_state(
    denoiser: Denoiser, optimizer: optax.GradientTransformation, key: Array, batch: Batch
) -> TrainState:
    """Fresh weights; `batch` gives the shapes only."""
    condition = Condition(
        values=jnp.asarray(batch.properties), present=jnp.ones(batch.properties.shape, bool)
    )
    t = jnp.ones(len(batch.weight), jnp.int32)

    @jax.jit
    def initialise(key: Array) -> TrainState:
        params = denoiser.init(key, batch.crystals, t, condition)["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
        )

    return initialise(key)
