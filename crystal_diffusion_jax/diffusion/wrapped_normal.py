"""The normal distribution wrapped on the circle of circumference 1, q(F_t | F_0) of paper eq. (4).

Its `score` is what eq. (5) is about, with lambda_t = 1 / `mean_squared_score`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64

# Images k = -10..10 leave out less than exp(-50) of the density for sigma <= 1.
NUM_IMAGES = 10

# For sigma above 1/16, harmonics beyond 24 are below exp(-48), and the error of 160 points a period
# is about exp(-40) of the mean, as the integrand has poles at d = 1/2 +- i pi sigma^2.
_NARROW, _NUM_HARMONICS, _NUM_POINTS = 1 / 16, 24, 80


def _images(displacement: Float[Array, "*shape"]) -> Float[Array, "*shape images"]:
    """The displacement shifted by whole periods, nearest image in the middle."""
    k = jnp.arange(-NUM_IMAGES, NUM_IMAGES + 1, dtype=displacement.dtype)
    return (displacement - jnp.round(displacement))[..., None] + k


def log_density(
    displacement: Float[Array, "*shape"], sigma: float | Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """log q(d), with q(d) = sum_k N(d + k; 0, sigma^2), the density on one period.

    Args:
      displacement: fractional distance from the mean, any real number.
      sigma: standard deviation in fractional units, broadcast to `displacement`.
    """
    sigma = jnp.asarray(sigma, displacement.dtype)
    exponent = -jnp.square(_images(displacement)) / (2.0 * jnp.square(sigma)[..., None])
    normaliser = jnp.log(sigma) + 0.5 * jnp.log(2.0 * jnp.pi)
    return jax.nn.logsumexp(exponent, axis=-1) - normaliser


def score(
    displacement: Float[Array, "*shape"], sigma: float | Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """d/dd log q(d): minus the softmax-weighted mean of d + k, over sigma^2.

    Args:
      displacement: fractional distance from the mean, any real number (period 1).
      sigma: standard deviation in fractional units, broadcast to `displacement`.

    Returns:
      The score per fractional unit, with the sign of the true score; DiffCSP's
      `d_log_p_wrapped_normal` is its negative.

    Reference: Jiao et al., DiffCSP, arXiv:2309.04475, eq. (7).
    """
    images = _images(displacement)
    variance = jnp.square(jnp.asarray(sigma, displacement.dtype))
    weights = jax.nn.softmax(-jnp.square(images) / (2.0 * variance[..., None]), axis=-1)
    return -jnp.sum(weights * images, axis=-1) / variance


def mean_squared_score(sigma: Float64[np.ndarray, " sigmas"]) -> Float64[np.ndarray, " sigmas"]:
    """E[score^2] per component, the Fisher information of q, which is the mean of q'^2 / q.

    Below sigma = 1/16 it is 1 / sigma^2 to thirteen digits, as the neighbouring images enter with
    exp(-1 / (8 sigma^2)). Above, q is its Fourier series

        q(d) = 1 + 2 sum_m exp(-2 (pi m sigma)^2) cos(2 pi m d),

    and the trapezoidal rule converges exponentially, as the integrand is smooth and periodic.
    """
    wide = sigma > _NARROW
    frequency = 2 * np.pi * np.arange(1, _NUM_HARMONICS + 1)
    amplitude = 2 * np.exp(-((sigma[wide, None] * frequency) ** 2) / 2)
    # The midpoints of half a period; the other half is its mirror image.
    angle = np.outer(frequency, (np.arange(_NUM_POINTS) + 0.5) / (2 * _NUM_POINTS))
    density = 1 + amplitude @ np.cos(angle)
    slope = (amplitude * frequency) @ np.sin(angle)
    squared = np.square(1 / sigma)
    squared[wide] = np.mean(slope**2 / density, axis=1)
    return squared
