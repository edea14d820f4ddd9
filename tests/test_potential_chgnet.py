"""potentials/chgnet.py against the original network, finite differences and symmetries."""

from itertools import pairwise

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials.batching import pad
from crystal_diffusion_jax.potentials.chgnet import GPA
from crystal_diffusion_jax.potentials.neighbours import (
    AtomGraph,
    Capacity,
    atom_graph,
    structure_graph,
)
from tests.potential_crystals import (
    CAPACITY,
    exact_energy,
    exact_outputs,
    golden,
    golden_graph,
    outputs,
    parameters,
    rock_salt,
)

# Of a batch with the densest crystals; compiled once more.
LARGE = Capacity(crystals=21, atoms=241, long_bonds=16385, short_bonds=4097, angles=65537)


def batches() -> list[list[int]]:
    """Indices of the golden crystals, as many in a batch as there is room for."""
    groups: list[list[int]] = [[]]
    total = Capacity(0, 0, 0, 0, 0)
    for index, crystal in enumerate(golden()):
        size = golden_graph(crystal).size
        if not (total + size).fits(LARGE):
            groups.append([])
            total = Capacity(0, 0, 0, 0, 0)
        groups[-1].append(index)
        total += size
    return groups


def test_all_crystals_have_the_values_of_the_original() -> None:
    parameters()
    for members in batches():
        found = outputs([golden_graph(golden()[index]) for index in members], LARGE)
        end = 0
        for row, index in enumerate(members):
            crystal = golden()[index]
            graph = golden_graph(crystal)
            num_atoms = len(graph.atomic_numbers)
            start, end = end, end + num_atoms
            assert 2 * len(graph.bonds) == crystal["num_directed_edges"]
            assert len(graph.angles) == crystal["num_angles"]
            energy = found.energy[row] / num_atoms
            assert energy == pytest.approx(crystal["energy_per_atom"], abs=5e-5)
            np.testing.assert_allclose(found.forces[start:end], crystal["forces"], atol=1e-3)
            np.testing.assert_allclose(found.stress[row] * GPA, crystal["stress_GPa"], atol=5e-3)
            np.testing.assert_allclose(
                found.magnetic_moments[start:end], crystal["magmoms"], atol=1e-4
            )


def low_symmetry() -> Structure:
    """Three elements in a skewed cell, with short bonds of atoms to their own images."""
    lattice = Lattice([[2.9, 0.1, 0.0], [0.7, 3.8, 0.2], [-0.4, 0.9, 4.4]])
    coords = [[0.02, 0.05, 0.01], [0.48, 0.55, 0.47], [0.55, 0.02, 0.51], [0.1, 0.5, 0.2]]
    return Structure(lattice, ["Fe", "O", "Li", "O"], coords)


def test_forces_and_stress_are_finite_differences_of_the_energy() -> None:
    structure = low_symmetry()
    graph = structure_graph(structure, skin=True)  # complete for all displacements
    found = exact_outputs([graph])
    step = 1e-5
    assert np.abs(found.forces[:4]).max() > 0.1
    lattice, coords = graph.lattice, graph.frac_coords
    moves, strains = step * np.eye(12).reshape(12, 4, 3), step * np.eye(9).reshape(9, 3, 3)
    displaced = [(lattice, coords + move @ np.linalg.inv(lattice)) for move in moves]
    displaced += [(lattice @ (np.eye(3) + strain), coords) for strain in strains]
    displaced += [(lattice, coords - move @ np.linalg.inv(lattice)) for move in moves]
    displaced += [(lattice @ (np.eye(3) - strain), coords) for strain in strains]
    energies: list[float] = []
    for first in range(0, 42, 14):  # as many as there is room for
        lattices, places = map(np.stack, zip(*displaced[first : first + 14], strict=True))
        found_there = exact_outputs([graph] * 14, lattices, places.reshape(-1, 3))
        energies += found_there.energy[:14].tolist()
    more, less = np.array(energies).reshape(2, 21)
    slopes = (more - less) / (2 * step)
    np.testing.assert_allclose(found.forces[:4].ravel(), -slopes[:12], rtol=0, atol=1e-6)
    stress = slopes[12:].reshape(3, 3) / structure.volume
    np.testing.assert_allclose(found.stress[0], stress, rtol=0, atol=1e-7)


def test_rotation_translation_and_order_of_the_atoms_do_not_matter() -> None:
    structure = low_symmetry()
    reference = exact_outputs([structure_graph(structure)])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    order = [2, 0, 3, 1]
    moved = Structure(
        structure.lattice.matrix @ rotation,
        [structure.species[i] for i in order],
        structure.frac_coords[order] + [0.31, -7.2, 0.77],
    )
    found = exact_outputs([structure_graph(moved)])
    assert found.energy[0] == pytest.approx(reference.energy[0], abs=1e-9)
    np.testing.assert_allclose(
        found.forces[:4], reference.forces[:4][order] @ rotation, rtol=0, atol=1e-8
    )
    turned = rotation.T @ reference.stress[0] @ rotation
    np.testing.assert_allclose(found.stress[0], turned, rtol=0, atol=1e-9)
    moments = reference.magnetic_moments[:4][order]
    np.testing.assert_allclose(found.magnetic_moments[:4], moments, rtol=0, atol=1e-9)


