"""The products over pairs of atoms, with gradients that CPUs compute fast.

XLA's CPU compiler hands a product to its fast kernels only if the last axis of the first factor is
summed over, and the gradients that automatic differentiation makes sum over its rows, with axes
8 wide where they come first: a fifth to a half of the speed (benchmarks/README.md). So gradients
are written out here, with the factors stored in the order needed or with the narrow one first.
Values and gradients are those of the plain expressions.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def _stored(transposed: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers in memory in this order; otherwise XLA folds it into the product again."""
    return jax.lax.optimization_barrier(transposed)


@flax.struct.dataclass
class Pairs:
    """Features of all pairs of atoms, in both orders; they depend on no weights.

    Attributes:
      features: query i first.
      columns: the same with the features first, for the gradient of the weights.
    """

    features: Float[Array, "crystals atoms atoms features"]
    columns: Float[Array, "features pairs"]


def as_pairs(features: Float[Array, "crystals atoms atoms features"]) -> Pairs:
    """The features in both orders."""
    return Pairs(features, _stored(features.reshape(-1, features.shape[-1]).T))


@jax.custom_vjp
def hidden_layer(
    pairs: Pairs,
    kernel: Float[Array, "features hidden"],
    of_crystal: Float[Array, "crystals hidden"],
) -> Float[Array, "crystals atoms atoms hidden"]:
    """silu(features @ kernel + of_crystal)."""
    return nn.silu(pairs.features @ kernel + of_crystal[:, None, None])


def _hidden_layer(
    pairs: Pairs,
    kernel: Float[Array, "features hidden"],
    of_crystal: Float[Array, "crystals hidden"],
) -> tuple[Array, tuple[Pairs, Array, Array, Array]]:
    product = pairs.features @ kernel
    hidden = nn.silu(product + of_crystal[:, None, None])
    return hidden, (pairs, kernel, product, of_crystal)


def _hidden_layer_gradient(
    residuals: tuple[Pairs, Array, Array, Array],
    gradient: Float[Array, "crystals atoms atoms hidden"],
) -> tuple[Pairs, Array, Array]:
    pairs, kernel, product, of_crystal = residuals
    num_crystals, num_atoms, _, width = gradient.shape
    # Evaluated again rather than read from memory, which takes as long.
    x = product + of_crystal[:, None, None]
    sigmoid = jax.nn.sigmoid(x)
    gradient *= sigmoid * (1.0 + x * (1.0 - sigmoid))
    by_pair = gradient.reshape(-1, width)
    by_crystal = gradient.reshape(num_crystals, num_atoms**2, width)
    # A product with ones sums faster than a reduction; with two rows of them, as XLA does not take
    # its fast kernels for a vector times the matrix of a lone crystal.
    of_crystal_gradient = jnp.ones((num_crystals, 2, num_atoms**2), gradient.dtype) @ by_crystal
    features_gradient = Pairs(gradient @ kernel.T, jnp.zeros_like(pairs.columns))
    return features_gradient, pairs.columns @ by_pair, of_crystal_gradient[:, 0]


hidden_layer.defvjp(_hidden_layer, _hidden_layer_gradient)


@jax.custom_vjp
def to_heads(
    hidden: Float[Array, "crystals atoms atoms hidden"], kernel: Float[Array, "hidden heads"]
) -> Float[Array, "crystals atoms atoms heads"]:
    """hidden @ kernel, with fewer heads than hidden features."""
    return hidden @ kernel


def _to_heads_gradient(
    residuals: tuple[Array, Array], gradient: Float[Array, "crystals atoms atoms heads"]
) -> tuple[Array, Array]:
    hidden, kernel = residuals
    rows = gradient.reshape(-1, gradient.shape[-1])
    transposed = rows.T @ hidden.reshape(-1, hidden.shape[-1])
    return gradient @ kernel.T, _stored(transposed).T


to_heads.defvjp(
    lambda hidden, kernel: (to_heads(hidden, kernel), (hidden, kernel)), _to_heads_gradient
)


@jax.custom_vjp
def mean_over_pairs(
    weights: Float[Array, "crystals atoms atoms heads"],
    hidden: Float[Array, "crystals atoms atoms hidden"],
) -> Float[Array, "crystals atoms heads hidden"]:
    """sum_j weights_ij hidden_ij, for each head."""
    by_head = _stored(jnp.swapaxes(weights, 2, 3))
    return jnp.einsum("bihj,bijc->bihc", by_head, hidden)


def _mean_over_pairs_gradient(
    residuals: tuple[Array, Array], gradient: Float[Array, "crystals atoms heads hidden"]
) -> tuple[Array, Array]:
    weights, hidden = residuals
    return (
        jnp.einsum("bihc,bijc->bijh", gradient, hidden),
        jnp.einsum("bijh,bihc->bijc", weights, gradient),
    )


mean_over_pairs.defvjp(
    lambda weights, hidden: (mean_over_pairs(weights, hidden), (weights, hidden)),
    _mean_over_pairs_gradient,
)


@jax.custom_vjp
def project_heads(
    mean: Float[Array, "crystals atoms heads hidden"],
    kernel: Float[Array, "heads hidden per_head"],
) -> Float[Array, "crystals atoms heads per_head"]:
    """Each head's mean times the matrix of that head."""
    return _project_heads(mean, kernel)[0]


def _project_heads(
    mean: Float[Array, "crystals atoms heads hidden"],
    kernel: Float[Array, "heads hidden per_head"],
) -> tuple[Array, tuple[Array, Array]]:
    rows = _heads_first(mean)
    return _heads_inside(rows @ kernel, len(mean)), (rows, kernel)


def _project_heads_gradient(
    residuals: tuple[Array, Array], gradient: Float[Array, "crystals atoms heads per_head"]
) -> tuple[Array, Array]:
    rows, kernel = residuals
    by_head = _heads_first(gradient)
    transposed = _stored(jnp.einsum("hrd,hrc->hdc", by_head, rows))
    mean_gradient = by_head @ _stored(jnp.swapaxes(kernel, 1, 2))
    return _heads_inside(mean_gradient, len(gradient)), jnp.swapaxes(transposed, 1, 2)


project_heads.defvjp(_project_heads, _project_heads_gradient)


def _heads_first(
    array: Float[Array, "crystals atoms heads features"],
) -> Float[Array, "heads rows features"]:
    num_crystals, num_atoms, num_heads, width = array.shape
    rows = array.reshape(num_crystals * num_atoms, num_heads, width)
    return _stored(jnp.swapaxes(rows, 0, 1))


def _heads_inside(
    rows: Float[Array, "heads rows features"], num_crystals: int
) -> Float[Array, "crystals atoms heads features"]:
    num_heads, _, width = rows.shape
    return jnp.swapaxes(rows, 0, 1).reshape(num_crystals, -1, num_heads, width)
