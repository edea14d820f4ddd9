"""Self-attention over the atoms of a crystal with relative positions.

Paper eqs. (11), attention; (12), alpha; (13), beta; (17)-(19), a condition in q, k and v.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

# Where the product of atoms and hidden width is at least this, beta's hidden vectors are averaged
# over the pairs before the last layer; below, that layer on every pair is faster
# (benchmarks/README.md).
AVERAGE_HIDDEN_FROM = 400
# With at least this many atoms, products of queries, keys and values run as batched matrix
# products; with fewer, multiply-and-sum is faster on CPUs (benchmarks/README.md).
BATCHED_PRODUCTS_FROM = 12


class CrystalAttention(nn.Module):
    """Multi-head attention whose scores and values carry terms alpha_ij and beta_ij.

    out_i = sum_j softmax_j(q_i k_j / sqrt(d) + alpha_ij) (v_j + beta_ij), eq. (11), with alpha (one
    number per head) and beta (split over heads) MLPs of the pair's Fourier features and the
    crystal's Gram matrix, eqs. (12), (13). beta's last layer is linear and the weights sum to 1,
    so the hidden vectors can be averaged first and projected once per atom; the Gram matrix enters
    the first layer once per crystal. Both are exact and save most of the work over pairs.
    benchmarks/README.md lists the alternatives that were measured.

    Attributes:
      width: D, a multiple of num_heads.
      num_heads: H.
      pair_hidden_width: hidden width of the pair MLPs.
    """

    width: int
    num_heads: int
    pair_hidden_width: int

    @nn.compact
    def __call__(
        self,
        atoms: Float[Array, "crystals atoms width"],
        pairs: Float[Array, "crystals atoms atoms pair_features"],
        of_crystal: Float[Array, "crystals crystal_features"],
        mask: Bool[Array, "crystals atoms"],
        condition: Float[Array, "crystals width"] | None,
    ) -> Float[Array, "crystals atoms width"]:
        """Attends once.

        Args:
          atoms: atom features.
          pairs: features of f_j - f_i, query i first.
          of_crystal: features that all pairs of a crystal share: the Gram matrix of the lattice.
          mask: real atoms; padding is never attended to.
          condition: added to q, k and v with separate weights, eqs. (17)-(19), or None.
        """
        num_crystals, num_atoms, _ = atoms.shape
        per_head = (num_crystals, num_atoms, self.num_heads, self.width // self.num_heads)

        qkv = nn.Dense(3 * self.width, name="qkv")(atoms)
        if condition is not None:
            qkv += nn.Dense(3 * self.width, use_bias=False, name="qkv_condition")(condition)[
                :, None
            ]
        query, key, value = (part.reshape(per_head) for part in jnp.split(qkv, 3, axis=-1))

        def hidden(name: str) -> Float[Array, "crystals atoms atoms hidden"]:
            """First layer of a pair MLP."""
            pair_part = nn.Dense(self.pair_hidden_width, use_bias=False, name=f"{name}_pair")(pairs)
            crystal_part = nn.Dense(self.pair_hidden_width, name=f"{name}_gram")(of_crystal)
            return nn.silu(pair_part + crystal_part[:, None, None])

        # A bias of alpha would cancel in the softmax.
        alpha = nn.Dense(self.num_heads, use_bias=False, name="alpha")(hidden("alpha"))
        batched = num_atoms >= BATCHED_PRODUCTS_FROM
        if batched:
            products = jnp.einsum("bihd,bjhd->bijh", query, key)
        else:
            products = jnp.sum(query[:, :, None] * key[:, None], axis=-1)
        scores = products / jnp.sqrt(per_head[-1]) + alpha
        scores = jnp.where(mask[:, None, :, None], scores, -1e9)
        weights = jax.nn.softmax(scores, axis=2)  # [B, N, N, H]

        beta_kernel = self.param(
            "beta_kernel",
            nn.initializers.lecun_normal(in_axis=1, out_axis=(0, 2)),
            (self.num_heads, self.pair_hidden_width, per_head[-1]),
        )
        beta_bias = self.param("beta_bias", nn.initializers.zeros, per_head[-2:])
        if num_atoms * self.pair_hidden_width < AVERAGE_HIDDEN_FROM:
            kernel = jnp.swapaxes(beta_kernel, 0, 1).reshape(self.pair_hidden_width, self.width)
            beta = (hidden("beta") @ kernel).reshape(*pairs.shape[:3], *per_head[-2:])
            mean = jnp.sum(weights[..., None] * (value[:, None] + beta), axis=2)
        else:
            mean_hidden = jnp.einsum("bijh,bijc->bihc", weights, hidden("beta"))
            mean = jnp.einsum("bihc,hcd->bihd", mean_hidden, beta_kernel)
            if batched:
                mean += jnp.einsum("bijh,bjhd->bihd", weights, value)
            else:
                mean += jnp.sum(weights[..., None] * value[:, None], axis=2)
        out = (mean + beta_bias).reshape(num_crystals, num_atoms, self.width)
        return nn.Dense(self.width, name="out")(out)
