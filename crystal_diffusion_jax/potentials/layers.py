"""The layers of CHGNet that treat each row by itself: linear, norm and gated ones.

Weights keep their published names, by which the functions find them.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from crystal_diffusion_jax.potentials.activations import gated, silu

Parameters = Mapping[str, Array]

_WIDTH = 64
_NORM_EPSILON = 1e-5


def two_layers(
    parameters: Parameters, name: str, hidden: Callable[[str], Float[Array, "rows 64"]]
) -> Float[Array, "rows 64"]:
    """Core and gate of two linear layers each, and their product; `hidden` applies the first."""

    def centred(part: str) -> Float[Array, "rows 64"]:
        weight, bias = without_mean(parameters, f"{name}.{part}.layers.3")
        return silu(hidden(f"{name}.{part}.layers.0")) @ weight + bias

    return gated_layer(parameters, name, centred("mlp_core"), centred("mlp_gate"))


def without_mean(
    parameters: Parameters, name: str
) -> tuple[Float[Array, "inputs 64"], Float[Array, " 64"]]:
    """Weight and bias of a linear layer, less the mean over its outputs, which a norm takes off."""
    weight, bias = parameters[f"{name}.weight"].T, parameters[f"{name}.bias"]
    return weight - jnp.mean(weight, axis=1, keepdims=True), bias - jnp.mean(bias)


def gated_layer(
    parameters: Parameters, name: str, core: Float[Array, "rows 64"], gate: Float[Array, "rows 64"]
) -> Float[Array, "rows 64"]:
    """The gated layer of `core` and `gate`, whose rows have zero mean."""
    return gated(
        _norm_of_centred(parameters, f"{name}.bn1", core),
        _norm_of_centred(parameters, f"{name}.bn2", gate),
    )


def _norm_of_centred(
    parameters: Parameters, name: str, x: Float[Array, "rows 64"]
) -> Float[Array, "rows 64"]:
    """Layer norm of rows with zero mean."""
    scale = jax.lax.rsqrt(_mean(x**2) + _NORM_EPSILON)
    return x * scale[:, None] * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def norm(parameters: Parameters, name: str, x: Float[Array, "rows 64"]) -> Float[Array, "rows 64"]:
    """Layer norm."""
    return _norm_of_centred(parameters, name, x - _mean(x)[:, None])


def _mean(x: Float[Array, "rows 64"]) -> Float[Array, " rows"]:
    """Mean of each row; as a matrix product, which XLA computes faster on CPUs than a sum."""
    return x @ jnp.full(_WIDTH, 1 / _WIDTH, x.dtype)


def linear(
    parameters: Parameters, name: str, x: Float[Array, "rows inputs"]
) -> Float[Array, "rows outputs"]:
    """A linear layer."""
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
