"""Radial and directional features of neighbours against loops over pymatgen's images."""

import itertools

import jax
import numpy as np
import pytest
from pymatgen.core import Lattice

from crystal_diffusion_jax.models.neighbours import CUTOFF, Neighbours, find_neighbours, virial

NUM_RADIAL = 5
NUM_ATOMS = (4, 2)
ONES = np.ones((1, 2))


def crystals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lattice = 0.6 * np.eye(3) + rng.normal(0, 0.15, (2, 3, 3))
    mask = np.arange(4) < np.array(NUM_ATOMS)[:, None]
    return rng.random((2, 4, 3)), lattice, mask


neighbours_from = jax.jit(find_neighbours, static_argnums=3)


def neighbours_of(frac_coords: np.ndarray, lattice: np.ndarray, mask: np.ndarray) -> Neighbours:
    arrays = (frac_coords.astype(np.float32), lattice.astype(np.float32), mask.astype(bool))
    return neighbours_from(*arrays, NUM_RADIAL)


def features(frac_coords: np.ndarray, lattice: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(neighbours_of(frac_coords, lattice, mask).pairs)


def bump(distance: float, centre: float) -> float:
    width = 1.5 * CUTOFF / NUM_RADIAL
    return max(0.0, 1.0 - ((distance - centre) / width) ** 2) ** 2


def test_features_are_sums_over_the_27_nearest_images():
    frac_coords, lattice, mask = crystals()
    found = features(frac_coords, lattice, mask).reshape(2, 4, 4, NUM_RADIAL, 4).swapaxes(-1, -2)
    centres = [CUTOFF * m / NUM_RADIAL for m in range(1, NUM_RADIAL + 1)]
    for b, count in enumerate(NUM_ATOMS):
        unit = count ** (1 / 3)
        cell = Lattice(unit * lattice[b])
        for i, j in itertools.product(range(count), repeat=2):
            nearest = frac_coords[b, j] - frac_coords[b, i]
            nearest = nearest - np.round(nearest)
            expected = np.zeros((4, NUM_RADIAL))
            for image in itertools.product((-1, 0, 1), repeat=3):
                offset = nearest + image
                distance = float(np.linalg.norm(cell.get_cartesian_coords(offset)))
                for m, centre in enumerate(centres):
                    weight = bump(distance, centre)
                    expected[:, m] += weight * np.array([1.0, *(unit * offset)])
            np.testing.assert_allclose(found[b, i, j], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("handedness", [1, -1])
def test_neither_orientation_nor_shifts_nor_other_cells_of_an_atom_matter(handedness):
    frac_coords, lattice, mask = crystals()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    before = features(frac_coords, lattice, mask)
    moved = frac_coords + np.array([0.3, -0.2, 0.1])
    moved[:, 1] += [1, -2, 3]
    after = features(moved, lattice @ rotation * handedness, mask)
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_padding_changes_nothing_between_real_atoms():
    frac_coords, lattice, mask = crystals()
    alone = features(frac_coords[1:, :2], lattice[1:], mask[1:, :2])
    padded = features(frac_coords, lattice, mask)[1:, :2, :2]
    np.testing.assert_allclose(padded, alone, atol=1e-5)


def test_the_same_crystal_with_a_doubled_cell_has_the_same_distances_to_its_neighbours():
    """Two atoms half a cell apart, and twice as many in a cell of twice the volume."""
    small = features(np.array([[[0, 0, 0], [0.5, 0.5, 0.5]]]), 2 * np.eye(3)[None], np.ones((1, 2)))
    double = np.array([[[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]]])
    # In units of a scale that grows as N^(1/3) the doubled cell is smaller by 2^(1/3).
    cell = np.diag([2, 2, 4]) / np.cbrt(2)
    large = features(double, cell[None], np.ones((1, 4)))
    radial_small, radial_large = small[..., ::4], large[..., ::4]
    np.testing.assert_allclose(
        radial_large[0, 0].sum(axis=0), radial_small[0, 0].sum(axis=0), atol=1e-4
    )


def test_atoms_beyond_the_cutoff_have_no_features():
    far = features(np.array([[[0, 0, 0], [0.5, 0.5, 0.5]]]), 10 * np.eye(3)[None], np.ones((1, 2)))
    assert np.all(far[0, 0, 1] == 0)
    assert np.all(
        far[0, 0, 0]
        == features(np.zeros((1, 2, 3)), 10 * np.eye(3)[None], np.ones((1, 2)))[0, 0, 0]
    )


def test_degenerate_cells_give_finite_features():
    found = features(np.zeros((1, 2, 3)), np.zeros((1, 3, 3)), np.ones((1, 2)))
    assert np.isfinite(found).all()
    for leaf in jax.tree.leaves(neighbours_of(np.zeros((1, 2, 3)), np.zeros((1, 3, 3)), ONES)):
        assert np.isfinite(leaf).all()


def test_pull_and_strain_are_sums_over_all_images_of_all_atoms():
    frac_coords, lattice, mask = crystals()
    found = neighbours_of(frac_coords, lattice, mask)
    centres = [CUTOFF * m / NUM_RADIAL for m in range(1, NUM_RADIAL + 1)]
    for b, number in enumerate(NUM_ATOMS):
        unit = number ** (1 / 3)
        cell = Lattice(unit * lattice[b])
        for i, (m, centre) in itertools.product(range(number), enumerate(centres)):
            total, pull, strain = 0.0, np.zeros(3), np.zeros((3, 3))
            for j in range(number):
                nearest = frac_coords[b, j] - frac_coords[b, i]
                nearest = nearest - np.round(nearest)
                for image in itertools.product((-1, 0, 1), repeat=3):
                    u = unit * (nearest + image)
                    distance = float(np.linalg.norm(cell.get_cartesian_coords(nearest + image)))
                    weight = bump(distance, centre)
                    total += weight
                    pull += weight * u
                    strain += weight * np.outer(u, u) / centre**2
            scale = 1 + 2 * centre**2 + total
            np.testing.assert_allclose(found.pull[b, i, m], pull / scale, rtol=1e-3, atol=1e-4)
            upper = (strain / scale)[np.triu_indices(3)]
            np.testing.assert_allclose(found.strain[b, i, m], upper, rtol=1e-3, atol=1e-4)


def test_the_virial_is_the_strain_of_the_energy_of_bonds():
    """dE/d(strain) of E = sum over bonds of V(r), V' from the shells, by finite differences."""
    frac_coords, lattice, _ = crystals()
    one = (frac_coords[:1, :, :], lattice[:1], np.ones((1, 4), bool))
    unit = 4 ** (1 / 3)
    centres = CUTOFF * np.arange(1, NUM_RADIAL + 1) / NUM_RADIAL
    strength = np.random.default_rng(3).normal(size=NUM_RADIAL)

    def bonds(cell: np.ndarray) -> np.ndarray:
        difference = one[0][0][None, :] - one[0][0][:, None]
        difference = difference - np.round(difference)
        images = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
        return unit * (difference[:, :, None] + images).reshape(-1, 3) @ cell

    def slope(r: np.ndarray) -> np.ndarray:
        """V'(r) / r: the weight of the bond's r r^T in the virial."""
        width = 1.5 * CUTOFF / NUM_RADIAL
        bumps = np.maximum(0, 1 - ((r[:, None] - centres) / width) ** 2) ** 2
        return bumps @ strength

    def energy(cell: np.ndarray) -> float:
        r = np.linalg.norm(bonds(cell), axis=1)
        nodes, weights = np.polynomial.legendre.leggauss(60)
        # V(r) is the integral of slope(x) x from 0 to r, over pieces where slope is smooth enough.
        pieces = np.linspace(0, 1, 41)
        total = 0.0
        for low, high in itertools.pairwise(pieces):
            x = r[:, None] * (low + (high - low) * (nodes + 1) / 2)
            values = slope(x.ravel()).reshape(x.shape) * x
            total += float(np.sum(values * weights * r[:, None] * (high - low) / 2))
        return total

    found = neighbours_of(*one)
    # Undo what normalises the features: the weight of a shell is `strength` for every atom.
    count = np.asarray(found.pairs).reshape(1, 4, 4, NUM_RADIAL, 4)[..., 0].sum(axis=2)
    weight = strength * centres**2 * (1 + 2 * centres**2 + count)
    phi = jax.jit(virial)(
        weight.astype(np.float32), found, one[1].astype(np.float32), np.asarray(one[2])
    )
    # phi L = L (strain of the virial), and the mean is over four atoms.
    strain = np.linalg.solve(one[1][0], np.asarray(phi)[0] @ one[1][0]) * 4
    step = 1e-5
    for a, b in itertools.product(range(3), repeat=2):
        change = np.zeros((3, 3))
        change[a, b] = step
        cells = [one[1][0] @ (np.eye(3) + sign * change) for sign in (1, -1)]
        derivative = (energy(cells[0]) - energy(cells[1])) / (2 * step)
        assert strain[a, b] == pytest.approx(derivative, rel=2e-3, abs=2e-3)
