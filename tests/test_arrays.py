import dataclasses

import numpy as np
import pytest

from crystal_diffusion_jax.data.arrays import CrystalDataset, dataset_statistics


@pytest.fixture
def dataset() -> CrystalDataset:
    """Four crystals of 2, 1, 3 and 2 atoms with two properties."""
    rng = np.random.default_rng(0)
    num_atoms = np.array([2, 1, 3, 2])
    return CrystalDataset(
        lattice=rng.normal(size=(4, 3, 3)) + 4 * np.eye(3),
        num_atoms=num_atoms,
        frac_coords=rng.uniform(size=(8, 3)),
        atomic_numbers=np.array([8, 22, 6, 56, 8, 8, 22, 8]),
        properties=np.array([[1.0, 0.1], [2.0, 0.1], [4.0, 0.1], [9.0, 0.1]]),
        property_names=("energy", "constant"),
        material_ids=np.array(["a", "b", "c", "d"]),
    )


def atoms_of(dataset: CrystalDataset, row: int) -> tuple[np.ndarray, np.ndarray]:
    start = int(dataset.num_atoms[:row].sum())
    stop = start + int(dataset.num_atoms[row])
    return dataset.frac_coords[start:stop], dataset.atomic_numbers[start:stop]


def test_offsets_bound_the_atoms_of_each_crystal(dataset):
    assert dataset.offsets.tolist() == [0, 2, 3, 6, 8]
    assert len(dataset) == 4


@pytest.mark.parametrize("rows", [[2], [3, 0], [1, 1, 2], [0, 1, 2, 3]])
def test_taken_crystals_keep_their_own_atoms_in_the_order_asked(dataset, rows):
    taken = dataset.take(np.array(rows))
    assert taken.material_ids.tolist() == ["abcd"[row] for row in rows]
    assert taken.property_names == dataset.property_names
    for new, old in enumerate(rows):
        np.testing.assert_array_equal(taken.lattice[new], dataset.lattice[old])
        np.testing.assert_array_equal(taken.properties[new], dataset.properties[old])
        for found, expected in zip(atoms_of(taken, new), atoms_of(dataset, old), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert len(taken.frac_coords) == taken.num_atoms.sum()


def test_taking_nothing_gives_an_empty_data_set(dataset):
    empty = dataset.take(np.zeros(0, np.int64))
    assert len(empty) == 0
    assert empty.frac_coords.shape == (0, 3)
    assert empty.offsets.tolist() == [0]


def test_the_checksum_tells_crystals_and_properties_apart_but_not_their_names(dataset):
    renamed = dataclasses.replace(dataset, material_ids=np.array(["x", "b", "c", "d"]))
    assert renamed.checksum() == dataset.checksum()
    assert dataset.take(np.array([0, 1, 3, 2])).checksum() != dataset.checksum()
    for name in ("lattice", "frac_coords", "atomic_numbers", "properties", "num_atoms"):
        array = getattr(dataset, name).copy()
        array.flat[-1] += 1
        changed = dataclasses.replace(dataset, **{name: array})
        assert changed.checksum() != dataset.checksum(), name


def test_the_vocabulary_is_the_sorted_set_of_elements_and_the_histogram_counts_sizes(dataset):
    statistics = dataset_statistics(dataset, scale_by_num_atoms=False)
    assert statistics.vocabulary == (6, 8, 22, 56)
    assert statistics.num_atoms_histogram == ((1, 1), (2, 2), (3, 1))
    assert statistics.property_names == ("energy", "constant")


def test_property_statistics_are_those_of_each_column(dataset):
    statistics = dataset_statistics(dataset, scale_by_num_atoms=False)
    assert statistics.property_mean[0] == pytest.approx(4.0)
    # Variance: (9 + 4 + 0 + 25) / 4.
    assert statistics.property_std[0] == pytest.approx(9.5**0.5)
    assert (statistics.property_min[0], statistics.property_max[0]) == (1.0, 9.0)


@pytest.mark.parametrize("count", [1, 3, 7, 10, 1000])
def test_a_constant_property_has_standard_deviation_one(dataset, count):
    # Rounding makes numpy's standard deviation of many 0.1 tiny instead of zero.
    many = dataset.take(np.zeros(count, np.int64))
    statistics = dataset_statistics(many, scale_by_num_atoms=False)
    assert statistics.property_std == (1.0, 1.0)
    assert statistics.property_mean == pytest.approx((1.0, 0.1))


def test_lattices_in_their_unit_have_mean_length_one(dataset):
    for scale_by_num_atoms in (False, True):
        statistics = dataset_statistics(dataset, scale_by_num_atoms)
        unit = statistics.lattice_unit(dataset.num_atoms)
        lengths = np.sqrt((dataset.lattice**2).sum(axis=-1)) / unit[:, None]
        assert lengths.mean() == pytest.approx(1.0)


def test_the_lattice_unit_grows_with_the_cube_root_of_the_atoms_only_when_asked(dataset):
    numbers = np.array([1, 8, 27])
    plain = dataset_statistics(dataset, scale_by_num_atoms=False)
    grown = dataset_statistics(dataset, scale_by_num_atoms=True)
    np.testing.assert_allclose(plain.lattice_unit(numbers), plain.lattice_scale)
    np.testing.assert_allclose(
        grown.lattice_unit(numbers), grown.lattice_scale * np.array([1.0, 2.0, 3.0])
    )


def test_supercells_of_one_crystal_have_one_lattice_in_grown_units(dataset):
    one = dataset.take(np.array([0]))
    eight = dataclasses.replace(
        one,
        lattice=2 * one.lattice,
        num_atoms=8 * one.num_atoms,
        frac_coords=np.tile(one.frac_coords, (8, 1)),
        atomic_numbers=np.tile(one.atomic_numbers, 8),
    )
    statistics = dataset_statistics(one, scale_by_num_atoms=True)
    np.testing.assert_allclose(
        eight.lattice / statistics.lattice_unit(eight.num_atoms)[:, None, None],
        one.lattice / statistics.lattice_unit(one.num_atoms)[:, None, None],
    )
