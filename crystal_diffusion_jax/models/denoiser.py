"""The Transformer denoiser, paper eqs. (9)-(19)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.models.attention import CrystalAttention
from crystal_diffusion_jax.models.embeddings import (
    MLP,
    Condition,
    PropertyEmbedding,
    gram_features,
    pair_features,
    sinusoidal_time,
)
from crystal_diffusion_jax.models.neighbours import find_neighbours, virial


class Block(nn.Module):
    """Attention and MLP, each with a residual and a layer norm, eqs. (9), (10).

    Attributes:
      config: shape of the network.
    """

    config: DenoiserConfig

    @nn.compact
    def __call__(
        self, atoms: Array, pairs: Array, gram: Array, mask: Array, condition: Array | None
    ) -> Array:
        """[B, N, D] atom features -> [B, N, D]; arguments as in `CrystalAttention`."""
        config = self.config
        attention = CrystalAttention(
            config.width, config.num_heads, config.pair_hidden_width, config.activation
        )
        mlp = MLP(config.width, config.width, config.activation)
        norm_attention, norm_mlp = nn.LayerNorm(), nn.LayerNorm()
        if config.norm == "pre":
            atoms = atoms + attention(norm_attention(atoms), pairs, gram, mask, condition)
            return atoms + mlp(norm_mlp(atoms))
        atoms = norm_attention(attention(atoms, pairs, gram, mask, condition) + atoms)
        return norm_mlp(mlp(atoms) + atoms)


class Denoiser(nn.Module):
    """Predicts the noise in a batch of noisy crystals.

    Sees frac_coords through differences and the lattice through its Gram matrix, so a rotation of
    the cell, a shift of all atoms, integer shifts and the order of atoms cannot matter.

    Attributes:
      config: shape of the network.
      num_species: K, size of the vocabulary.
      quantiles: P times Q z-scored quantiles of the training data, for `num_rank_features`.
    """

    config: DenoiserConfig
    num_species: int
    quantiles: tuple[tuple[float, ...], ...] = ()

    @nn.compact
    def __call__(
        self, crystals: Crystals, t: Array, condition: Condition
    ) -> tuple[Array, Array, Array]:
        """Runs the network.

        Args:
          crystals: noisy batch, lattice in units of its scale.
          t: [B] int times in 1..T.
          condition: requested properties; ignored by conditioning "none".

        Returns:
          The noise of the lattice [B, 3, 3]; the scaled score of frac_coords [B, N, 3], not yet
          mean-free; the logits of the clean species [B, N, K].
        """
        config = self.config
        mask = crystals.mask
        time = embedded = sinusoidal_time(t, config.width)
        if config.conditioning != "none":
            embedding = PropertyEmbedding(
                config.width, config.num_rank_features, self.quantiles, name="property"
            )
            prop = embedding(condition)
            embedded = jnp.concatenate([embedded, prop], axis=-1)
        embedded = MLP(config.width, config.width, config.activation, name="condition")(embedded)

        one_hot = jax.nn.one_hot(crystals.species, self.num_species)
        atoms = MLP(config.width, config.width, config.activation, name="species")(one_hot)
        in_every_block = None
        if config.conditioning == "cds":
            in_every_block = embedded
        else:
            everywhere = jnp.broadcast_to(embedded[:, None], atoms.shape)
            atoms = jnp.concatenate([atoms, everywhere], axis=-1)
            atoms = MLP(config.width, config.width, config.activation, name="input")(atoms)

        pairs = pair_features(crystals.frac_coords, config.num_frequencies)
        gram = gram_features(crystals.lattice)
        if config.num_radial_features:
            neighbours = find_neighbours(
                crystals.frac_coords, crystals.lattice, mask, config.num_radial_features
            )
            pairs = jnp.concatenate([pairs, neighbours.pairs], axis=-1)
        if config.pair_time:
            gram = jnp.concatenate([gram, time], axis=-1)
        for index in range(config.num_blocks):
            block = Block(config, name=f"block_{index}")
            atoms = block(atoms, pairs, gram, mask, in_every_block)
        if config.norm == "pre":
            atoms = nn.LayerNorm(name="final_norm")(atoms)

        weight = mask[..., None].astype(atoms.dtype)
        crystal = jnp.sum(atoms * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)

        def head(name: str, features: int) -> MLP:
            return MLP(config.width, features, config.activation, name=name)

        phi = head("lattice_head", 9)(crystal).reshape(-1, 3, 3)
        score = head("score_head", 3)(atoms)
        if config.num_radial_features:
            # From nothing, as the first steps would be too large in noisy cells.
            zeros = nn.initializers.zeros
            stress = nn.Dense(config.num_radial_features, kernel_init=zeros, name="stress_head")(
                atoms
            )
            force = nn.Dense(config.num_radial_features, kernel_init=zeros, name="force_head")(
                atoms
            )
            phi += virial(stress, neighbours, crystals.lattice, mask)
            score += jnp.sum(force[..., None] * neighbours.pull, axis=2)
        lattice_eps = jnp.matmul(phi, crystals.lattice, precision=jax.lax.Precision.HIGHEST)
        logits = head("species_head", self.num_species)(atoms)
        return lattice_eps, score * weight, logits
