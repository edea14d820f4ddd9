"""Radial and spherical basis functions of DimeNet++, without cancellation in float32.

Source: Klicpera et al., arXiv:2011.14115, with the conventions of PyTorch Geometric 2.0.1, by which
the published networks were trained: no mask beyond the cutoff, and no factor sqrt(2 / cutoff).
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64
from scipy.optimize import brentq
from scipy.special import spherical_jn

CUTOFF = 7.0  # Angstrom
NUM_RADIAL = 6
NUM_SPHERICAL = 7

# Terms of the power series below; for |x| <= l <= 6 the first omitted one is under 1e-11.
_SERIES_TERMS = 14


def envelope(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """u(x) = 1/x - 28 x^5 + 48 x^6 - 21 x^7, with u(1) = u'(1) = u''(1) = 0.

    Args:
      x: distance in units of the cutoff, positive. There is no cut beyond 1.
    """
    return 1.0 / x + x**5 * (-28.0 + x * (48.0 - 21.0 * x))


def radial_basis(
    distance: Float[Array, " bonds"], frequencies: Float[Array, " radial"]
) -> Float[Array, "bonds radial"]:
    """u(x) sin(f_k x) with x = d / cutoff.

    Args:
      distance: in Angstrom.
      frequencies: f_k, a parameter of the network.
    """
    distance = distance[:, None]
    return envelope(distance / CUTOFF) * jnp.sin(frequencies / CUTOFF * distance)


def spherical_radial_part(distance: Float[Array, " bonds"]) -> Float[Array, "bonds 7 6"]:
    """u(x) N_ln j_l(z_ln x): the factor of the spherical basis that depends on the distance.

    Args:
      distance: in Angstrom.

    Returns:
      Values by bond, order l and number n of the zero.
    """
    zeros, norms = bessel_zeros()
    distance = distance[:, None]
    # Rounding the argument once instead of twice halves the error of the whole network in float32.
    arguments = [distance * _constants(row / CUTOFF, distance) for row in zeros]
    bessel = [spherical_bessel(order, x) for order, x in enumerate(arguments)]  # 7 of [E, 6]
    envelopes = envelope(distance / CUTOFF)[..., None]
    return envelopes * _constants(norms, distance) * jnp.stack(bessel, axis=1)


def spherical_harmonics(cosine: Float[Array, " triplets"]) -> Float[Array, "triplets 7"]:
    """Y_l0 = sqrt((2 l + 1) / 4 pi) P_l(cos theta) for l = 0..6.

    A polynomial in the cosine, so that the gradient is finite at straight chains, too.
    """
    legendre = [jnp.ones_like(cosine), cosine]
    for order in range(1, NUM_SPHERICAL - 1):
        legendre.append(
            ((2 * order + 1) * cosine * legendre[order] - order * legendre[order - 1]) / (order + 1)
        )
    scale = np.sqrt((2 * np.arange(NUM_SPHERICAL) + 1) / (4 * math.pi))
    return jnp.stack(legendre, axis=-1) * _constants(scale, cosine)


def spherical_bessel(order: int, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """j_l(x) for x >= 0, to a few units in the last place of its largest value near x.

    The closed forms in sines and cosines lose all digits for x << l, and so does the upward
    recurrence. So the power series x^l / (2l+1)!! sum_k (-x^2/2)^k / (k! (2l+3)(2l+5)...(2l+2k+1))
    is used for x < l, and above it the upward recurrence j_(m+1) = (2m+1)/x j_m - j_(m-1)
    (Abramowitz and Stegun, 10.1.2 and 10.1.19).

    Args:
      order: l.
      x: the argument.
    """
    turn = max(order, 1)
    small = jnp.minimum(x, turn)
    series = jnp.ones_like(x)
    # Horner's scheme, from the last term inwards.
    for k in range(_SERIES_TERMS, 0, -1):
        series = 1.0 - small**2 / (2 * k * (2 * (order + k) + 1)) * series
    series = series * small**order / math.prod(range(1, 2 * order + 2, 2))

    large = jnp.maximum(x, turn)
    lower, upper = jnp.sin(large) / large, jnp.sin(large) / large**2 - jnp.cos(large) / large
    for m in range(1, order + 1):
        lower, upper = upper, (2 * m + 1) / large * upper - lower
    return jnp.where(x < turn, series, lower)


@functools.cache
def bessel_zeros() -> tuple[Float64[np.ndarray, "7 6"], Float64[np.ndarray, "7 6"]]:
    """The first six positive zeros z_ln of j_0 ... j_6, and N_ln = sqrt(2) / |j_(l+1)(z_ln)|.

    The zeros of j_l lie between those of j_(l-1), where they are found by bracketing.

    Returns:
      z and N.
    """
    count = NUM_RADIAL + NUM_SPHERICAL - 1
    rows = [math.pi * np.arange(1, count + 1)]
    for order in range(1, NUM_SPHERICAL):
        bessel = functools.partial(spherical_jn, order)
        brackets = zip(rows[-1][:-1], rows[-1][1:], strict=True)
        rows.append(np.array([brentq(bessel, *pair, xtol=1e-13) for pair in brackets]))
    # The networks were trained with zeros rounded to float32.
    zeros = np.stack([row[:NUM_RADIAL] for row in rows]).astype(np.float32).astype(np.float64)
    norms = np.sqrt(2) / np.abs(spherical_jn(np.arange(1, NUM_SPHERICAL + 1)[:, None], zeros))
    return zeros, norms


def _constants(values: np.ndarray, like: Array) -> Array:
    """Constants in the precision of `like`, float32 or float64."""
    return jnp.asarray(values, dtype=like.dtype)
