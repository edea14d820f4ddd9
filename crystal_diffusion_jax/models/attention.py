"""Self-attention over the atoms of a crystal with relative positions.

Paper eqs. (11), attention; (12), alpha; (13), beta; (17)-(19), a condition in q, k and v.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.models import products
from crystal_diffusion_jax.models.products import Pairs


class Kernel(nn.Module):
    """The weights of a linear layer without bias, whose product `models.products` computes.

    Attributes:
      shape: inputs and outputs.
    """

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Float[Array, "inputs outputs"]:
        """The weights."""
        kernel: Array = self.param("kernel", nn.initializers.lecun_normal(), self.shape)
        return kernel


class CrystalAttention(nn.Module):
    """Multi-head attention whose scores and values carry terms alpha_ij and beta_ij.

    out_i = sum_j softmax_j(q_i k_j / sqrt(d) + alpha_ij) (v_j + beta_ij), eq. (11), with alpha (one
    number per head) and beta (split over heads) MLPs of the pair's Fourier features and the
    crystal's Gram matrix, eqs. (12), (13). beta's last layer is linear and the weights sum to 1,
    so the hidden vectors can be averaged first and projected once per atom; the Gram matrix enters
    the first layer once per crystal. Both are exact and save most of the work over pairs.
    benchmarks/README.md lists the alternatives that were measured.

    The scores and the Gram matrix are float32, whatever the dtype of the activations.

    Attributes:
      config: shape of the network.
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
        """Attends once.

        Args:
          atoms: atom features.
          pairs: features of f_j - f_i.
          of_crystal: features that all pairs of a crystal share: the Gram matrix of the lattice.
          mask: real atoms; padding is never attended to.
          condition: added to q, k and v with separate weights, eqs. (17)-(19), or None.
        """
        config, width, dtype = self.config, self.config.width, jnp.dtype(self.config.dtype)
        num_crystals, num_atoms, _ = atoms.shape
        per_head = (num_crystals, num_atoms, config.num_heads, width // config.num_heads)

        qkv = nn.Dense(3 * width, dtype=dtype, name="qkv")(atoms)
        if condition is not None:
            of_condition = nn.Dense(3 * width, use_bias=False, dtype=dtype, name="qkv_condition")
            qkv += of_condition(condition)[:, None]
        query, key, value = (part.reshape(per_head) for part in jnp.split(qkv, 3, axis=-1))

        def hidden(name: str) -> Float[Array, "crystals atoms atoms hidden"]:
            """First layer of a pair MLP."""
            kernel = Kernel(
                (pairs.features.shape[-1], config.pair_hidden_width), name=f"{name}_pair"
            )
            crystal_part = nn.Dense(config.pair_hidden_width, name=f"{name}_gram")(of_crystal)
            return products.hidden_layer(pairs, kernel().astype(dtype), crystal_part.astype(dtype))

        # A bias of alpha would cancel in the softmax.
        alpha_kernel = Kernel((config.pair_hidden_width, config.num_heads), name="alpha")
        alpha = products.to_heads(hidden("alpha"), alpha_kernel().astype(dtype))
        similarity = jnp.einsum("bihd,bjhd->bijh", query, key).astype(jnp.float32)
        scores = similarity / jnp.sqrt(per_head[-1]) + alpha
        scores = jnp.where(mask[:, None, :, None], scores, -1e9)
        weights = jax.nn.softmax(scores, axis=2).astype(dtype)  # [B, N, N, H]

        beta_kernel = self.param(
            "beta_kernel",
            nn.initializers.lecun_normal(in_axis=1, out_axis=(0, 2)),
            (config.num_heads, config.pair_hidden_width, per_head[-1]),
        )
        beta_bias = self.param("beta_bias", nn.initializers.zeros, per_head[-2:])
        mean_hidden = products.mean_over_pairs(weights, hidden("beta"))
        mean = products.project_heads(mean_hidden, beta_kernel.astype(dtype))
        mean += jnp.einsum("bijh,bjhd->bihd", weights, value)
        out = (mean + beta_bias).reshape(num_crystals, num_atoms, width)
        return nn.Dense(width, dtype=dtype, name="out")(out)
