"""Inputs of the denoiser: time, properties, Fourier features of atom pairs; and the MLP."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ACTIVATIONS = {"silu": nn.silu, "gelu": nn.gelu, "relu": nn.relu}


@flax.struct.dataclass
class Condition:
    """Requested properties of a batch.

    Attributes:
      values: [B, P] z-scored property values; arbitrary where `present` is False.
      present: [B, P] True where a property is asked for; elsewhere its null vector stands in.
    """

    values: Array
    present: Array


class MLP(nn.Module):
    """Linear, activation, Linear: [..., D_in] -> [..., features].

    Attributes:
      hidden: width of the hidden layer.
      features: width of the output.
      activation: key of `ACTIVATIONS`.
    """

    hidden: int
    features: int
    activation: str = "silu"

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Applies both layers to the last axis."""
        hidden = ACTIVATIONS[self.activation](nn.Dense(self.hidden)(inputs))
        return nn.Dense(self.features)(hidden)


def sinusoidal_time(t: Array, width: int) -> Array:
    """[B] integer times -> [B, width] sines and cosines of geometrically spaced frequencies.

    Reference: Vaswani et al., arXiv:1706.03762, section 3.5.
    """
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(width // 2) / (width // 2))
    angles = t[:, None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class PropertyEmbedding(nn.Module):
    """Sum over properties of Linear(value), or of a learned null vector where it is absent.

    A linear map tells the few percent of crystals at an end of the range from their neighbours
    only by large weights further on; with `num_cosines`, cosines of the value's rank are added.

    Attributes:
      width: D.
      num_cosines: R, cosines of the rank; 0, the paper's, does without.
      quantiles: P times Q ascending z-scored quantiles of the training data, equally spaced in
        rank from 0 to 1; needed with `num_cosines` only.
    """

    width: int
    num_cosines: int = 0
    quantiles: tuple[tuple[float, ...], ...] = ()

    @nn.compact
    def __call__(self, condition: Condition) -> Array:
        """[B, P] values -> [B, D]."""
        shape = (condition.values.shape[1], self.width)
        weight = self.param("weight", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        null = self.param("null", nn.initializers.normal(1.0), shape)
        embedded = condition.values[..., None] * weight + bias  # [B, P, D]
        if self.num_cosines:
            # From nothing, so that a network that was trained without them can go on with them.
            by_rank = self.param(
                "by_rank", nn.initializers.zeros, (shape[0], self.num_cosines, self.width)
            )
            cosines = rank_cosines(condition.values, self.quantiles, self.num_cosines)
            embedded += jnp.einsum("bpr,prd->bpd", cosines, by_rank)
        return jnp.sum(jnp.where(condition.present[..., None], embedded, null), axis=1)


def rank_cosines(
    values: Array, quantiles: tuple[tuple[float, ...], ...], num_cosines: int
) -> Array:
    """cos(pi r u) for r = 1..R, u the share of the training data below each value.

    u is read off the quantiles, linearly in between; it stays that of the nearest beyond them. A
    value that many crystals share, which is several quantiles at once, has their mean rank.

    Args:
      values: [B, P] z-scored.
      quantiles: P times Q, equally spaced in u from 0 to 1.
      num_cosines: R.

    Returns:
      [B, P, R].
    """
    columns = []
    for p, row in enumerate(quantiles):
        knots, knot = np.unique(np.array(row, np.float32), return_inverse=True)
        ranks = np.bincount(knot, np.linspace(0.0, 1.0, len(row))) / np.bincount(knot)
        columns.append(
            jnp.interp(values[:, p], jnp.asarray(knots), jnp.asarray(ranks, knots.dtype))
        )
    u = jnp.stack(columns, axis=1)
    return jnp.cos(jnp.pi * u[..., None] * jnp.arange(1, num_cosines + 1))


def stored(array: Array) -> Array:
    """The same numbers, computed once per atom.

    XLA's CPU compiler fuses whatever is elementwise into its consumer and drops optimisation
    barriers, so it would evaluate sines and cosines (and the noise behind them) anew for every
    pair. A product with the identity matrix, which is exact, cannot be fused.
    """
    return jnp.matmul(array, jnp.eye(array.shape[-1]), precision=jax.lax.Precision.HIGHEST)


def pair_features(frac_coords: Array, num_frequencies: int) -> Array:
    """psi(f_j - f_i): sines and cosines of 2 pi m (f_j - f_i) for m = 1..M per axis, eq. (14).

    The query i comes first: result[:, i, j] describes the difference f_j - f_i. By the angle
    addition theorems only per-atom sines and cosines are evaluated; the pairs are products.

    Args:
      frac_coords: [B, N, 3].
      num_frequencies: M.

    Returns:
      [B, N, N, 6 M], first all sines, then all cosines.
    """
    orders = jnp.arange(1, num_frequencies + 1, dtype=frac_coords.dtype)
    angles = 2.0 * jnp.pi * frac_coords[..., None] * orders  # [B, N, 3, M]
    angles = angles.reshape(*frac_coords.shape[:2], 3 * num_frequencies)
    sin, cos = stored(jnp.sin(angles)), stored(jnp.cos(angles))
    sin_i, cos_i, sin_j, cos_j = sin[:, :, None], cos[:, :, None], sin[:, None], cos[:, None]
    return jnp.concatenate([sin_j * cos_i - cos_j * sin_i, cos_j * cos_i + sin_j * sin_i], axis=-1)


def gram_features(lattice: Array) -> Array:
    """[B, 3, 3] lattice (rows) -> [B, 6] distinct entries of lattice @ lattice^T."""
    gram = jnp.matmul(lattice, jnp.swapaxes(lattice, 1, 2), precision=jax.lax.Precision.HIGHEST)
    rows, columns = jnp.triu_indices(3)
    return gram[:, rows, columns]
