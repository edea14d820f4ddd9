"""The training crystals in a model's folder, and the templates that they are."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.templates import Templates
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.given import given_crystals, template_cells, without_template
from crystal_diffusion_jax.structures.canonical import Cell
from tests.test_batches import made_up
from tests.test_trained_model import made_up_model

SIZES = np.array([3, 1, 5, 2])


def with_classes() -> CrystalDataset:
    dataset = made_up(SIZES)
    properties = np.stack([np.linspace(-1, 1, 4), [0.0, np.nan, 1.0, 2.0]], axis=1)
    return dataclasses.replace(
        dataset,
        properties=properties,
        property_names=("energy", "kind"),
        class_names={"kind": ("metal", "semiconductor", "Isolator, ä")},
        material_ids=np.array(["mp-1", "9", "ä", ""]),
    )


def test_crystals_are_kept_to_a_65536th_of_a_cell_vector(tmp_path):
    dataset = with_classes()
    dataset.frac_coords[0] = [1 - 1e-6, 0.0, 1 / 3]  # the first rounds to a whole cell vector
    training_crystals.save(dataset, tmp_path)
    found = training_crystals.load(tmp_path)
    assert found is not None
    for name in ("num_atoms", "atomic_numbers", "material_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(dataset, name))
    np.testing.assert_allclose(found.lattice, dataset.lattice, rtol=1e-7)
    np.testing.assert_allclose(found.properties, dataset.properties, rtol=1e-7)
    apart = (found.frac_coords - dataset.frac_coords + 0.5) % 1 - 0.5
    assert np.abs(apart).max() <= 0.5 / 65536 + 1e-12
    assert found.frac_coords.min() >= 0
    assert found.frac_coords.max() < 1
    assert found.frac_coords[0, 0] == 0.0
    assert found.property_names == dataset.property_names
    assert found.class_names == dataset.class_names


def test_a_model_comes_with_its_crystals_until_they_are_removed(tmp_path):
    folder, dataset = tmp_path / "model", made_up(SIZES)
    trained_model.save(made_up_model(), folder, dataset)
    trained_model.save(made_up_model(), folder)  # of a later step: the crystals stay
    found = trained_model.load(folder).training_crystals()
    assert found is not None
    np.testing.assert_array_equal(found.atomic_numbers, dataset.atomic_numbers)
    (folder / training_crystals.FILE).unlink()
    assert trained_model.load(folder).training_crystals() is None
    trained_model.save(made_up_model(), folder)
    assert trained_model.load(folder).training_crystals() is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_atoms": SIZES + 1}, "frac_coords has another shape"),
        ({"num_atoms": np.array([0, 4, 5, 2])}, "less than 1"),
        ({"atomic_numbers": np.full(11, 119)}, "atomic numbers"),
        ({"lattice": np.zeros((4, 3, 3))}, "flat"),
        ({"lattice": np.full((4, 3, 3), np.nan)}, "flat"),
        ({"properties": np.zeros((4, 2))}, "properties has another shape"),
        ({"material_ids": np.array(["a"])}, "material_ids has another shape"),
        ({"names": np.array("{}")}, "missing required field"),
        ({"names": np.array("[")}, ""),
        ({"lattice": None}, "lattice"),
        ({"names": np.array([{}], dtype=object)}, "names"),
    ],
)
def test_a_file_of_something_else_is_refused(changes, reason, tmp_path):
    training_crystals.save(made_up(SIZES), tmp_path)
    path = tmp_path / training_crystals.FILE
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=f"does not hold training crystals .*{reason}"):
        training_crystals.load(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    training_crystals.save(made_up(SIZES), tmp_path)
    path = tmp_path / training_crystals.FILE
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="copy the model again"):
        training_crystals.load(tmp_path)


def templates_of(wanted: Sequence[np.ndarray], ranks: Sequence[int]) -> list[Cell]:
    return template_cells(wanted, ranks, Templates(two_structures()))


def two_structures() -> CrystalDataset:
    """BaO twice, in two structures, and TiO2."""
    numbers = [56, 8, 8, 56, 8, 22, 8]
    return CrystalDataset(
        lattice=np.array([4.0, 5.0, 3.0])[:, None, None] * np.eye(3),
        num_atoms=np.array([2, 2, 3]),
        frac_coords=np.array(
            [[0, 0, 0], [0.5] * 3, [0, 0, 0.5], [0, 0, 0], [0.3] * 3, [0, 0, 0], [0.7] * 3]
        ),
        atomic_numbers=np.array(numbers),
        properties=np.zeros((3, 0)),
        property_names=(),
        material_ids=np.array(["a", "b", "c"]),
    )


def test_templates_are_shared_out_among_the_crystals_of_a_composition():
    bao, sro, tio2 = (np.array(numbers) for numbers in ([8, 56], [8, 38], [8, 8, 22]))
    wanted = [sro, sro, sro, tio2]
    cells = templates_of(wanted, [0, 1, 2, 0])
    lengths = [cell.lattice[0, 0] for cell in cells]
    assert lengths == [lengths[0], lengths[1], lengths[0], 3.0]
    assert {lengths[0], lengths[1]} == {4.0, 5.0}
    for numbers, cell in zip(wanted, cells, strict=True):
        np.testing.assert_array_equal(cell.atomic_numbers, numbers)
    np.testing.assert_array_equal(cells[3].frac_coords, [[0.3] * 3, [0.7] * 3, [0, 0, 0]])
    # The same whichever crystals are asked for with them.
    (alone,) = templates_of([sro], [1])
    np.testing.assert_array_equal(alone.lattice, cells[1].lattice)
    assert templates_of([bao], [0])[0].lattice[0, 0] in (4.0, 5.0)


def test_the_search_for_templates_shows_its_progress(capsys):
    templates_of([np.array([8, 38]), np.array([8, 8, 22]), np.array([8, 38])], [0, 0, 1])
    said = capsys.readouterr().err
    assert "templates: 100%" in said
    assert "2/2" in said


def test_without_a_training_crystal_of_the_anonymous_formula_there_is_no_template():
    assert np.array([8, 22, 56]) not in Templates(two_structures())
    wanted = [np.array(numbers) for numbers in ([8, 22, 56], [8, 56], [8, 8, 22], [8, 8])]
    without = without_template(wanted, two_structures())
    assert [numbers.tolist() for numbers in without] == [[8, 22, 56], [8, 8]]


@pytest.mark.parametrize("scale", [False, True])
def test_given_crystals_are_in_the_units_of_the_network(scale):
    statistics = dataclasses.replace(made_up_model().statistics, scale_by_num_atoms=scale)
    first, second = (statistics.vocabulary[index] for index in (0, 1))
    cell = Cell(
        np.diag([2.0, 3.0, 4.0]), np.array([[0.1] * 3, [0.2] * 3]), np.array([first, second])
    )
    wanted = [cell.atomic_numbers, np.array([second])]
    single = Cell(np.eye(3), np.zeros((1, 3)), wanted[1])
    given = given_crystals(wanted, [cell, single], 3, statistics)
    np.testing.assert_array_equal(given.species, [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(given.mask, [[True, True, False], [True, False, False]])
    unit = statistics.lattice_scale * np.array([2 ** (1 / 3) if scale else 1, 1])
    expected = np.stack([cell.lattice / unit[0], single.lattice / unit[1]])
    np.testing.assert_allclose(given.lattice, expected, rtol=1e-6)
    np.testing.assert_allclose(given.frac_coords[0, :2], cell.frac_coords, rtol=1e-6)
    species_only = given_crystals(wanted, [None, None], 3, statistics)
    np.testing.assert_array_equal(species_only.species, given.species)
