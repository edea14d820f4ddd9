"""Discrete diffusion of species with uniform transitions (D3PM), paper eqs. (6)-(8).

Qbar_t = ab_t I + (1 - ab_t) / K 11^T in closed form; no K x K matrix is ever built.
Reference: Austin et al., arXiv:2107.03006.
"""

import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal, transition

# Stands for log 0: small enough to vanish in every sum of probabilities, finite in float32.
_LOG_ZERO = -1e30


def _log(probability: Array) -> Array:
    return jnp.where(
        probability > 0, jnp.log(jnp.where(probability > 0, probability, 1.0)), _LOG_ZERO
    )


def noised(
    keep: Array, resampled: Array, species: Array, t: Array, schedule: NoiseSchedule
) -> Array:
    """Draw from q(a_t | a_0): keep a_0 with probability ab_t, else a uniform species, eq. (6).

    Args:
      keep: [B, N] uniform numbers in [0, 1).
      resampled: [B, N] uniform species.
      species: [B, N] clean species.
      t: [B] int.
      schedule: the tables.
    """
    return jnp.where(keep < per_crystal(schedule.alpha_bar, t, 2), species, resampled)


def log_posterior(
    log_probs_0: Array, species_t: Array, t: Array, s: Array, schedule: NoiseSchedule
) -> Array:
    """log p(a_s | a_t) for any s < t, [B, N, K], eq. (7).

    Sums the joint q(a_s, a_t | a_0) over a_0 with the weights of `log_probs_0`, then normalises
    once. With a one-hot distribution this is the exact posterior q(a_s | a_t, a_0).

    The likelihood of the atom's own noisy species is in q(a_s, a_t | a_0) already. So for any
    stride the best `log_probs_0` is the distribution of a_0 given everything but that species, and
    with it the draw is exact for each atom; given that species too, it would count twice.

    Args:
      log_probs_0: [B, N, K] log probabilities of a_0 (exact or predicted).
      species_t: [B, N] noisy species.
      t: [B] int, the present time.
      s: [B] int, the earlier time to go to.
      schedule: the tables.
    """
    num_species = log_probs_0.shape[-1]
    alpha_bar_s = per_crystal(schedule.alpha_bar, s, 3)
    one_minus_s = per_crystal(schedule.one_minus_alpha_bar, s, 3)
    keep, beta = transition(schedule, t, s, 3)
    same = jax.nn.one_hot(species_t, num_species, dtype=log_probs_0.dtype)
    log_forward = jnp.log(keep * same + beta / num_species)  # q(a_t | a_s) as a function of a_s
    log_marginal = jnp.logaddexp(  # sum over a_0 of p(a_0) q(a_s | a_0)
        jnp.log(alpha_bar_s) + log_probs_0, _log(one_minus_s / num_species)
    )
    return jax.nn.log_softmax(log_forward + log_marginal, axis=-1)


def kl_divergence(
    logits: Array, species_t: Array, species: Array, t: Array, schedule: NoiseSchedule
) -> Array:
    """KL(q(a_{t-1} | a_t, a_0) || p_theta(a_{t-1} | a_t)) per atom, [B, N], in nats, eq. (8).

    At t = 1 it is the negative log-likelihood of a_0, because Qbar_0 is the identity.

    Args:
      logits: [B, N, K] predicted distribution of a_0.
      species_t: [B, N] noisy species.
      species: [B, N] clean species.
      t: [B] int.
      schedule: the tables.
    """
    exact_0 = _log(jax.nn.one_hot(species, logits.shape[-1], dtype=logits.dtype))
    log_q = log_posterior(exact_0, species_t, t, t - 1, schedule)
    log_p = log_posterior(jax.nn.log_softmax(logits, axis=-1), species_t, t, t - 1, schedule)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


def cross_entropy(
    logits: Array, species_t: Array, species: Array, t: Array, schedule: NoiseSchedule
) -> Array:
    """-log p_theta(a_0 | a_t) per atom, [B, N], in nats: D3PM's auxiliary loss, its eq. (5).

    p_theta(a_0 | a_t) is the reverse step to s = 0, so it holds the likelihood of the atom's own
    noisy species, which the logits lack (`log_posterior`). The cross-entropy of the logits alone
    would pull them to include it, against the KL divergence.

    Args:
      logits: [B, N, K] predicted distribution of a_0.
      species_t: [B, N] noisy species.
      species: [B, N] clean species.
      t: [B] int.
      schedule: the tables.
    """
    log_probs = log_posterior(
        jax.nn.log_softmax(logits, axis=-1), species_t, t, jnp.zeros_like(t), schedule
    )
    return -jnp.take_along_axis(log_probs, species[..., None], axis=-1)[..., 0]


def reverse_step(
    gumbel: Array, logits: Array, species_t: Array, t: Array, s: Array, schedule: NoiseSchedule
) -> Array:
    """Draw of a_s given a_t and predicted logits, [B, N]; the most probable species at s = 0.

    Args:
      gumbel: [B, N, K] standard Gumbel noise.
      logits: [B, N, K] predicted distribution of a_0; -inf keeps a species out of the result at
        s = 0 (at s > 0 the uniform noise may still show it).
      species_t: [B, N] noisy species.
      t: [B] int, the present time.
      s: [B] int, the earlier time to go to.
      schedule: the tables.
    """
    log_probs = log_posterior(jax.nn.log_softmax(logits, axis=-1), species_t, t, s, schedule)
    last = (s == 0).reshape((*s.shape, 1, 1))
    return jnp.argmax(log_probs + jnp.where(last, 0.0, gumbel), axis=-1).astype(species_t.dtype)
