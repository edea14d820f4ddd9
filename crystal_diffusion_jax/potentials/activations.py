"""Activations that keep their slopes, which makes a gradient a product, without exponentials.

Forces are asked for at each step, so that the slopes are never computed in vain.
"""

import jax
from jax import Array
from jaxtyping import Float


@jax.custom_vjp
def silu(x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """x sigmoid(x)."""
    return _silu_and_slope(x)[0]


def _silu_and_slope(x: Array) -> tuple[Array, Array]:
    sigmoid = jax.nn.sigmoid(x)
    y = x * sigmoid
    return y, sigmoid + y - y * sigmoid


silu.defvjp(_silu_and_slope, lambda slope, cotangent: (cotangent * slope,))


@jax.custom_vjp
def gated(
    core: Float[Array, "rows columns"], gate: Float[Array, "rows columns"]
) -> Float[Array, "rows columns"]:
    """silu(core) sigmoid(gate)."""
    return _gated_and_slopes(core, gate)[0]


def _gated_and_slopes(core: Array, gate: Array) -> tuple[Array, tuple[Array, Array]]:
    y, slope = _silu_and_slope(core)
    sigmoid = jax.nn.sigmoid(gate)
    product = y * sigmoid
    return product, (slope * sigmoid, product - product * sigmoid)


gated.defvjp(
    _gated_and_slopes,
    lambda slopes, cotangent: (cotangent * slopes[0], cotangent * slopes[1]),
)
