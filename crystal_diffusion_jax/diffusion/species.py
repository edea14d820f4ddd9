"""Discrete diffusion of species with uniform transitions (D3PM).

Paper eqs. (6), `noised`, (7), `log_posterior`, and (8), `kl_divergence`.

Qbar_t = ab_t I + (1 - ab_t) / K 11^T in closed form; no K x K matrix is ever built.
Reference: Austin et al., arXiv:2107.03006.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal, transition

# Stands for log 0: small enough to vanish in every sum of probabilities, finite in float32.
_LOG_ZERO = -1e30


def noised(
    keep: Float[Array, "crystals atoms"],
    resampled: Int[Array, "crystals atoms"],
    species: Int[Array, "crystals atoms"],
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Int[Array, "crystals atoms"]:
    """Draw from q(a_t | a_0): keep a_0 with probability ab_t, else a uniform species, eq. (6).

    Args:
      keep: uniform numbers in [0, 1).
      resampled: uniform species.
      species: clean species.
    """
    return jnp.where(keep < per_crystal(schedule.alpha_bar, t, 2), species, resampled)


def log_posterior(
    log_probs_0: Float[Array, "crystals atoms species"],
    species_t: Int[Array, "crystals atoms"],
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms species"]:
    """log p(a_s | a_t) for any s < t, eq. (7).

    Sums the joint q(a_s, a_t | a_0) over a_0, weighted by the probabilities of a_0 in
    `log_probs_0`, then normalises once. With a one-hot distribution this is the exact posterior
    q(a_s | a_t, a_0).

    q(a_s, a_t | a_0) already contains the likelihood of the atom's own noisy species. So the best
    `log_probs_0`, for any t and s, is the distribution of a_0 given everything except that species,
    and with it the draw is exact for each atom; given that species too, it would count twice.
    """
    num_species = log_probs_0.shape[-1]
    alpha_bar_s = per_crystal(schedule.alpha_bar, s, 3)
    one_minus_s = per_crystal(schedule.one_minus_alpha_bar, s, 3)
    keep, beta = transition(schedule, t, s)
    same = jax.nn.one_hot(species_t, num_species, dtype=log_probs_0.dtype)
    log_forward = jnp.log(keep * same + beta / num_species)  # q(a_t | a_s) as a function of a_s
    log_marginal = jnp.logaddexp(  # sum over a_0 of p(a_0) q(a_s | a_0)
        jnp.log(alpha_bar_s) + log_probs_0, _log(one_minus_s / num_species)
    )
    return jax.nn.log_softmax(log_forward + log_marginal, axis=-1)


def kl_divergence(
    logits: Float[Array, "crystals atoms species"],
    species_t: Int[Array, "crystals atoms"],
    species: Int[Array, "crystals atoms"],
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms"]:
    """KL(q(a_{t-1} | a_t, a_0) || p_theta(a_{t-1} | a_t)) in nats, eq. (8).

    At t = 1 it is the negative log-likelihood of a_0, because Qbar_0 is the identity.

    Args:
      logits: predicted distribution of a_0.
      species_t: noisy species.
      species: clean species.
    """
    exact_0 = _log(jax.nn.one_hot(species, logits.shape[-1], dtype=logits.dtype))
    log_q = log_posterior(exact_0, species_t, t, t - 1, schedule)
    log_p = log_posterior(jax.nn.log_softmax(logits, axis=-1), species_t, t, t - 1, schedule)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


def cross_entropy(
    logits: Float[Array, "crystals atoms species"],
    species_t: Int[Array, "crystals atoms"],
    species: Int[Array, "crystals atoms"],
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms"]:
    """-log p_theta(a_0 | a_t) in nats: D3PM's auxiliary loss, its eq. (5); not in the paper.

    p_theta(a_0 | a_t) is the reverse step to s = 0, so it contains the likelihood of the atom's own
    noisy species, which the logits lack (`log_posterior`). The cross-entropy of the logits alone
    would pull them towards including it, against the KL divergence. Arguments as in
    `kl_divergence`.
    """
    log_probs = log_posterior(
        jax.nn.log_softmax(logits, axis=-1), species_t, t, jnp.zeros_like(t), schedule
    )
    return -jnp.take_along_axis(log_probs, species[..., None], axis=-1)[..., 0]


def reverse_step(
    gumbel: Float[Array, "crystals atoms species"],
    logits: Float[Array, "crystals atoms species"],
    species_t: Int[Array, "crystals atoms"],
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Int[Array, "crystals atoms"]:
    """Draw of a_s given a_t and predicted logits; the most probable species at s = 0.

    Args:
      gumbel: standard Gumbel noise.
      logits: predicted distribution of a_0; -inf keeps a species out of the result at s = 0 (at
        s > 0 it may still appear as uniform noise).
      species_t: noisy species.
    """
    log_probs = log_posterior(jax.nn.log_softmax(logits, axis=-1), species_t, t, s, schedule)
    last = (s == 0).reshape((*s.shape, 1, 1))
    return jnp.argmax(log_probs + jnp.where(last, 0.0, gumbel), axis=-1).astype(species_t.dtype)


def _log(probability: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(
        probability > 0, jnp.log(jnp.where(probability > 0, probability, 1.0)), _LOG_ZERO
    )
