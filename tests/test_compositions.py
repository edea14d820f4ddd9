"""Compositions drawn for formulas and chemical systems, against the tables they are drawn from."""

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.data.formula_units import anonymous
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.announcement import announcement
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.conditions import crystal_sizes
from crystal_diffusion_jax.sampling.neutrality import system_compositions
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.compositions import SYMBOLS, common_oxidation_states
from tests.knowing_model import SIZES, knowing

TABLE = (
    ((1, 1), ((1, 5), (2, 5))),
    ((1, 1, 3), ((1, 30), (2, 10))),
    ((1, 2), ((1, 20), (2, 50), (4, 10))),
    ((1, 2, 4), ((1, 8), (2, 12))),
)
HISTOGRAM = dict(SIZES)


@pytest.fixture
def model(tiny_model):
    return knowing(tiny_model, TABLE)


def text(cell):
    """For example "O4 Ti2"."""
    return " ".join(f"{SYMBOLS[number]}{count}" for number, count in sorted(Counter(cell).items()))


def shares(found):
    counts = Counter(text(cell.tolist()) for cell in found)
    return {cell: number / len(found) for cell, number in counts.items()}


def within_errors(found, wanted, num):
    """Whether shares of independent draws are those wanted, up to five standard errors."""
    assert found.keys() <= wanted.keys()
    return all(
        abs(found.get(cell, 0.0) - p) <= 5 * np.sqrt(p * (1 - p) / num) + 1e-12
        for cell, p in wanted.items()
    )


def drawn(model, **asked):
    found = compositions(resolve(model, "m", **asked), model)
    assert found is not None
    return found


def test_a_formula_with_its_units_is_the_cell_of_every_crystal(model):
    found = drawn(model, num=2, formula="TiO2,LiMnO2", formula_units="2")
    assert [cell.tolist() for cell in found] == 2 * [4 * [8] + 2 * [22]] + 2 * [
        [3, 3, 8, 8, 8, 8, 25, 25]
    ]
    assert all(cell.dtype == np.int64 for cell in found)
    request = resolve(model, "m", num=2, formula="TiO2,LiMnO2", formula_units="2")
    assert crystal_sizes(request, model).tolist() == [6, 6, 8, 8]


def test_a_formula_unit_is_the_formula_as_written(model):
    (cell,) = drawn(model, num=1, formula="Ti2O4", formula_units="1")
    assert text(cell.tolist()) == "O4 Ti2"
    (cell,) = drawn(model, num=1, formula="Ca(FO2)2", formula_units="1")
    assert text(cell.tolist()) == "O4 F2 Ca1"


def test_units_are_drawn_as_the_anonymous_formula_has_them_in_the_training_data(model):
    found = shares(drawn(model, num=4000, formula="TiO2"))
    assert within_errors(found, {"O2 Ti1": 0.25, "O4 Ti2": 0.625, "O8 Ti4": 0.125}, 4000)
    # Multiples of two TiO2 only.
    found = shares(drawn(model, num=4000, formula="Ti2O4"))
    assert within_errors(found, {"O4 Ti2": 5 / 6, "O8 Ti4": 1 / 6}, 4000)


def test_units_are_those_of_the_inverse_distribution_at_the_stream_of_the_seed(model):
    uniform = np.random.default_rng([7, 1000]).random(50)
    wanted = np.where(uniform <= 0.25, 3, np.where(uniform <= 0.875, 6, 12))
    found = drawn(model, num=50, seed=7, formula="TiO2")
    assert [len(cell) for cell in found] == wanted.tolist()


def test_an_unknown_anonymous_formula_has_the_sizes_that_its_multiples_can_have(model):
    found = shares(drawn(model, num=4000, formula="V2O5"))
    assert within_errors(found, {"O5 V2": 1 / 3, "O10 V4": 2 / 3}, 4000)


