"""DDPM on lattices in units of the lattice scale.

Paper eqs. (1), `noised`, and (2), `posterior`; the loss of eq. (3) is in `training.loss`.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal, transition


def noised(
    lattice: Float[Array, "crystals 3 3"],
    eps: Float[Array, "crystals 3 3"],
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals 3 3"]:
    """Draw from q(L_t | L_0) = N(sqrt(ab_t) L_0, (1 - ab_t) I), eq. (1); eps is standard normal."""
    signal = jnp.sqrt(per_crystal(schedule.alpha_bar, t, 3))
    noise = jnp.sqrt(per_crystal(schedule.one_minus_alpha_bar, t, 3))
    return signal * lattice + noise * eps


def posterior(
    lattice_t: Float[Array, "crystals 3 3"],
    eps: Float[Array, "crystals 3 3"],
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> tuple[Float[Array, "crystals 3 3"], Float[Array, "crystals 1 1"]]:
    """Mean and variance of q(L_s | L_t, L_0) for any s < t, eq. (2).

    L_0 enters through eps, the noise in L_t or a prediction of it. With s = t - 1 this is the
    paper's step; for longer steps the chain from s to t is again a DDPM step, with
    beta = 1 - ab_t / ab_s.
    """
    alpha, beta = transition(schedule, t, s)
    one_minus_t = per_crystal(schedule.one_minus_alpha_bar, t, 3)
    one_minus_s = per_crystal(schedule.one_minus_alpha_bar, s, 3)
    mean = (lattice_t - beta / jnp.sqrt(one_minus_t) * eps) / jnp.sqrt(alpha)
    return mean, beta * one_minus_s / one_minus_t


def reverse_step(
    noise: Float[Array, "crystals 3 3"],
    lattice_t: Float[Array, "crystals 3 3"],
    eps: Float[Array, "crystals 3 3"],
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals 3 3"]:
    """Draw of L_s given L_t and the predicted eps; `noise` is standard normal."""
    mean, variance = posterior(lattice_t, eps, t, s, schedule)
    return mean + jnp.sqrt(variance) * noise


def prior(keys: Key[Array, " crystals"]) -> Float[Array, "crystals 3 3"]:
    """Draws from N(0, I), the limit of the forward process."""
    return jax.vmap(lambda key: jax.random.normal(key, (3, 3)))(keys)
