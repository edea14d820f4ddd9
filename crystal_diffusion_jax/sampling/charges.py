"""Charge balance: species given that the whole crystal is neutral.

The reverse process draws the atoms' species independently in each step, and their amounts come out
wrong: YF2 for YF3. Here the predicted distributions are conditioned on the neutrality of all of
them together. With p_i(k) the distribution of atom i, the exact marginal is

    p(k_i = k | neutral) = p_i(k) P(neutral | k_i = k) / P(neutral),

where neutral means that oxidation states, those of one element being equally likely, add up to
zero. The sum's distribution is a product of characteristic functions: no combinations are
enumerated.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import species
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule

# Probabilities down to 1e-6 matter; accelerators' default precision does not resolve them.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
# Weight of the unconditioned distribution in the mixture, so that no species is ever ruled out.
_UNCONDITIONED = 1e-3
# Neutral crystals less likely than this are beyond float32, and nothing is conditioned on them.
_UNLIKELY = 1e-6


@dataclasses.dataclass(frozen=True)
class OxidationStates:
    """Oxidation states of each species.

    Attributes:
      charges: [Q] charges that occur.
      probs: [K, Q] probability of each charge; rows add up to 1.
    """

    charges: np.ndarray
    probs: np.ndarray


def oxidation_states(known: Sequence[Sequence[int]]) -> OxidationStates:
    """Oxidation states, those of one element being equally likely.

    Args:
      known: [K] oxidation states of each species, at least one each.
    """
    charges = np.arange(min(map(min, known)), max(map(max, known)) + 1)
    probs = [np.isin(charges, of_one) / len(of_one) for of_one in known]
    return OxidationStates(charges, np.array(probs, np.float32))


def can_balance(known: Sequence[Sequence[int]], allowed: Sequence[bool]) -> bool:
    """Whether oxidation states of the allowed species can add up to zero in some cell.

    Args:
      known: [K] oxidation states of each species.
      allowed: [K] True for species that may appear.
    """
    states = [state for of_one, may in zip(known, allowed, strict=True) if may for state in of_one]
    signs = set(np.sign(states).tolist())
    return 0 in signs or len(signs) == 2


def balanced(denoise: Denoise, states: OxidationStates, schedule: NoiseSchedule) -> Denoise:
    """Conditions the predicted distribution of each atom's species on a neutral crystal.

    Args:
      denoise: the denoiser.
      states: oxidation states of its species.
      schedule: noise schedule; an atom's current species counts as evidence, as in
        `species.log_posterior`.
    """

    def denoise_balanced(crystals: Crystals, t: Array) -> Prediction:
        output = denoise(crystals, t)
        log_probs = species.log_posterior(
            jax.nn.log_softmax(output.species_logits, axis=-1),
            crystals.species,
            t,
            jnp.zeros_like(t),
            schedule,
        )
        factor = balance_factor(jnp.exp(log_probs), crystals.mask, states)
        return dataclasses.replace(output, species_logits=output.species_logits + jnp.log(factor))

    return denoise_balanced


def balance_factor(probs: Array, mask: Array, states: OxidationStates) -> Array:
    """P(neutral | species of one atom) / P(neutral) for each atom and species, [B, N, K].

    Mixed with a little of the unconditioned factor 1, and 1 where no crystal can be neutral.

    Args:
      probs: [B, N, K] independent distributions of the atoms' species.
      mask: [B, N] real atoms.
      states: oxidation states of the species.
    """
    given = _neutral(probs, mask, states)
    total = jnp.sum(probs * given, axis=-1, keepdims=True)
    factor = jnp.where(total > _UNLIKELY, given / jnp.maximum(total, _UNLIKELY), 1.0)
    return (1 - _UNCONDITIONED) * factor + _UNCONDITIONED


def _neutral(probs: Array, mask: Array, states: OxidationStates) -> Array:
    """P(charges add up to zero | species of one atom), [B, N, K]."""
    # Sums of N charges lie within -reach..reach, so 2 reach + 1 phases tell them apart; those of
    # -angle are the conjugates of those of angle.
    reach = mask.shape[1] * int(np.abs(states.charges).max())
    angles = np.outer(states.charges, 2 * np.pi * np.arange(reach + 1) / (2 * reach + 1))
    cos, sin = (np.asarray(of(angles), np.float32) for of in (np.cos, np.sin))
    of_charge = _matmul(probs, states.probs)  # [B, N, Q]
    waves = jax.lax.complex(_matmul(of_charge, cos), _matmul(of_charge, sin))
    others = _product_of_others(jnp.where(mask[..., None], waves, 1.0))
    weights = np.where(np.arange(reach + 1) == 0, 1.0, 2.0).astype(np.float32) / (2 * reach + 1)
    # P(the others' charges add up to -q) = mean over phases of others * exp(i q angle).
    missing = _matmul(jnp.real(others), (weights * cos).T)
    missing -= _matmul(jnp.imag(others), (weights * sin).T)
    return jnp.maximum(_matmul(missing, states.probs.T), 0.0)


def _product_of_others(factors: Array) -> Array:
    """Product along axis 1 of all other factors, without division, since one may be zero."""

    def multiply(product: Array, factor: Array) -> tuple[Array, Array]:
        return product * factor, product

    rows = jnp.moveaxis(factors, 1, 0)
    ones = jnp.ones_like(rows[0])
    _, before = jax.lax.scan(multiply, ones, rows)
    _, after = jax.lax.scan(multiply, ones, rows, reverse=True)
    return jnp.moveaxis(before * after, 0, 1)
