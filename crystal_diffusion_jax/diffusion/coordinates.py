"""Wrapped-normal diffusion of fractional coordinates, paper eqs. (4), (5).

Every function takes its noise as an argument, so that the caller alone decides on keys and padding.
"""

import math

import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.crystals import wrap
from crystal_diffusion_jax.diffusion import wrapped_normal
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal


def noised(frac_coords: Array, eps: Array, t: Array, schedule: NoiseSchedule) -> Array:
    """Draw from q(F_t | F_0): wrap(F_0 + sigma_t eps), eq. (4).

    Args:
      frac_coords: [B, N, 3] clean coordinates.
      eps: [B, N, 3] standard normal noise.
      t: [B] int.
      schedule: the tables.
    """
    return wrap(frac_coords + per_crystal(schedule.sigma, t, 3) * eps)


def scaled_score(
    frac_coords_t: Array, frac_coords: Array, t: Array, schedule: NoiseSchedule
) -> Array:
    """sqrt(lambda_t) grad log q(F_t | F_0), the target of eq. (5), of unit size at every t >= 1.

    Args:
      frac_coords_t: [B, N, 3] noisy coordinates.
      frac_coords: [B, N, 3] clean coordinates.
      t: [B] int, at least 1.
      schedule: the tables.
    """
    sigma = per_crystal(schedule.sigma, t, 3)
    score = wrapped_normal.score(frac_coords_t - frac_coords, sigma)
    return per_crystal(schedule.score_scale, t, 3) * score


def mean_free(per_atom: Array, mask: Array) -> Array:
    """Subtracts the mean over a crystal's real atoms; padding becomes 0.

    A common shift of all atoms carries no information about a crystal, so the best prediction of
    the score has zero mean; the mean of the raw target is noise that no network can learn.

    Args:
      per_atom: [B, N, 3].
      mask: [B, N].
    """
    weight = mask[..., None].astype(per_atom.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    mean = jnp.sum(per_atom * weight, axis=1, keepdims=True) / count
    return (per_atom - mean) * weight


def corrector_move(
    noise: Array,
    prediction: Array,
    t: Array,
    corrector_step_size: float | Array,
    schedule: NoiseSchedule,
) -> Array:
    """Displacement of a step of Langevin dynamics at fixed t, of size corrector_step_size (sigma_t / sigma_1)^2.

    Args:
      noise: [B, N, 3] standard normal.
      prediction: [B, N, 3] scaled score.
      t: [B] int; the step is noiseless at t = 1.
      corrector_step_size: step size at t = 1, in squared fractional units.
      schedule: the tables.
    """
    step = corrector_step_size * jnp.square(per_crystal(schedule.sigma, t, 3) / schedule.sigma[1])
    score = prediction / per_crystal(schedule.score_scale, t, 3)
    last = (t == 1).reshape((*t.shape, 1, 1))
    return step * score + jnp.where(last, 0.0, jnp.sqrt(2.0 * step)) * noise


def renoising_move(
    noise: Array, prediction: Array, t: Array, share: float, schedule: NoiseSchedule
) -> Array:
    """Displacement that replaces a share of the noise: towards the expected F_0, and noise anew.

    The noise around one crystal, a normal distribution, keeps its mean and variance exactly for any
    share, where Langevin steps as large widen it: it is the exact step of an Ornstein-Uhlenbeck
    process around F_0. The spread of a distribution of F_0 is narrowed, at sigma equal to it by 6 %
    of the variance with share 0.4.

    Args:
      noise: [B, N, 3] standard normal.
      prediction: [B, N, 3] scaled score.
      t: [B] int, at least 1.
      share: of the noise's variance, in [0, 1].
      schedule: the tables.
    """
    sigma = per_crystal(schedule.sigma, t, 3)
    score = prediction / per_crystal(schedule.score_scale, t, 3)
    kept = math.sqrt(1.0 - share)
    return (1.0 - kept) * jnp.square(sigma) * score + math.sqrt(share) * sigma * noise


def predictor_move(
    noise: Array, prediction: Array, t: Array, s: Array, schedule: NoiseSchedule
) -> Array:
    """Displacement of the ancestral step of the variance-exploding process from t to s < t.

    While narrow, it is the draw of q(F_s | F_t, F_0) with the expected F_0. Noiseless at s = 0.

    Args:
      noise: [B, N, 3] standard normal.
      prediction: [B, N, 3] scaled score.
      t: [B] int, the present time.
      s: [B] int, the earlier time to go to.
      schedule: the tables.
    """
    sigma_t = per_crystal(schedule.sigma, t, 3)
    sigma_s = per_crystal(schedule.sigma, s, 3)
    step = jnp.square(sigma_t) - jnp.square(sigma_s)
    score = prediction / per_crystal(schedule.score_scale, t, 3)
    return step * score + sigma_s * jnp.sqrt(step) / sigma_t * noise
