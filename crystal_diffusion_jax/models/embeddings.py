"""Inputs of the denoiser: time, properties, Fourier features of atom pairs; and the MLP.

Paper eq. (14), `pair_features`, and the parts of eq. (15), `sinusoidal_time`, `PropertyEmbedding`.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

# Each property's z-scored quantiles in the training data, equally spaced in rank from 0 to 1.
Quantiles = tuple[tuple[float, ...], ...]


@flax.struct.dataclass
class Condition:
    """Requested properties of a batch.

    Attributes:
      values: z-scored numbers; of a property that is embedded by class (`PropertyEmbedding`) the
        number of the class; arbitrary but finite where `present` is False.
      present: True where a property is requested; elsewhere its null vector is used.
      species_given: True for crystals whose species are the clean ones at all times; None stands
        for none of them.
    """

    values: Float[Array, "crystals properties"]
    present: Bool[Array, "crystals properties"]
    species_given: Bool[Array, " crystals"] | None = None


class MLP(nn.Module):
    """Linear, SiLU, Linear.

    Attributes:
      hidden: width of the hidden layer.
      features: width of the output.
      dtype: of the activations; the weights are float32.
    """

    hidden: int
    features: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies both layers to the last axis."""
        hidden = nn.silu(nn.Dense(self.hidden, dtype=self.dtype)(inputs))
        return nn.Dense(self.features, dtype=self.dtype)(hidden)


def sinusoidal_time(t: Int[Array, " crystals"], width: int) -> Float[Array, "crystals width"]:
    """Sines and cosines of t at geometrically spaced frequencies; `width` is even.

    Reference: Vaswani et al., arXiv:1706.03762, section 3.5.
    """
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(width // 2) / (width // 2))
    angles = t[:, None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class PropertyEmbedding(nn.Module):
    """Sum over properties of Linear(value), or of a learned null vector where it is absent.

    The value of a class is its one-hot vector, as classes have no order.

    After a linear map alone, later layers need large weights to tell the few percent of crystals at
    either end of the range from their neighbours, so a linear map of `rank_features` can be added.

    Attributes:
      width: D.
      num_rank_features: 0, the paper's choice, disables them.
      quantiles: needed by `num_rank_features` only.
      one_hot_sizes: number of classes of each property, 0 for a number; () if all are numbers.
    """

    width: int
    num_rank_features: int = 0
    quantiles: Quantiles = ()
    one_hot_sizes: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, condition: Condition) -> Float[Array, "crystals width"]:
        """Embeds the requested properties."""
        shape = (condition.values.shape[1], self.width)
        inputs = [max(size, 1) for size in self.one_hot_sizes or (0,) * shape[0]]
        # One row for a number, one for each class.
        weight = self.param("weight", nn.initializers.normal(1.0), (sum(inputs), self.width))
        bias = self.param("bias", nn.initializers.zeros, shape)
        null = self.param("null", nn.initializers.normal(1.0), shape)
        if any(self.one_hot_sizes):
            parts = jnp.split(weight, np.cumsum(inputs)[:-1])
            products = [
                value[:, None] * part if size == 1 else part[value.astype(jnp.int32)]
                for value, part, size in zip(condition.values.T, parts, inputs, strict=True)
            ]
            embedded = jnp.stack(products, axis=1) + bias  # [B, P, D]
        else:
            embedded = condition.values[..., None] * weight + bias  # [B, P, D]
        if self.num_rank_features:
            # Zero at first, so that a network trained without ranks can be fine-tuned with them.
            by_rank = self.param(
                "by_rank", nn.initializers.zeros, (shape[0], self.num_rank_features, self.width)
            )
            ranks = rank_features(condition.values, self.quantiles, self.num_rank_features)
            if any(self.one_hot_sizes):
                ranks *= (np.array(self.one_hot_sizes) == 0)[:, None]
            embedded += jnp.einsum("bpr,prd->bpd", ranks, by_rank)
        return jnp.sum(jnp.where(condition.present[..., None], embedded, null), axis=1)


def rank_features(
    values: Float[Array, "crystals properties"], quantiles: Quantiles, num_features: int
) -> Float[Array, "crystals properties features"]:
    """cos(pi r u) for r = 1..num_features, where u is the share of the training data below a value.

    u is interpolated linearly between the quantiles, and constant beyond the outermost. A value
    that many crystals share, and that several quantiles therefore equal, has their mean rank.
    """
    columns = []
    for p, row in enumerate(quantiles):
        knots, knot = np.unique(np.array(row, np.float32), return_inverse=True)
        ranks = np.bincount(knot, np.linspace(0.0, 1.0, len(row))) / np.bincount(knot)
        columns.append(
            jnp.interp(values[:, p], jnp.asarray(knots), jnp.asarray(ranks, knots.dtype))
        )
    u = jnp.stack(columns, axis=1)
    return jnp.cos(jnp.pi * u[..., None] * jnp.arange(1, num_features + 1))


def stored(array: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers, computed once and stored instead of fused into what uses them.

    XLA's CPU compiler fuses elementwise operations into their consumers and drops optimisation
    barriers, so it would evaluate per-atom sines and cosines (and the noise before them) again for
    every pair. A product with the identity matrix, which is exact, cannot be fused.
    """
    return jnp.matmul(array, jnp.eye(array.shape[-1]), precision=jax.lax.Precision.HIGHEST)


def pair_features(
    frac_coords: Float[Array, "crystals atoms 3"], num_frequencies: int
) -> Float[Array, "crystals atoms atoms 6*{num_frequencies}"]:
    """psi(f_j - f_i): sines and cosines of 2 pi m (f_j - f_i) for m = 1..M per axis, eq. (14).

    The query i comes first: result[:, i, j] describes f_j - f_i, all sines before all cosines. By
    the angle addition theorems only per-atom sines and cosines are evaluated; the pairs are
    products.
    """
    orders = jnp.arange(1, num_frequencies + 1, dtype=frac_coords.dtype)
    angles = 2.0 * jnp.pi * frac_coords[..., None] * orders  # [B, N, 3, M]
    angles = angles.reshape(*frac_coords.shape[:2], 3 * num_frequencies)
    sin, cos = stored(jnp.sin(angles)), stored(jnp.cos(angles))
    sin_i, cos_i, sin_j, cos_j = sin[:, :, None], cos[:, :, None], sin[:, None], cos[:, None]
    return jnp.concatenate([sin_j * cos_i - cos_j * sin_i, cos_j * cos_i + sin_j * sin_i], axis=-1)


def gram_features(lattice: Float[Array, "crystals 3 3"]) -> Float[Array, "crystals 6"]:
    """The distinct entries of the Gram matrix lattice @ lattice^T, the paper's L^T L."""
    gram = jnp.matmul(lattice, jnp.swapaxes(lattice, 1, 2), precision=jax.lax.Precision.HIGHEST)
    rows, columns = jnp.triu_indices(3)
    return gram[:, rows, columns]
