"""The activations of the potential against those of JAX."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax.potentials.activations import gated, silu


@pytest.mark.parametrize(
    ("function", "expected", "num_arguments"),
    [
        (silu, jax.nn.silu, 1),
        (gated, lambda core, gate: jax.nn.silu(core) * jax.nn.sigmoid(gate), 2),
    ],
)
def test_values_and_gradients_are_those_of_jax(
    function: Callable[..., Array], expected: Callable[..., Array], num_arguments: int
) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(rng.normal(0.0, 6.0, (50, 4))) for _ in range(num_arguments))
        weight = jnp.asarray(rng.normal(size=(50, 4)))

        def value_and_gradient(f: Callable[..., Array]) -> tuple[Array, tuple[Array, ...]]:
            everything = tuple(range(num_arguments))
            total = jax.value_and_grad(lambda *x: jnp.sum(weight * f(*x)), everything)(*arguments)
            return f(*arguments), total[1]

        value, gradient = value_and_gradient(function)
        value_of_jax, gradient_of_jax = value_and_gradient(expected)
        np.testing.assert_allclose(value, value_of_jax, rtol=1e-12)
        np.testing.assert_allclose(gradient, gradient_of_jax, rtol=1e-9, atol=1e-14)
