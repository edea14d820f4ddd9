"""training_crystals.npz: what a model was trained on, in its folder."""

from pathlib import Path

import numpy as np
import pytest

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError


@pytest.fixture(scope="module")
def dataset() -> CrystalDataset:
    return load(DataConfig(name="abx3"))["train"].take(np.arange(30))


def test_what_is_saved_is_read_within_the_stated_digits(
    dataset: CrystalDataset, tmp_path: Path
) -> None:
    training_crystals.save(dataset, tmp_path)
    found = training_crystals.load(tmp_path)
    assert found is not None
    np.testing.assert_allclose(found.lattice, dataset.lattice, rtol=1e-6, atol=1e-6)
    step = (found.frac_coords - dataset.frac_coords + 0.5) % 1 - 0.5
    assert np.abs(step).max() <= 0.5 / 65536
    assert found.frac_coords.min() >= 0
    assert found.frac_coords.max() < 1
    np.testing.assert_array_equal(found.num_atoms, dataset.num_atoms)
    np.testing.assert_array_equal(found.atomic_numbers, dataset.atomic_numbers)
    np.testing.assert_allclose(found.properties, dataset.properties, rtol=1e-6)
    assert found.property_names == dataset.property_names
    assert list(found.material_ids) == list(dataset.material_ids)


def test_a_coordinate_just_below_one_becomes_zero(dataset: CrystalDataset, tmp_path: Path) -> None:
    dataset = dataset.take(np.array([0]))
    dataset.frac_coords[0] = 1 - 1e-9
    training_crystals.save(dataset, tmp_path)
    found = training_crystals.load(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.frac_coords[0], 0)


def test_a_model_without_them_has_none(tmp_path: Path) -> None:
    assert training_crystals.load(tmp_path) is None


@pytest.mark.parametrize("name", ["species", "frac_coords", "lattice", "properties"])
def test_arrays_that_do_not_fit_are_refused(
    dataset: CrystalDataset, tmp_path: Path, name: str
) -> None:
    training_crystals.save(dataset, tmp_path)
    path = tmp_path / training_crystals.FILE
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    np.savez_compressed(path, allow_pickle=False, **(arrays | {name: arrays[name][1:]}))
    with pytest.raises(UserError, match=r"npz is damaged \(.*; copy the model again"):
        training_crystals.load(tmp_path)
    del arrays[name]
    np.savez_compressed(path, allow_pickle=False, **arrays)
    with pytest.raises(UserError, match=f"{name} is missing"):
        training_crystals.load(tmp_path)
