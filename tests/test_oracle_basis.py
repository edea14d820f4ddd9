"""oracles/basis.py against scipy and the conditions that define the functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy.integrate import quad
from scipy.special import sph_harm_y, spherical_jn

from crystal_diffusion_jax.oracles import basis


@functools.partial(jax.jit, static_argnums=0)
def bessel(order: int, x: Array) -> Array:
    return basis.spherical_bessel(order, x)


@pytest.mark.parametrize("order", range(7))
def test_bessel_functions_keep_their_digits_in_float32(order: int) -> None:
    # Far below the order too, where the closed forms lose all of them.
    x = np.concatenate([np.geomspace(1e-3, 1, 200), np.linspace(1, 60, 4000)]).astype(np.float32)
    expected = spherical_jn(order, x.astype(np.float64))
    found = np.asarray(bessel(order, x), dtype=np.float64)
    small = (x < max(order, 1)) & (expected > 1e-30)
    large = x >= max(order, 1)
    # The series: a rounding in each of the l factors, twice, and a few in the leading terms.
    rounding = 2.0**-24
    np.testing.assert_allclose(found[small], expected[small], rtol=(8 + 2 * order) * rounding)
    # The recurrence: four roundings in sine and cosine and in each step, of numbers up to 1 / x;
    # errors grow like the other solution y_l, which is about 1 / x as well from x = l on.
    error = np.abs(found - expected)[large] * x[large]
    assert error.max() < (4 + 4 * order) * rounding


def test_bessel_derivatives_are_right_on_both_sides_of_the_turning_point() -> None:
    @jax.jit
    def slopes(x: Array) -> list[Array]:
        slope = jax.vmap(jax.grad(basis.spherical_bessel, argnums=1), (None, 0))
        return [slope(order, x) for order in range(7)]

    with jax.enable_x64(True):
        x = np.linspace(0.05, 30.0, 599)
        found = slopes(x)
    for order in range(7):
        expected = spherical_jn(order, x, derivative=True)
        np.testing.assert_allclose(found[order], expected, rtol=0, atol=1e-9)


def test_radial_parts_vanish_at_the_zeros_and_are_normalised_on_the_unit_interval() -> None:
    zeros, norms = basis.bessel_zeros()
    for order in range(7):
        assert np.all(np.diff(zeros[order]) > 3)  # none is skipped twice, they are about pi apart
        for zero, norm in zip(zeros[order], norms[order], strict=True):
            # The zeros are stored in float32.
            assert abs(spherical_jn(order, zero)) < 1e-6
            square = quad(lambda x, o=order, z=zero: (spherical_jn(o, z * x) * x) ** 2, 0, 1)[0]
            assert norm**2 * square == pytest.approx(1.0, rel=1e-6)
    # As many zeros as sign changes up to the last one.
    for order in range(7):
        values = spherical_jn(order, np.linspace(0.5, zeros[order, -1] + 0.5, 4000))
        assert np.count_nonzero(np.diff(np.sign(values))) == 6


def test_angular_parts_are_spherical_harmonics() -> None:
    theta = np.linspace(0, np.pi, 31)
    expected = np.stack([sph_harm_y(order, 0, theta, 0.0).real for order in range(7)], axis=-1)
    with jax.enable_x64(True):
        found = jax.jit(basis.spherical_harmonics)(np.cos(theta))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_envelope_ends_smoothly_at_the_cutoff_and_goes_on_behind_it() -> None:
    slope = jax.grad(basis.envelope)

    @jax.jit
    def at_the_cutoff_and_behind(one: Array) -> list[Array]:
        parts = (basis.envelope, slope, jax.grad(slope))
        return [*(part(one) for part in parts), basis.envelope(1.2 * one)]

    with jax.enable_x64(True):
        *at_the_cutoff, behind = map(float, at_the_cutoff_and_behind(jnp.float64(1.0)))
    assert at_the_cutoff == pytest.approx([0.0, 0.0, 0.0], abs=1e-11)
    assert behind == pytest.approx(1 / 1.2 - 28 * 1.2**5 + 48 * 1.2**6 - 21 * 1.2**7)


def test_radial_basis_is_the_envelope_times_a_sine() -> None:
    distance = np.array([1.4, 3.5, 6.9])
    x = distance[:, None] / 7.0
    envelope = 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7
    with jax.enable_x64(True):
        found = jax.jit(basis.radial_basis)(distance, np.pi * np.arange(1, 7))
        expected = envelope * np.sin(np.pi * np.arange(1, 7) * x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
