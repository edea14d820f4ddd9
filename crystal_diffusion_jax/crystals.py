"""Crystals: the padded batch that all stages exchange."""

import flax.struct
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


@flax.struct.dataclass
class Crystals:
    """A padded batch of crystals.

    Attributes:
      lattice: cell vectors as rows, in Angstrom (inside the diffusion, in units of the lattice
        scale).
      frac_coords: fractional coordinates in [0, 1); arbitrary where `mask` is False.
      species: index into the model's vocabulary; arbitrary where `mask` is False.
      mask: True for real atoms.
    """

    lattice: Float[Array, "crystals 3 3"]
    frac_coords: Float[Array, "crystals atoms 3"]
    species: Int[Array, "crystals atoms"]
    mask: Bool[Array, "crystals atoms"]


def wrap(frac_coords: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Maps fractional coordinates into [0, 1)."""
    wrapped = frac_coords - jnp.floor(frac_coords)
    # In float32 a tiny negative number gives exactly 1.0, which is the same point as 0.
    return jnp.where(wrapped >= 1.0, 0.0, wrapped)
