"""The Transformer denoiser.

Paper eqs. (9), (10), `Block`; (15), (16) and the heads, `Denoiser`. Attention, eqs. (11)-(13) and
(17)-(19), is in `models.attention`, the inputs, eqs. (14), (15), in `models.embeddings`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.models.attention import CrystalAttention
from crystal_diffusion_jax.models.embeddings import (
    MLP,
    Condition,
    PropertyEmbedding,
    Quantiles,
    gram_features,
    pair_features,
    sinusoidal_time,
)
from crystal_diffusion_jax.models.neighbours import find_neighbours, virial
from crystal_diffusion_jax.models.products import Pairs, as_pairs


class Block(nn.Module):
    """Attention and MLP, each with a residual connection and a layer norm, eqs. (9), (10).

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
        """Updates the atom features; arguments as in `CrystalAttention`."""
        width, dtype = self.config.width, jnp.dtype(self.config.dtype)
        attended = CrystalAttention(self.config)(atoms, pairs, of_crystal, mask, condition)
        atoms = nn.LayerNorm(dtype=dtype)(attended + atoms)
        return nn.LayerNorm(dtype=dtype)(MLP(width, width, dtype)(atoms) + atoms)


class Denoiser(nn.Module):
    """Predicts the noise in a batch of noisy crystals.

    Sees frac_coords through differences and the lattice through its Gram matrix, so a rotation of
    the cell, a shift of all atoms, integer shifts and the order of atoms cannot matter.

    A new conditioning takes two edits: its name in `config.CONDITIONINGS`, and its branch below.

    Attributes:
      config: shape of the network.
      num_species: K, size of the vocabulary.
      quantiles: of the training data, for `num_rank_features`.
      one_hot_sizes: see `PropertyEmbedding`.
      knows_given_species: whether it is told of which crystals the species are given.
    """

    config: DenoiserConfig
    num_species: int
    quantiles: Quantiles = ()
    one_hot_sizes: tuple[int, ...] = ()
    knows_given_species: bool = False

    @nn.compact
    def __call__(
        self, crystals: Crystals, t: Int[Array, " crystals"], condition: Condition
    ) -> tuple[
        Float[Array, "crystals 3 3"],
        Float[Array, "crystals atoms 3"],
        Float[Array, "crystals atoms species"],
    ]:
        """Runs the network.

        Args:
          crystals: noisy batch, lattice in units of its scale.
          t: times in 1..T.
          condition: requested properties; ignored by conditioning "none".

        Returns:
          The noise of the lattice; the scaled score of frac_coords, not yet mean-free; the logits
          of the clean species.
        """
        config, width = self.config, self.config.width
        mask = crystals.mask
        time = sinusoidal_time(t, width)
        requested = time
        if self.knows_given_species:
            # Zero at first, so that a network trained without it can be fine-tuned with it.
            given = self.param("species_given", nn.initializers.zeros, (width,))
            if condition.species_given is not None:
                requested += condition.species_given[:, None] * given
        if config.conditioning != "none":
            embedding = PropertyEmbedding(
                width,
                config.num_rank_features,
                self.quantiles,
                self.one_hot_sizes,
                name="property",
            )
            requested = jnp.concatenate([requested, embedding(condition)], axis=-1)
        z_c = MLP(width, width, name="condition")(requested)  # eq. (15)
        one_hot = jax.nn.one_hot(crystals.species, self.num_species)
        atoms = MLP(width, width, name="species")(one_hot)

        # How the condition z_c reaches the atoms: with the input or in every block.
        in_every_block = None
        if config.conditioning in ("cdi", "none"):  # eq. (16); "none" has the time only
            everywhere = jnp.broadcast_to(z_c[:, None], atoms.shape)
            joined = jnp.concatenate([atoms, everywhere], axis=-1)
            atoms = MLP(width, width, name="input")(joined)
        elif config.conditioning == "cds":  # eqs. (17)-(19)
            in_every_block = z_c
        else:
            raise ValueError(f"conditioning {config.conditioning!r} is not implemented")

        features = pair_features(crystals.frac_coords, config.num_frequencies)
        of_crystal = gram_features(crystals.lattice)
        if config.num_radial_features:
            neighbours = find_neighbours(
                crystals.frac_coords, crystals.lattice, mask, config.num_radial_features
            )
            features = jnp.concatenate([features, neighbours.pairs], axis=-1)
            of_crystal = jnp.concatenate([of_crystal, time], axis=-1)
        pairs, atoms = as_pairs(features.astype(config.dtype)), atoms.astype(config.dtype)
        for index in range(config.num_blocks):
            block = Block(config, name=f"block_{index}")
            atoms = block(atoms, pairs, of_crystal, mask, in_every_block)
        atoms = atoms.astype(jnp.float32)

        weight = mask[..., None].astype(atoms.dtype)
        crystal = jnp.sum(atoms * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
        phi = MLP(width, 9, name="lattice_head")(crystal).reshape(-1, 3, 3)
        score = MLP(width, 3, name="score_head")(atoms)
        if config.num_radial_features:

            def shell_weights(name: str) -> Float[Array, "crystals atoms shells"]:
                # Zero at first, as random forces would be too large in noisy cells.
                zeros = nn.initializers.zeros
                return nn.Dense(config.num_radial_features, kernel_init=zeros, name=name)(atoms)

            stress, force = shell_weights("stress_head"), shell_weights("force_head")
            phi += virial(stress, neighbours, crystals.lattice, mask)
            score += jnp.sum(force[..., None] * neighbours.pull, axis=2)
        lattice_eps = jnp.matmul(phi, crystals.lattice, precision=jax.lax.Precision.HIGHEST)
        logits = MLP(width, self.num_species, name="species_head")(atoms)
        return lattice_eps, score * weight, logits
