"""Wrappers of the denoiser: guidance, restriction to elements, detection of undefined logits."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.denoising import ConditionalDenoise
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.models.embeddings import Condition


def guided(denoise: ConditionalDenoise, condition: Condition, guidance: float | Array) -> Denoise:
    """Classifier-free guidance: out_cond + w (out_cond - out_null) on every output.

    Both branches run as one batch of 2B. Reference: Ho and Salimans, arXiv:2207.12598, eq. (6).

    Args:
      denoise: the denoiser.
      condition: the request.
      guidance: w; 0 gives plain conditional sampling.
    """
    # Given species remain given: only the properties are extrapolated.
    null = dataclasses.replace(condition, present=jnp.zeros_like(condition.present))
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), condition, null)

    def denoise_guided(crystals: Crystals, t: Array) -> Prediction:
        twice = jax.tree.map(lambda part: jnp.concatenate([part, part]), crystals)
        output = denoise(twice, jnp.concatenate([t, t]), both)

        def extrapolate(part: Array) -> Array:
            conditional, unconditional = jnp.split(part, 2)
            return conditional + guidance * (conditional - unconditional)

        return jax.tree.map(extrapolate, output)

    return denoise_guided


def restrict_species(denoise: Denoise, allowed: Array) -> Denoise:
    """Excludes species from the predicted distribution, and thereby from the final crystals.

    Args:
      denoise: the denoiser.
      allowed: [K] True for species that may appear.
    """

    def denoise_restricted(crystals: Crystals, t: Array) -> Prediction:
        output = denoise(crystals, t)
        logits = jnp.where(allowed, output.species_logits, -jnp.inf)
        return dataclasses.replace(output, species_logits=logits)

    return denoise_restricted


def mark_undefined_species(denoise: Denoise) -> Denoise:
    """Turns the lattice of a crystal with a non-finite species logit into NaN.

    Drawing from such logits gives a species like any other, so that nothing else would show that
    the crystal is invalid.

    Args:
      denoise: the denoiser, before `restrict_species`.
    """

    def denoise_marked(crystals: Crystals, t: Array) -> Prediction:
        output = denoise(crystals, t)
        defined = jnp.isfinite(output.species_logits) | ~crystals.mask[..., None]
        valid = jnp.all(defined, axis=(-2, -1))[..., None, None]
        return dataclasses.replace(
            output, lattice_eps=jnp.where(valid, output.lattice_eps, jnp.nan)
        )

    return denoise_marked
