"""judge/basis.py against scipy and the conditions that define the functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import sph_harm_y, spherical_jn

from crystal_diffusion_jax.judge import basis


@pytest.mark.parametrize("order", range(7))
def test_bessel_functions_keep_their_digits_in_float32(order: int) -> None:
    # Far below the order too, where the closed forms lose all of them.
    x = np.concatenate([np.geomspace(1e-3, 1, 200), np.linspace(1, 60, 4000)]).astype(np.float32)
    expected = spherical_jn(order, x.astype(np.float64))
    found = np.asarray(basis.spherical_bessel(order, jnp.asarray(x)), dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7 * np.abs(expected).max())
    small = (x < max(order, 1)) & (expected > 1e-30)
    np.testing.assert_allclose(found[small], expected[small], rtol=2e-6)


@pytest.mark.parametrize("order", range(7))
def test_bessel_derivatives_are_right_on_both_sides_of_the_turning_point(order: int) -> None:
    with jax.enable_x64(True):
        x = jnp.linspace(0.05, 30.0, 599)
        slope = jax.vmap(jax.grad(lambda y: basis.spherical_bessel(order, y)))(x)
    expected = spherical_jn(order, np.asarray(x), derivative=True)
    np.testing.assert_allclose(slope, expected, atol=1e-9)


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
    found = basis.spherical_harmonics(jnp.cos(jnp.asarray(theta)))
    expected = np.stack([sph_harm_y(order, 0, theta, 0.0).real for order in range(7)], axis=-1)
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_envelope_ends_smoothly_at_the_cutoff_and_goes_on_behind_it() -> None:
    with jax.enable_x64(True):
        one = jnp.float64(1.0)
        slope = jax.grad(basis.envelope)
        assert float(basis.envelope(one)) == pytest.approx(0.0, abs=1e-12)
        assert float(slope(one)) == pytest.approx(0.0, abs=1e-12)
        assert float(jax.grad(slope)(one)) == pytest.approx(0.0, abs=1e-11)
        expected = 1 / 1.2 - 28 * 1.2**5 + 48 * 1.2**6 - 21 * 1.2**7
        assert float(basis.envelope(jnp.float64(1.2))) == pytest.approx(expected)


def test_radial_basis_is_the_envelope_times_a_sine() -> None:
    distance = jnp.array([1.4, 3.5, 6.9])
    frequencies = jnp.pi * jnp.arange(1, 7)
    x = np.asarray(distance)[:, None] / 7.0
    expected = np.asarray(basis.envelope(jnp.asarray(x))) * np.sin(np.pi * np.arange(1, 7) * x)
    np.testing.assert_allclose(basis.radial_basis(distance, frequencies), expected, atol=1e-5)
