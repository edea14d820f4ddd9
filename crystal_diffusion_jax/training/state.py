"""TrainingConfig and the train state."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import Array

from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition

ADAM: Final = "adam"
MUON: Final = "muon"
OPTIMIZERS = (ADAM, MUON)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, logging and checkpoints.

    Attributes:
      num_steps: optimizer steps in all.
      batch_size: crystals per step, a multiple of the number of devices.
      optimizer: "adam", or "muon" for the matrices of the blocks and Adam for all else, see
        `training.optimizer`.
      learning_rate: peak, reached after the warm-up.
      final_learning_rate: reached at the last step, by a cosine.
      warmup_steps: steps of linear warm-up from 0.
      weight_decay: decoupled from the gradient; 0 does without.
      gradient_clip: largest global norm of the gradient.
      ema_decay: of the moving average of the weights, which is what is validated and sampled.
      steps_per_call: steps that run as one program, without a return to Python; log_every and
        num_steps must be multiples of it.
      log_every: steps between lines of the log.
      checkpoint_every: steps between validations with a checkpoint each; a multiple of log_every.
      keep_last: checkpoints kept besides the one of the lowest validation loss.
      start_from: folder or name of a trained model whose weights training starts from, see
        `training.warm_start`; empty for fresh weights.
      extremes_repeated: times in each epoch that a crystal comes whose property is in the lowest
        or highest 5 %, where requests are made; all others come once. Data in shards need 1.
    """

    num_steps: int = 20_000
    batch_size: int = 256
    optimizer: str = ADAM
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 500
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    steps_per_call: int = 10
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_last: int = 2
    start_from: str = ""
    extremes_repeated: int = 1

    def __post_init__(self) -> None:
        """Rejects values that cannot be run."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, not {self.optimizer!r}")
        for field in (
            "num_steps",
            "batch_size",
            "steps_per_call",
            "log_every",
            "checkpoint_every",
            "keep_last",
            "extremes_repeated",
        ):
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
        for field in ("num_steps", "log_every"):
            if getattr(self, field) % self.steps_per_call:
                raise ValueError(
                    f"{field} ({getattr(self, field)}) must be a multiple of steps_per_call "
                    f"({self.steps_per_call})"
                )
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every ({self.checkpoint_every}) must be a multiple of log_every "
                f"({self.log_every}), so that a resumed run logs the same means"
            )


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    The weights are one vector, so that the optimizer is a handful of operations instead of a
    handful per weight matrix, and the gradient one all-reduce between devices.

    Attributes:
      step: scalar int32, steps taken.
      params: [W] the weights; `Unflatten` gives them their names and shapes.
      ema_params: [W] their exponential moving average.
      opt_state: of optax.
    """

    step: Array
    params: Array
    ema_params: Array
    opt_state: Any


# [W] vector -> the parameters of the denoiser
Unflatten = Callable[[Array], Any]


def initial_params(denoiser: Denoiser, key: Array, batch: Batch) -> tuple[Array, Unflatten]:
    """Fresh weights as one vector, and its layout; `batch` gives the shapes only."""
    # One crystal is enough for the shapes, and quicker to compile.
    crystals, properties = jax.tree.map(lambda rows: rows[:1], (batch.crystals, batch.properties))
    condition = Condition(values=jnp.asarray(properties), present=jnp.ones(properties.shape, bool))

    def initialise(key: Array) -> Any:
        return denoiser.init(key, crystals, jnp.ones(1, jnp.int32), condition)["params"]

    return jax.flatten_util.ravel_pytree(jax.jit(initialise)(key))


def initial_state(params: Array, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jnp.copy(params),
        opt_state=optimizer.init(params),
    )
