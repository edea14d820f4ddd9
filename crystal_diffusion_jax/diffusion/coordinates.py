"""Wrapped-normal diffusion of fractional coordinates.

Paper eqs. (4), `noised`, and (5), whose target is `scaled_score`; the loss itself is in
`training.loss`. The paper samples with `corrector_move` followed by `predictor_move`.

Every function takes its noise as an argument, so that the caller alone decides on keys and padding.
"""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from crystal_diffusion_jax.crystals import wrap
from crystal_diffusion_jax.diffusion import wrapped_normal
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal


def noised(
    frac_coords: Float[Array, "crystals atoms 3"],
    eps: Float[Array, "crystals atoms 3"],
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms 3"]:
    """Draw from q(F_t | F_0): wrap(F_0 + sigma_t eps), eq. (4); eps is standard normal."""
    return wrap(frac_coords + per_crystal(schedule.sigma, t, 3) * eps)


def scaled_score(
    frac_coords_t: Float[Array, "crystals atoms 3"],
    frac_coords: Float[Array, "crystals atoms 3"],
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms 3"]:
    """sqrt(lambda_t) grad log q(F_t | F_0), the target of eq. (5), of unit size at every t >= 1."""
    sigma = per_crystal(schedule.sigma, t, 3)
    score = wrapped_normal.score(frac_coords_t - frac_coords, sigma)
    return per_crystal(schedule.score_scale, t, 3) * score


def mean_free(
    per_atom: Float[Array, "crystals atoms 3"], mask: Bool[Array, "crystals atoms"]
) -> Float[Array, "crystals atoms 3"]:
    """Subtracts the mean over a crystal's real atoms; padding becomes 0.

    A common shift of all atoms carries no information about a crystal, so the best prediction of
    the score has zero mean; the mean of the raw target is noise that no network can learn.
    """
    weight = mask[..., None].astype(per_atom.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    mean = jnp.sum(per_atom * weight, axis=1, keepdims=True) / count
    return (per_atom - mean) * weight


def corrector_move(
    noise: Float[Array, "crystals atoms 3"],
    prediction: Float[Array, "crystals atoms 3"],
    t: Int[Array, " crystals"],
    step_size: float | Float[Array, ""],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms 3"]:
    """Displacement of one Langevin step at fixed t, of size step_size (sigma_t / sigma_1)^2.

    Args:
      noise: standard normal; not used at t = 1.
      prediction: scaled score.
      step_size: step size at t = 1, in squared fractional units.
    """
    step = step_size * jnp.square(per_crystal(schedule.sigma, t, 3) / schedule.sigma[1])
    score = prediction / per_crystal(schedule.score_scale, t, 3)
    last = (t == 1).reshape((*t.shape, 1, 1))
    return step * score + jnp.where(last, 0.0, jnp.sqrt(2.0 * step)) * noise


def renoising_move(
    noise: Float[Array, "crystals atoms 3"],
    prediction: Float[Array, "crystals atoms 3"],
    t: Int[Array, " crystals"],
    share: float,
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms 3"]:
    """Displacement that replaces a share of the noise: towards the expected F_0, then fresh noise.

    It is an exact step of an Ornstein-Uhlenbeck process around F_0, so for a single F_0 the normal
    distribution of F_t keeps its mean and variance for any share; Langevin steps of the same size
    would widen it. Where F_0 itself is spread out, the spread shrinks: by 6 % of its variance for
    share 0.4 and sigma equal to the spread.

    Args:
      noise: standard normal.
      prediction: scaled score.
      share: of the noise's variance, in [0, 1].
    """
    sigma = per_crystal(schedule.sigma, t, 3)
    score = prediction / per_crystal(schedule.score_scale, t, 3)
    kept = math.sqrt(1.0 - share)
    return (1.0 - kept) * jnp.square(sigma) * score + math.sqrt(share) * sigma * noise


def predictor_move(
    noise: Float[Array, "crystals atoms 3"],
    prediction: Float[Array, "crystals atoms 3"],
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Float[Array, "crystals atoms 3"]:
    """Displacement of the ancestral step of the variance-exploding process from t to s < t.

    For sigma small against the period, this draws from q(F_s | F_t, F_0) at the expected F_0. No
    noise is added at s = 0.

    Args:
      noise: standard normal.
      prediction: scaled score.
    """
    sigma_t = per_crystal(schedule.sigma, t, 3)
    sigma_s = per_crystal(schedule.sigma, s, 3)
    step = jnp.square(sigma_t) - jnp.square(sigma_s)
    score = prediction / per_crystal(schedule.score_scale, t, 3)
    return step * score + sigma_s * jnp.sqrt(step) / sigma_t * noise
