"""TrainingConfig and the train state."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import Array

from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition


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
