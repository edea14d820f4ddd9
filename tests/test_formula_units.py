"""The table of formula units in the cells of each anonymous formula."""

import dataclasses
import json
import math
from collections import Counter

import msgspec
import numpy as np
import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.data import formula_units
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from crystal_diffusion_jax.data.formula_units import anonymous, count_formula_units
from tests.knowing_model import knowing

CELLS = [
    [22, 8, 8],  # TiO2
    [8, 22, 8, 22, 8, 8],  # two TiO2
    [14, 8, 8, 14, 8, 8],  # two SiO2
    [56, 22, 8, 8, 8],
    [6, 6],
]
TABLE = (((1,), ((2, 1),)), ((1, 1, 3), ((1, 1),)), ((1, 2), ((1, 1), (2, 2))))


def counted(cells):
    return count_formula_units(np.array([*map(len, cells)]), np.concatenate(cells))


def test_cells_are_counted_by_the_proportions_of_their_elements_and_their_size():
    assert counted(CELLS) == TABLE
    assert counted([CELLS[0]]) == (((1, 2), ((1, 1),)),)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_table_is_that_of_counting_cell_by_cell(monkeypatch, chunk):
    rng = np.random.default_rng(0)
    cells = [rng.choice([3, 8, 22, 118], rng.integers(1, 13)) for _ in range(100)]
    wanted: Counter = Counter()
    for cell in cells:
        counts = sorted(Counter(cell.tolist()).values())
        units = math.gcd(*counts)
        wanted[tuple(count // units for count in counts), units] += 1
    monkeypatch.setattr(formula_units, "_CHUNK", chunk)
    found = {
        (formula, units): number
        for formula, by_units in counted(cells)
        for units, number in by_units
    }
    assert found == wanted


def test_only_the_most_common_formulas_are_kept(monkeypatch):
    monkeypatch.setattr(formula_units, "_MAX_FORMULAS", 2)
    # Of the two that occur once the first.
    assert counted(CELLS) == (TABLE[0], TABLE[2])


def test_an_anonymous_formula_is_reduced_and_ascends():
    assert anonymous([6, 2, 4]) == ((1, 2, 3), 2)
    assert anonymous([5]) == ((1,), 5)


def test_a_model_keeps_the_table_of_its_training_data():
    dataset = CrystalDataset(
        lattice=np.broadcast_to(4.0 * np.eye(3), (5, 3, 3)),
        num_atoms=np.array([*map(len, CELLS)]),
        frac_coords=np.zeros((22, 3)),
        atomic_numbers=np.concatenate(CELLS),
        properties=np.arange(5.0)[:, None],
        property_names=("gap",),
        material_ids=np.array([*"abcde"]),
    )
    statistics = dataset_statistics(dataset, False)
    assert statistics.formula_units == TABLE
    text = json.dumps(dataclasses.asdict(statistics))
    assert msgspec.json.decode(text, type=DatasetStatistics) == statistics


def test_models_without_the_table_are_read():
    values = dataclasses.asdict(trained_model.load("perov5_cds").statistics)
    values.pop("formula_units")
    assert msgspec.convert(values, DatasetStatistics).formula_units == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((((1, 2), ((1, 1),)), ((1, 1), ((1, 1),))), "must ascend"),
        ((((2, 1), ((1, 1),)),), "not reduced"),
        ((((2, 4), ((1, 1),)),), "not reduced"),
        ((((0, 1), ((1, 1),)),), "not reduced"),
        ((((), ((1, 1),)),), "not reduced"),
        ((((1, 2), ()),), "ascend from 1"),
        ((((1, 2), ((2, 1), (1, 1))),), "ascend from 1"),
        ((((1, 2), ((0, 1),)),), "ascend from 1"),
        ((((1, 2), ((7, 1),)),), "no size in the histogram"),
        ((((1, 2), ((1, 0),)),), "count below 1"),
        ((((1, 2), ((1, 10_000),)),), "more crystals than there are"),
    ],
)
def test_a_damaged_table_is_refused(tiny_model, table, message):
    with pytest.raises(ValueError, match=message):
        knowing(tiny_model, table)