def test_units_depend_on_the_property_as_sizes_do(tiny_model):
    low = [100 * (size == 3) + 300 * (size == 12) + count for size, count in SIZES]
    rows = [low] + 19 * [[count for _, count in SIZES]]
    model = knowing(tiny_model, TABLE, by_property=rows)
    found = shares(drawn(model, num=4000, formula="TiO2", target="min"))
    weights = {
        "O2 Ti1": 20 * (100 + 30) / 30,
        "O4 Ti2": 50 * 60 / 60,
        "O8 Ti4": 10 * (300 + 120) / 120,
    }
    wanted = {cell: weight / sum(weights.values()) for cell, weight in weights.items()}
    assert within_errors(found, wanted, 4000)
    # Without the dependence, the table alone.
    sampling = dataclasses.replace(model.config.sampling, sizes_by_property=False)
    config = dataclasses.replace(model.config, sampling=sampling)
    plain = dataclasses.replace(model, config=config)
    found = shares(drawn(plain, num=4000, formula="TiO2", target="min"))
    assert within_errors(found, {"O2 Ti1": 0.25, "O4 Ti2": 0.625, "O8 Ti4": 0.125}, 4000)


@pytest.mark.parametrize("asked", [{"formula": "TiO2"}, {"chemical_system": "Ba-Ti-O"}])
def test_more_crystals_begin_with_the_same_ones(model, asked):
    many, few = (drawn(model, num=num, target="min", **asked) for num in (60, 9))
    assert [cell.tolist() for cell in many[:9]] == [cell.tolist() for cell in few]
    other = drawn(model, num=60, seed=1, target="min", **asked)
    assert [cell.tolist() for cell in many] != [cell.tolist() for cell in other]


def expected_system(symbols, sizes=tuple(HISTOGRAM), table=TABLE):
    """The probability of each composition, straight from the definition."""
    numbers = sorted(SYMBOLS.index(symbol) for symbol in symbols)
    counts, neutral = system_compositions(
        common_oxidation_states(numbers), tuple(size for size in sizes if size >= len(numbers))
    )
    kept = [each for each, can in zip(counts.tolist(), neutral, strict=True) if can]
    kept = kept or counts.tolist()
    known = {(formula, units): n for formula, row in table for units, n in row}
    seen, unseen = [], []
    for one in kept:
        alike = [other for other in kept if sorted(other) == sorted(one)]
        same_size = [other for other in kept if sum(other) == sum(one)]
        seen.append(known.get(anonymous(one), 0) / len(alike))
        unseen.append(HISTOGRAM[sum(one)] / len(same_size))
    part = np.array(unseen) / sum(unseen)
    if sum(seen):
        part = 0.99 * np.array(seen) / sum(seen) + 0.01 * part
    cells = [np.repeat(numbers, one).tolist() for one in kept]
    return {text(cell): p for cell, p in zip(cells, part, strict=True)}


@pytest.mark.parametrize("system", ["Ti-O", "Ba-Ti-O", "Li-Mn-O", "Fe-Ni", "V-O", "Li-Ti-F-O"])
def test_compositions_of_a_system_follow_the_definition(model, system):
    found = drawn(model, num=20_000, chemical_system=system)
    assert within_errors(shares(found), expected_system(system.split("-")), 20_000)


def test_each_crystal_has_each_element_and_balanced_charges(model):
    found = drawn(model, num=500, chemical_system="Ba-Ti-O")
    for cell in found:
        counts = Counter(cell.tolist())
        assert counts.keys() == {8, 22, 56}
        assert 2 * counts[8] == 4 * counts[22] + 2 * counts[56]
        assert sorted(cell.tolist()) == cell.tolist()


def test_a_system_of_unknown_anonymous_formulas_has_all_neutral_compositions(tiny_model):
    model = knowing(tiny_model)  # no table
    found = shares(drawn(model, num=20_000, chemical_system="V-O"))
    assert within_errors(found, {"O5 V2": 1 / 3, "O10 V4": 2 / 3}, 20_000)


