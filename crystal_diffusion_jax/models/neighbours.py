"""Distances and directions to the periodic images of every atom, as smooth features of pairs.

Not in the paper, whose pairs know the Fourier features of f_j - f_i and the Gram matrix of the
lattice, from which distances would have to be learnt.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax.models.embeddings import stored

# Longest distance seen, in units of (lattice scale / N^(1/3)), which is 2 to 3 Angstrom.
CUTOFF = 2.2
# The nearest image of each pair and the 26 around it.
_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)), np.float32)
# [27, 4] sums over the images of a function, and of the function times the image.
_SUMS = np.concatenate([np.ones((len(_IMAGES), 1), np.float32), _IMAGES], axis=1)


def neighbour_features(frac_coords: Array, lattice: Array, mask: Array, num_radial: int) -> Array:
    """For every pair sums over images of radial functions, alone and times the direction.

    With d = f_j - f_i wrapped into [-1/2, 1/2), images d + k with k in {-1, 0, 1}^3 and distances
    r = N^(1/3) |(d + k) lattice|, the features are sum_k R_m(r) and sum_k R_m(r) N^(1/3) (d + k),
    where R_m(r) = max(0, 1 - ((r - c_m) / w)^2)^2 and c_m are equally spaced up to `CUTOFF`. They
    depend on the lattice through its Gram matrix, hence not on the cell's orientation.

    Args:
      frac_coords: [B, N, 3].
      lattice: [B, 3, 3] in units of its scale, which grows as N^(1/3).
      mask: [B, N] real atoms.
      num_radial: M, radial functions.

    Returns:
      [B, N, N, 4 M].
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
    spacing = CUTOFF / num_radial
    centres = spacing * jnp.arange(1, num_radial + 1)
    steps = (distance[..., None, :] - centres[:, None]) / (1.5 * spacing)  # [B, i, j, M, 27]
    radial = jnp.square(jnp.maximum(0.0, 1.0 - jnp.square(steps)))
    summed = jnp.matmul(
        radial, jnp.asarray(_SUMS), precision=jax.lax.Precision.HIGHEST
    )  # [B, i, j, M, 4]
    directions = unit[..., None] * (nearest[..., None, :] * summed[..., :1] + summed[..., 1:])
    features = jnp.concatenate([summed[..., :1], directions], axis=-1)
    return features.reshape(*nearest.shape[:3], 4 * num_radial)
