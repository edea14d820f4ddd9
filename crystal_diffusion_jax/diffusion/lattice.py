"""DDPM on lattices in units of the lattice scale, paper eqs. (1)-(3)."""

import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal, transition


def noised(lattice: Array, eps: Array, t: Array, schedule: NoiseSchedule) -> Array:
    """Draw from q(L_t | L_0) = N(sqrt(ab_t) L_0, (1 - ab_t) I), eq. (1).

    Args:
      lattice: [B, 3, 3] clean lattice.
      eps: [B, 3, 3] standard normal noise.
      t: [B] int.
      schedule: the tables.
    """
    signal = jnp.sqrt(per_crystal(schedule.alpha_bar, t, 3))
    noise = jnp.sqrt(per_crystal(schedule.one_minus_alpha_bar, t, 3))
    return signal * lattice + noise * eps


def posterior(
    lattice_t: Array, eps: Array, t: Array, s: Array, schedule: NoiseSchedule
) -> tuple[Array, Array]:
    """Mean [B, 3, 3] and variance [B, 1, 1] of q(L_s | L_t, L_0) for any s < t, eq. (2).

    L_0 enters through eps. With s = t - 1 this is the paper's step; for a stride the chain from
    s to t is again a DDPM step with beta = 1 - ab_t / ab_s.

    Args:
      lattice_t: [B, 3, 3] noisy lattice.
      eps: [B, 3, 3] the noise in it, or a prediction of that noise.
      t: [B] int, the present time.
      s: [B] int, the earlier time to go to.
      schedule: the tables.
    """
    alpha, beta = transition(schedule, t, s, 3)
    one_minus_t = per_crystal(schedule.one_minus_alpha_bar, t, 3)
    one_minus_s = per_crystal(schedule.one_minus_alpha_bar, s, 3)
    mean = (lattice_t - beta / jnp.sqrt(one_minus_t) * eps) / jnp.sqrt(alpha)
    return mean, beta * one_minus_s / one_minus_t


def reverse_step(
    noise: Array, lattice_t: Array, eps: Array, t: Array, s: Array, schedule: NoiseSchedule
) -> Array:
    """Draw of L_s given L_t and predicted eps; `noise` is [B, 3, 3] standard normal."""
    mean, variance = posterior(lattice_t, eps, t, s, schedule)
    return mean + jnp.sqrt(variance) * noise


def prior(keys: Array) -> Array:
    """[B] keys -> [B, 3, 3] draws from N(0, I), the limit of the forward process."""
    return jax.vmap(lambda key: jax.random.normal(key, (3, 3)))(keys)
