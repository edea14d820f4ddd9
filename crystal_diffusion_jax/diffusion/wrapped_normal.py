"""The normal distribution wrapped on the circle of circumference 1, q(F_t | F_0) of paper eq. (4).

Its `score` is what eq. (5) is about, with lambda_t = 1 / `mean_squared_score`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

# Images k = -10..10 leave out less than exp(-50) of the density for sigma <= 1.
NUM_IMAGES = 10


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


def mean_squared_score(sigma: float) -> float:
    """E[score^2] per component, the Fisher information of q, by quadrature over one period.

    The integrand is smooth and periodic, so the trapezoidal rule converges exponentially once the
    grid resolves sigma; twenty points per sigma reach machine precision.
    """
    num_points = int(np.ceil(20.0 / sigma))
    d = (np.arange(num_points) / num_points - 0.5)[:, None] + np.arange(-NUM_IMAGES, NUM_IMAGES + 1)
    density = np.exp(-(d**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))  # [points, images]
    total = density.sum(axis=-1)
    slope = (density * d).sum(axis=-1) / sigma**2
    # Where the density underflows the integrand is 0.
    integrand = np.divide(slope**2, total, out=np.zeros_like(total), where=total > 0)
    return float(integrand.mean())
