"""The attention as written in the paper, pair by pair: the baseline for the efficient form.

Same parameters, same results as `models.attention.CrystalAttention` to rounding.
"""

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.models import denoiser
from crystal_diffusion_jax.models.products import Pairs


@contextlib.contextmanager
def used() -> Iterator[None]:
    """Networks that are traced here attend pair by pair."""
    with (
        patch.object(denoiser, "CrystalAttention", CrystalAttention),
        patch.object(denoiser, "pair_features", plain_pair_features),
    ):
        yield


def plain_pair_features(
    frac_coords: Float[Array, "crystals atoms 3"], num_frequencies: int
) -> Float[Array, "crystals atoms atoms features"]:
    """Sines, then cosines of every difference f_j - f_i, eq. (14)."""
    orders = jnp.arange(1, num_frequencies + 1, dtype=frac_coords.dtype)
    difference = frac_coords[:, None] - frac_coords[:, :, None]
    angles = 2.0 * jnp.pi * difference[..., None] * orders  # [B, N, N, 3, M]
    angles = angles.reshape(*difference.shape[:3], 3 * num_frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class CrystalAttention(nn.Module):
    """alpha_ij and beta_ij as MLPs of [psi(f_j - f_i), Gram] for every pair, eqs. (11)-(13).

    Attribute and arguments are those of the efficient form, and its name, from which flax makes
    the names of the parameters. Always float32, whatever the dtype.
    """

    config: DenoiserConfig

    @nn.compact
    def __call__(
        self,
        atoms: Float[Array, "crystals atoms width"],
        pairs: Pairs,
        of_crystal: Float[Array, "crystals crystal_features"],
        mask: Bool[Array, "crystals atoms"],
        condition: Float[Array, "crystals width"] | None,
    ) -> Float[Array, "crystals atoms width"]:
        """Attends once."""
        config, width, features = self.config, self.config.width, pairs.features
        num_crystals, num_atoms, _ = atoms.shape
        per_head = width // config.num_heads
        qkv = nn.Dense(3 * width, name="qkv")(atoms)
        if condition is not None:
            shift = nn.Dense(3 * width, use_bias=False, name="qkv_condition")(condition)
            qkv += shift[:, None]
        query, key, value = (
            part.reshape(num_crystals, num_atoms, config.num_heads, per_head)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        every_pair = jnp.broadcast_to(
            of_crystal[:, None, None], (*features.shape[:3], of_crystal.shape[-1])
        )

        def hidden(name: str) -> Array:
            pair_part = nn.Dense(config.pair_hidden_width, use_bias=False, name=f"{name}_pair")(
                features
            )
            crystal_part = nn.Dense(config.pair_hidden_width, name=f"{name}_gram")(every_pair)
            return nn.silu(pair_part + crystal_part)

        alpha = nn.Dense(config.num_heads, use_bias=False, name="alpha")(hidden("alpha"))
        beta_kernel = self.param(
            "beta_kernel",
            nn.initializers.lecun_normal(in_axis=1, out_axis=(0, 2)),
            (config.num_heads, config.pair_hidden_width, per_head),
        )
        beta_bias = self.param("beta_bias", nn.initializers.zeros, (config.num_heads, per_head))
        projection = jnp.swapaxes(beta_kernel, 0, 1).reshape(config.pair_hidden_width, width)
        beta = (hidden("beta") @ projection).reshape(
            *features.shape[:3], config.num_heads, per_head
        )
        scores = jnp.einsum("bihd,bjhd->bijh", query, key) / jnp.sqrt(per_head) + alpha
        weights = jax.nn.softmax(jnp.where(mask[:, None, :, None], scores, -1e9), axis=2)
        out = jnp.einsum("bijh,bijhd->bihd", weights, value[:, None] + beta + beta_bias)
        return nn.Dense(width, name="out")(out.reshape(num_crystals, num_atoms, width))
