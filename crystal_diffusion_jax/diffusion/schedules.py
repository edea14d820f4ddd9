"""Noise schedules as tables over t = 0..T; index 0 means clean.

ab_t and beta_t of paper eqs. (1), (2), (6); sigma_t of eq. (4); lambda_t of eq. (5).
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64, Int, Int32

from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.diffusion import wrapped_normal


@flax.struct.dataclass
class NoiseSchedule:
    """Tables indexed by t = 0..T.

    Attributes:
      alpha_bar: product of (1 - beta_s) for s = 1..t; lattice and species share it.
      one_minus_alpha_bar: its complement, tabulated because the difference cancels in float32.
      log_alpha_bar: its logarithm, for ratios of two entries.
      sigma: standard deviation of fractional coordinates.
      score_scale: sqrt(lambda_t) = 1 / sqrt(E[score^2]), which brings the score to unit size.
    """

    alpha_bar: Float[Array, " times"]
    one_minus_alpha_bar: Float[Array, " times"]
    log_alpha_bar: Float[Array, " times"]
    sigma: Float[Array, " times"]
    score_scale: Float[Array, " times"]


def cosine_alpha_bar(num_steps: int, offset: float) -> Float64[np.ndarray, " times"]:
    """Cosine schedule with beta clipped to [1e-4, 0.9999].

    Reference: Nichol and Dhariwal, arXiv:2102.09672, eq. (17).
    """
    angle = (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset) * np.pi / 2
    ideal = np.cos(angle) ** 2
    beta = np.clip(1.0 - ideal[1:] / ideal[:-1], 1e-4, 0.9999)
    return np.concatenate([[1.0], np.cumprod(1.0 - beta)])


def geometric_sigma(
    num_steps: int, sigma_min: float, sigma_max: float
) -> Float64[np.ndarray, " times"]:
    """sigma_t = sigma_1 (sigma_T / sigma_1)^((t-1)/(T-1)) with sigma_0 = 0."""
    return np.concatenate([[0.0], np.geomspace(sigma_min, sigma_max, num_steps)])


def noise_schedule(config: NoiseConfig) -> NoiseSchedule:
    """Tabulates the forward process in float64 and stores it in float32."""
    alpha_bar = cosine_alpha_bar(config.num_steps, config.cosine_offset)
    sigma = geometric_sigma(config.num_steps, config.frac_sigma_min, config.frac_sigma_max)
    score_scale = np.zeros_like(sigma)  # a clean crystal has no score
    score_scale[1:] = 1.0 / np.sqrt(wrapped_normal.mean_squared_score(sigma[1:]))
    tables = {
        "alpha_bar": alpha_bar,
        "one_minus_alpha_bar": 1.0 - alpha_bar,
        "log_alpha_bar": np.log(alpha_bar),
        "sigma": sigma,
        "score_scale": score_scale,
    }
    # Not `jnp.asarray`, which compiles a program for each shape that it is given.
    return NoiseSchedule(
        **{name: jax.device_put(table.astype(np.float32)) for name, table in tables.items()}
    )


def sampling_times(
    num_train_steps: int, num_sample_steps: int, start: int = 0
) -> Int32[np.ndarray, " times"]:
    """Decreasing, evenly spaced times t_0 > t_1 > ... > t_S = 0.

    With S = T they start at t_0 = T. With fewer steps they start at T - 1, which is as good as pure
    noise: a step from T to s multiplies the error of the predicted noise by
    beta / sqrt(ab_T / ab_s), which is 1000 for S = 100 because beta_T is clipped (11 from T - 1).

    Args:
      num_train_steps: T.
      num_sample_steps: S.
      start: begin with this time instead of the evenly spaced ones above it; 0 keeps all.

    Raises:
      ValueError: unless 1 <= num_sample_steps <= num_train_steps.
    """
    if not 1 <= num_sample_steps <= num_train_steps:
        raise ValueError(f"num_steps must be within 1..{num_train_steps}, not {num_sample_steps}")
    first = num_train_steps - (num_sample_steps < num_train_steps)
    times = np.round(np.linspace(first, 0, num_sample_steps + 1))
    if 0 < start < first:
        times = np.append(start, times[times < start])
    return times.astype(np.int32)


def per_crystal(
    table: Float[Array, " times"], t: Int[Array, " crystals"], ndim: int
) -> Float[Array, "crystals ..."]:
    """table[t] with trailing axes of size 1, to broadcast against arrays of `ndim` axes."""
    return table[t].reshape(t.shape + (1,) * (ndim - t.ndim))


def transition(
    schedule: NoiseSchedule, t: Int[Array, " crystals"], s: Int[Array, " crystals"]
) -> tuple[Float[Array, "crystals 1 1"], Float[Array, "crystals 1 1"]]:
    """alpha = ab_t / ab_s and beta = 1 - alpha of the chain from s to t > s, accurate in float32.

    For s = t - 1 these are 1 - beta_t and beta_t.
    """
    log_alpha = per_crystal(schedule.log_alpha_bar, t, 3) - per_crystal(
        schedule.log_alpha_bar, s, 3
    )
    return jnp.exp(log_alpha), -jnp.expm1(log_alpha)
