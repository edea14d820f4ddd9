import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from scipy.spatial.transform import Rotation

from crystal_diffusion_jax.crystals import (
    lattice_from_parameters,
    lattice_to_parameters,
    minimum_image_distances,
    wrap,
)

# Cells are about 10 Angstrom wide, so one float32 rounding is 1e-6 Angstrom; a distance or a
# vector goes through about ten of them.
LENGTH_TOLERANCE = 1e-5

PARAMETERS = [
    ((4.0, 4.0, 4.0), (90.0, 90.0, 90.0)),
    ((3.1, 3.1, 9.7), (90.0, 90.0, 120.0)),
    ((5.2, 6.1, 7.4), (71.0, 83.0, 64.0)),
    ((4.5, 8.2, 6.6), (101.0, 112.0, 95.0)),
]


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -1.0, -0.25, 17.75, -1e-9, -1e-30, 0.99999994])
def test_wrap_moves_a_coordinate_by_a_whole_number_into_the_unit_interval(value):
    value = np.float32(value)
    wrapped = float(wrap(value))
    assert 0.0 <= wrapped < 1.0
    moved = wrapped - float(value)
    # All values but the tiny negative ones are moved exactly; those by one rounding of 1.
    assert abs(moved - round(moved)) <= 1e-7


@pytest.mark.parametrize(("lengths", "angles"), PARAMETERS)
def test_cell_vectors_from_parameters_are_those_of_pymatgen(lengths, angles):
    lattice = lattice_from_parameters(
        jnp.asarray(lengths, jnp.float32), jnp.asarray(angles, jnp.float32)
    )
    expected = Lattice.from_parameters(*lengths, *angles).matrix
    np.testing.assert_allclose(lattice, expected, atol=LENGTH_TOLERANCE)


@pytest.mark.parametrize(("lengths", "angles"), PARAMETERS)
def test_parameters_survive_the_way_through_cell_vectors_and_a_rotation(lengths, angles):
    lattice = lattice_from_parameters(
        jnp.asarray(lengths, jnp.float32), jnp.asarray(angles, jnp.float32)
    )
    rotated = jnp.asarray(lattice @ Rotation.random(rng=0).as_matrix(), jnp.float32)
    found_lengths, found_angles = lattice_to_parameters(rotated)
    np.testing.assert_allclose(found_lengths, lengths, atol=LENGTH_TOLERANCE)
    # An error of 1e-6 in a cosine is 6e-5 degrees near a right angle.
    np.testing.assert_allclose(found_angles, angles, atol=5e-4)


def test_cell_parameters_of_a_batch_are_those_of_its_members():
    lengths, angles = (jnp.asarray(rows, jnp.float32) for rows in zip(*PARAMETERS, strict=True))
    batch = lattice_from_parameters(lengths, angles)
    for i, (a, b) in enumerate(zip(lengths, angles, strict=True)):
        np.testing.assert_allclose(batch[i], lattice_from_parameters(a, b), atol=LENGTH_TOLERANCE)
    np.testing.assert_allclose(lattice_to_parameters(batch)[0], lengths, atol=LENGTH_TOLERANCE)


@pytest.mark.parametrize("seed", range(5))
def test_minimum_image_distances_of_a_reduced_cell_agree_with_a_wide_search(seed):
    rng = np.random.default_rng(seed)
    lattice = jnp.asarray(
        Lattice(rng.normal(size=(3, 3)) * 3 + 2 * np.eye(3)).get_niggli_reduced_lattice().matrix,
        jnp.float32,
    )
    frac_coords = jnp.asarray(rng.uniform(-2, 2, size=(6, 3)), jnp.float32)
    # In a reduced cell no lattice vector more than 3 cells away from a pair's own difference,
    # itself at most 4 cells wide, can be the shortest.
    images = np.array(list(itertools.product(range(-7, 8), repeat=3)))
    exact = np.asarray(frac_coords, np.float64)
    pairs = exact[None, :] - exact[:, None]
    cartesian = (pairs[:, :, None] + images) @ np.asarray(lattice, np.float64)
    expected = np.linalg.norm(cartesian, axis=-1).min(axis=-1)
    np.testing.assert_allclose(
        minimum_image_distances(lattice, frac_coords), expected, atol=LENGTH_TOLERANCE
    )


def test_minimum_image_distances_ignore_rotation_and_choice_of_image():
    key_frac, key_shift = jax.random.split(jax.random.key(0))
    lattice = lattice_from_parameters(jnp.array([5.0, 6.0, 7.0]), jnp.array([80.0, 85.0, 75.0]))
    frac_coords = jax.random.uniform(key_frac, (5, 3))
    shift = jax.random.randint(key_shift, (5, 3), -3, 4)
    rotated = jnp.asarray(lattice @ Rotation.random(rng=1).as_matrix(), jnp.float32)
    distances = minimum_image_distances(lattice, frac_coords)
    np.testing.assert_allclose(
        minimum_image_distances(rotated, frac_coords + shift), distances, atol=LENGTH_TOLERANCE
    )
    np.testing.assert_allclose(distances, distances.T, atol=LENGTH_TOLERANCE)
    np.testing.assert_array_equal(np.diagonal(distances), 0.0)
