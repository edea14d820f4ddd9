"""Crystals, the padded batch that every stage passes on, and the geometry of periodic cells."""

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array


@flax.struct.dataclass
class Crystals:
    """A padded batch of B crystals with at most N atoms each.

    Attributes:
      lattice: [B, 3, 3] cell vectors as rows, in Angstrom (in units of the lattice scale inside
        the diffusion).
      frac_coords: [B, N, 3] fractional coordinates in [0, 1); arbitrary where `mask` is False.
      species: [B, N] int32 index into the model's vocabulary; arbitrary where `mask` is False.
      mask: [B, N] True for real atoms.
    """

    lattice: Array
    frac_coords: Array
    species: Array
    mask: Array


def wrap(frac_coords: Array) -> Array:
    """Maps fractional coordinates of any shape into [0, 1)."""
    wrapped = frac_coords - jnp.floor(frac_coords)
    # In float32 a tiny negative number gives exactly 1.0, which is the same point as 0.
    return jnp.where(wrapped >= 1.0, 0.0, wrapped)


def lattice_to_parameters(lattice: Array) -> tuple[Array, Array]:
    """Lengths [..., 3] in Angstrom and angles (alpha, beta, gamma) [..., 3] in degrees.

    Args:
      lattice: [..., 3, 3] cell vectors as rows.
    """
    lengths = jnp.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    cosines = jnp.sum(unit[..., [1, 2, 0], :] * unit[..., [2, 0, 1], :], axis=-1)
    return lengths, jnp.degrees(jnp.arccos(jnp.clip(cosines, -1.0, 1.0)))


def lattice_from_parameters(lengths: Array, angles: Array) -> Array:
    """Cell vectors as rows, [..., 3, 3], in pymatgen's orientation (c along z, a in the xz plane).

    Args:
      lengths: [..., 3] a, b, c in Angstrom.
      angles: [..., 3] alpha, beta, gamma in degrees.
    """
    cos_alpha, cos_beta, cos_gamma = jnp.moveaxis(jnp.cos(jnp.radians(angles)), -1, 0)
    sin_alpha, sin_beta, _ = jnp.moveaxis(jnp.sin(jnp.radians(angles)), -1, 0)
    cos_gamma_star = jnp.clip(
        (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta), -1.0, 1.0
    )
    sin_gamma_star = jnp.sqrt(1.0 - cos_gamma_star**2)
    zero = jnp.zeros_like(cos_alpha)
    unit = jnp.stack(
        [
            jnp.stack([sin_beta, zero, cos_beta], axis=-1),
            jnp.stack(
                [-sin_alpha * cos_gamma_star, sin_alpha * sin_gamma_star, cos_alpha], axis=-1
            ),
            jnp.stack([zero, zero, jnp.ones_like(cos_alpha)], axis=-1),
        ],
        axis=-2,
    )
    return unit * lengths[..., None]


def minimum_image_distances(lattice: Array, frac_coords: Array) -> Array:
    """Shortest periodic distance of every pair of atoms, [..., N, N], in Angstrom.

    The search covers the 27 neighbouring cells after wrapping differences to [-1/2, 1/2), which
    is exact for reduced cells. The diagonal is 0.

    Args:
      lattice: [..., 3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [..., N, 3] fractional coordinates.
    """
    difference = frac_coords[..., None, :, :] - frac_coords[..., :, None, :]
    difference = difference - jnp.round(difference)
    steps = jnp.arange(-1.0, 2.0)
    images = jnp.stack(jnp.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(27, 3)
    cartesian = jnp.einsum(
        "...ijmx,...xy->...ijmy",
        difference[..., None, :] + images,
        lattice,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.min(jnp.linalg.norm(cartesian, axis=-1), axis=-1)