def test_a_property_shifts_the_sizes_of_a_system(tiny_model):
    rows = [[count * (size == 12) for size, count in SIZES]]
    rows += 19 * [[count for _, count in SIZES]]
    model = knowing(tiny_model, TABLE, by_property=rows)
    found = drawn(model, num=50, chemical_system="Ti-O", target="min")
    assert shares(found) == {"O8 Ti4": 1.0}


def test_a_system_in_a_given_size(model):
    found = shares(drawn(model, num=50, chemical_system="Ba-Ti-O", num_atoms=5))
    assert found == {"O3 Ti1 Ba1": 1.0}


def test_a_system_that_cannot_be_neutral_has_all_compositions_and_says_so(model):
    request = resolve(model, "m", num=100, chemical_system="Fe-Ni")
    (warning,) = warnings(request, model)
    assert "neutral" in warning
    assert "drawn from all of them" in warning
    found = compositions(request, model)
    assert found is not None
    assert len(shares(found)) > 2
    assert warnings(resolve(model, "m", num=1, chemical_system="Ti-O"), model) == []
    (warning,) = warnings(resolve(model, "m", num=1, chemical_system="Ti-O", num_atoms=4), model)
    assert warning.startswith("no composition of the chemical system with 4 atoms is neutral")


def test_an_element_alone_is_neutral(model):
    found = drawn(model, num=200, chemical_system="Ti")
    assert len({len(cell) for cell in found}) > 5
    assert warnings(resolve(model, "m", num=1, chemical_system="Ti"), model) == []


def test_systems_without_room_or_with_too_many_compositions_are_refused(tiny_model, model):
    with pytest.raises(UserError, match=r"--chemical_system=Ba-O-Ti: .* no room for 3 elements"):
        resolve(model, "m", num=1, chemical_system="Ba-Ti-O", num_atoms=2)
    wide = knowing(tiny_model, sizes=[(size, 1) for size in range(2, 100)])
    system: dict[str, Any] = {"num": 1, "chemical_system": "Li-Fe-O-S"}
    with pytest.raises(UserError, match=r"compositions of up to 99 atoms.*--num_atoms"):
        resolve(wide, "m", **system)
    assert len(drawn(wide, num_atoms=30, **system)[0]) == 30


def test_a_model_that_knows_no_formulas_draws_no_compositions(tiny_model, model):
    without: list[dict[str, Any]] = [{"elements": "Ba,Ti,O"}, {}, {"charge_balance": True}]
    for asked in [*without, {"chemical_system": "Ba-Ti-O"}]:
        assert compositions(resolve(tiny_model, "m", num=1, **asked), tiny_model) is None
    for asked in without:
        assert compositions(resolve(model, "m", num=1, **asked), model) is None


def test_what_the_cells_hold_is_said(model):
    def lines(**asked):
        return announcement(resolve(model, "m", **asked), model)

    assert lines(num=20, formula="TiO2", formula_units="2") == ["TiO2: 6 atoms in the cell (Z = 2)"]
    sizes = [len(cell) for cell in drawn(model, num=20, formula="TiO2")]
    (line,) = lines(num=20, formula="TiO2")
    for size in set(sizes):
        assert f"{size} " in line
        assert f"(Z = {size // 3}) in {sizes.count(size)}" in line
    assert " of 20 crystals" in line
    many = ",".join(f"{a}{b}" for a, b in itertools.product(("Ca", "Mg", "Sr"), "OSF"))
    many += ",TiO2,ZrO2"
    (line,) = lines(num=3, formula=many)
    assert line.startswith("11 formulas, 3 crystals of each: 2 to ")
    assert " of 33" in line
    (line,) = lines(num=5, chemical_system="V-O", num_atoms=7)
    assert line == "O-V: 1 composition, 7 atoms in the cell; most common: V2O5 (7 atoms) 5"
    assert lines(num=5, elements="O,V") == []