def test_another_cell_of_the_same_crystal_has_the_same_energy_per_atom() -> None:
    structure = low_symmetry()
    expected = exact_energy(structure)
    skewed = structure.copy()
    skewed.make_supercell([[1, 1, 0], [0, 1, 0], [2, 0, 1]])  # as many atoms
    doubled = structure.copy()
    doubled.make_supercell([1, 2, 1])
    assert exact_energy(skewed) == pytest.approx(expected, abs=1e-9)
    assert exact_energy(doubled) == pytest.approx(expected, abs=1e-9)


def test_one_atom_and_two_hundred_have_one_energy_per_atom() -> None:
    iron = Structure(Lattice.cubic(2.83), ["Fe", "Fe"], [[0.0] * 3, [0.5] * 3])
    primitive = iron.get_primitive_structure()
    assert len(primitive) == 1
    large = iron.copy()
    large.make_supercell([5, 5, 4])
    assert len(large) == 200
    graphs = [structure_graph(primitive), structure_graph(large)]
    found = np.array(outputs(graphs, LARGE).energy[:2]) / [1, 200]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_longer_lists_change_nothing() -> None:
    structure = rock_salt(3, displacement=0.2)
    plain, longer = (structure_graph(structure, skin) for skin in (False, True))
    assert len(longer.bonds) > len(plain.bonds)
    assert len(longer.angles) > len(plain.angles)
    expected, found = exact_outputs([plain]), exact_outputs([longer])
    assert found.energy[0] == pytest.approx(expected.energy[0], abs=1e-10)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=1e-10)


@pytest.mark.parametrize("distance", [3.0, 6.0])
def test_the_energy_is_smooth_across_the_cutoffs(distance: float) -> None:
    # Two atoms, their distance along the first axis crosses the cutoff; the rest is far or fixed.
    lattice = np.diag([2 * distance + 1.5, 3.7, 3.9])
    step = 5e-4
    graphs = []
    for k in (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5):
        x = (distance + step * k) / lattice[0, 0]
        coords = np.array([[0, 0, 0], [x, 0.02, 0.01]])
        graphs.append(atom_graph(lattice, coords, np.array([22, 8])))
    found = exact_outputs(graphs)
    path = zip(found.energy[:6].tolist(), found.forces[1:12:2, 0].tolist(), strict=True)
    for (energy, force), (next_energy, next_force) in pairwise(path):
        # The trapezoidal rule is exact but for the curvature of the force times step^3 / 12.
        by_forces = -step * (force + next_force) / 2
        assert next_energy - energy == pytest.approx(by_forces, abs=2e-9)


def test_a_crystal_does_not_depend_on_its_batch() -> None:
    structures = [rock_salt(), low_symmetry(), rock_salt(2, displacement=0.3)]
    graphs = [structure_graph(structure) for structure in structures]
    together = outputs(graphs)
    starts = np.cumsum([0, *map(len, structures)])
    reverse = outputs(graphs[::-1])
    np.testing.assert_allclose(reverse.energy[:3][::-1], together.energy[:3], atol=2e-5)
    for index, graph in enumerate(graphs):
        alone = outputs([graph])
        rows = slice(starts[index], starts[index + 1])
        assert alone.energy[0] == pytest.approx(together.energy[index], abs=2e-5)
        size = len(graph.atomic_numbers)
        np.testing.assert_allclose(alone.forces[:size], together.forces[rows], atol=2e-5)
        np.testing.assert_allclose(alone.stress[0], together.stress[index], atol=2e-6)


def test_padding_feels_nothing_and_says_nothing() -> None:
    graphs = [structure_graph(low_symmetry())]
    found = outputs(graphs)
    assert np.abs(found.forces[4:]).max() == 0.0
    assert np.abs(found.stress[1:]).max() == 0.0
    assert np.isfinite(found.energy).all()


def test_batches_refer_to_the_bonds_of_their_crystals() -> None:
    graphs: list[AtomGraph] = [structure_graph(rock_salt()), structure_graph(low_symmetry())]
    batch = pad(graphs, CAPACITY)
    # Both bonds of an angle start at one atom; the left ones ascend.
    short = batch.num_short
    start = np.concatenate([batch.first[:short], batch.second[:short]])
    num_angles = sum(len(graph.angles) for graph in graphs)
    np.testing.assert_array_equal(start[batch.left], start[batch.right])
    assert (np.diff(batch.left) >= 0).all()
    left = np.asarray(batch.left) % short
    assert np.sum(left < sum(graph.num_short for graph in graphs)) == num_angles
