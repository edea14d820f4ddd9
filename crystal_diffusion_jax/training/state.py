"""The train state, and fresh weights."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, Key

from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    The weights are one vector, so that the optimizer is a handful of operations instead of a
    handful per weight matrix, and the gradient one all-reduce between devices.

    Attributes:
      step: steps taken.
      params: the weights; `Unflatten` gives them their names and shapes.
      ema_params: their exponential moving average.
      opt_state: optax's.
    """

    step: Int[Array, ""]
    params: Float[Array, " weights"]
    ema_params: Float[Array, " weights"]
    opt_state: Any


# The vector of weights -> the parameters of the denoiser
Unflatten = Callable[[Float[Array, " weights"]], Any]


def initial_params(
    denoiser: Denoiser, key: Key[Array, ""], batch: Batch
) -> tuple[Float[Array, " weights"], Unflatten]:
    """Fresh weights as one vector, and its layout; only the shapes of `batch` matter."""
    # One crystal is enough for the shapes, and faster to compile.
    rows = (batch.crystals, batch.properties)
    crystals, properties = jax.tree.map(lambda array: jnp.asarray(array[:1]), rows)
    condition = Condition(values=properties, present=jnp.ones(properties.shape, bool))

    def initialise(key: Key[Array, ""]) -> Any:
        return denoiser.init(key, crystals, jnp.ones(1, jnp.int32), condition)["params"]

    return jax.flatten_util.ravel_pytree(jax.jit(initialise)(key))


def initial_state(
    params: Float[Array, " weights"], optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jnp.copy(params),
        opt_state=optimizer.init(params),
    )
