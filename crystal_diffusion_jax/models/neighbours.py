"""Distances and directions to the periodic images of every atom, as smooth features of pairs.

Not in the paper, where a pair has the Fourier features of f_j - f_i and the Gram matrix of the
lattice, and must learn distances from them. With these features, forces along bonds and their
virial, which is what corrects a lattice, are linear in the features.
"""

import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from crystal_diffusion_jax.models.embeddings import stored

# Largest distance, in units of (lattice scale / N^(1/3)), which is 2 to 3 Angstrom.
CUTOFF = 2.2
# The nearest image of each pair and the 26 around it.
_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)), np.float32)
# The six distinct products of two components, and their places in a symmetric matrix.
_FIRST, _SECOND = np.triu_indices(3)
_SYMMETRIC = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
# [27, 10] sums over the images k of a function: alone, times k, times products of k's components.
_SUMS = np.concatenate(
    [np.ones((len(_IMAGES), 1), np.float32), _IMAGES, _IMAGES[:, _FIRST] * _IMAGES[:, _SECOND]],
    axis=1,
)


@flax.struct.dataclass
class Neighbours:
    """The surroundings of atoms in M shells of distance.

    With d = f_j - f_i wrapped into [-1/2, 1/2], the images are u = N^(1/3) (d + k) for k in
    {-1, 0, 1}^3 at distances r = |u lattice|, and the shells R_m(r) = max(0, 1 - ((r - c_m)/w)^2)^2
    around equally spaced c_m up to `CUTOFF`. Everything depends on the lattice through its Gram
    matrix, hence not on the cell's orientation. The sums per atom, over all j and k, are divided by
    1 + 2 c_m^2 + sum R_m, so that they stay of order 1 in the dense cells of pure noise.

    Attributes:
      pairs: sum_k R_m(r) and sum_k R_m(r) u; 4 M features.
      pull: sum R_m(r) u: a force along the bonds, in lattice coordinates.
      strain: sum R_m(r) u u^T / c_m^2: its virial, upper triangle.
    """

    pairs: Float[Array, "crystals atoms atoms features"]
    pull: Float[Array, "crystals atoms shells 3"]
    strain: Float[Array, "crystals atoms shells 6"]


def find_neighbours(
    frac_coords: Float[Array, "crystals atoms 3"],
    lattice: Float[Array, "crystals 3 3"],
    mask: Bool[Array, "crystals atoms"],
    num_radial_features: int,
) -> Neighbours:
    """Sums over pairs and their periodic images, in M = `num_radial_features` shells.

    The lattice is in units of its scale, which must grow as N^(1/3).
    """
    unit = jnp.cbrt(jnp.sum(mask, axis=1, dtype=lattice.dtype))[:, None, None, None]
    lattice = lattice * unit[..., 0]
    gram = jnp.matmul(lattice, jnp.swapaxes(lattice, 1, 2), precision=jax.lax.Precision.HIGHEST)
    gram = gram[:, None, None]
    difference = frac_coords[:, None] - frac_coords[:, :, None]  # [B, i, j, 3]
    nearest = difference - jnp.round(difference)
    # |d + k|^2 in the metric of the Gram matrix, [B, i, j, 27].
    along = jnp.sum(nearest[..., None] * gram, axis=-2)
    of_images = jnp.sum(_IMAGES[:, :, None] * _IMAGES[:, None] * gram[:, :, :, None], axis=(-2, -1))
    squared = (
        jnp.sum(nearest * along, axis=-1, keepdims=True)
        + jnp.sum(2.0 * along[..., None, :] * _IMAGES, axis=-1)
        + of_images
    )
    distance = stored(jnp.sqrt(jnp.maximum(squared, 0.0)))
    spacing = CUTOFF / num_radial_features
    centres = spacing * jnp.arange(1, num_radial_features + 1)
    steps = (distance[..., None, :] - centres[:, None]) / (1.5 * spacing)  # [B, i, j, M, 27]
    radial = jnp.square(jnp.maximum(0.0, 1.0 - jnp.square(steps)))
    summed = jnp.matmul(radial, jnp.asarray(_SUMS), precision=jax.lax.Precision.HIGHEST)
    count, first, second = summed[..., :1], summed[..., 1:4], summed[..., 4:]  # [B, i, j, M, _]
    near = nearest[..., None, :]
    direction = near * count + first
    # sum_k R (d + k)(d + k)^T, from the sums over k.
    product = near[..., _FIRST] * direction[..., _SECOND] + near[..., _SECOND] * first[..., _FIRST]
    product += second
    pairs = jnp.concatenate([count, unit[..., None] * direction], axis=-1)
    real = mask[:, None, :, None, None].astype(lattice.dtype)
    squared_centres = jnp.square(centres)[:, None]
    share = 1.0 / (1.0 + 2.0 * squared_centres + jnp.sum(real * count, axis=2))  # [B, i, M, 1]
    return Neighbours(
        pairs=pairs.reshape(*nearest.shape[:3], 4 * num_radial_features),
        pull=share * unit * jnp.sum(real * direction, axis=2),
        strain=share * jnp.square(unit) / squared_centres * jnp.sum(real * product, axis=2),
    )


def virial(
    weight: Float[Array, "crystals atoms shells"],
    neighbours: Neighbours,
    lattice: Float[Array, "crystals 3 3"],
    mask: Bool[Array, "crystals atoms"],
) -> Float[Array, "crystals 3 3"]:
    """The strain of the cell that forces along bonds exert, averaged over real atoms.

    The forces' virial, sum w r r^T over Cartesian bonds r, changes the lattice L by L sum w r r^T;
    with r = u L that is (L L^T) (sum w u u^T) L. The result is to be multiplied by the last L.
    """
    weight = weight * mask[..., None]
    number = jnp.maximum(jnp.sum(mask, axis=1, dtype=lattice.dtype), 1.0)
    entries = jnp.einsum("bnm,bnmp->bp", weight, neighbours.strain) / number[:, None]
    gram = jnp.matmul(lattice, jnp.swapaxes(lattice, 1, 2), precision=jax.lax.Precision.HIGHEST)
    return jnp.matmul(gram, entries[:, _SYMMETRIC], precision=jax.lax.Precision.HIGHEST)
