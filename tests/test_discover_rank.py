"""The ranking formula, the default tolerance, and what is known, against hand counting."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.discovery.known import KnownCrystals, compare
from crystal_diffusion_jax.discovery.plan import Plan, default_tolerance
from crystal_diffusion_jax.discovery.rank import rank, terms
from crystal_diffusion_jax.discovery.screen import judge
from crystal_diffusion_jax.discovery.settings import Settings
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracles.domain import load
from crystal_diffusion_jax.request import FormulaRequest
from crystal_diffusion_jax.structures.csv_tables import read_rows
from tests import discoveries
from tests.test_store import REQUEST
from tests.tiny_run import perovskite

COMPOUNDS = "BaO (0.400) + TiO2 (0.600)"
ELEMENTS = "Na (0.200) + O2 (0.600) + Ta (0.200)"


def plan(target: tuple[float, float] = (0.5, 0.5), hull: Any = True, **settings: Any) -> Plan:
    return Plan(
        request=dataclasses.replace(REQUEST, target={"heat_ref": target}, num=9),
        settings=Settings(**settings),
        spec=KNOWN_DATASETS["perov5"],
        tolerance=0.2,
        known=KnownCrystals(None, ()),
        training_source="",
        hull=hull,
        hull_name="",
        notes=(),
    )


def row(above_hull: float = 0.0, predicted: float = 0.5, **values: Any) -> dict[str, Any]:
    return {
        "relaxed_energy_gain": 0.3,
        "relaxed_energy_above_hull": above_hull,
        "relaxed_decomposition": COMPOUNDS,
        "predicted_heat_ref_after_relaxing": predicted,
        **values,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (row(0.05, 0.6), (0.5, 0.5, 0)),
        (row(-1.3, 0.5), (0, 0, 0)),  # far below an incomplete hull is no merit
        (row(0.0, 0.1, relaxed_decomposition=ELEMENTS), (0, 2, 1)),
        (row(0.02, 0.5, relaxed_decomposition="C (1.000)"), (0.2, 0, 0)),  # one element
    ],
)
def test_the_terms_of_a_score(given: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert list(terms(0, given, plan()).values()) == pytest.approx(expected)


def test_without_a_hull_the_energy_released_stands_for_it() -> None:
    given = row() | {"relaxed_decomposition": ""}
    del given["relaxed_energy_above_hull"], given["relaxed_decomposition"]
    assert list(terms(0, given, plan(hull=None)).values()) == pytest.approx([3, 0, 0])


def test_any_value_of_a_range_is_as_good() -> None:
    asked = plan(target=(0.5, 0.9))
    misses = [asked.miss(0, predicted) for predicted in (0.3, 0.5, 0.7, 0.9, 1.0)]
    assert misses == pytest.approx([0.2, 0, 0, 0, 0.1])


def test_below_the_lowest_training_value_is_as_good_as_that() -> None:
    lowest = load("perov5").values[0]
    asked = plan(target=(lowest, lowest))
    misses = [asked.miss(0, lowest + step) for step in (-0.4, 0.0, 0.3)]
    assert misses == pytest.approx([0, 0, 0.3])


def test_each_crystal_is_judged_by_what_was_asked_of_its_formula() -> None:
    formulas = [
        FormulaRequest("BaTiO3", target={"heat_ref": (0.5, 0.5)}),
        FormulaRequest("SrTiO3", target={"heat_ref": (1.0, 1.5)}),
        FormulaRequest("CaTiO3"),
    ]
    request = dataclasses.replace(REQUEST, target={}, num=6, formulas=tuple(formulas))
    asked = dataclasses.replace(plan(), request=request)
    misses = [asked.miss(index, 0.8) for index in range(6)]
    assert misses == pytest.approx([0.3, 0.3, 0.2, 0.2, 0, 0])


def test_another_content_of_the_file_with_the_hull_is_another_hull(tmp_path: Path) -> None:
    file = tmp_path / "phases.csv"
    file.write_text("one")
    given = dataclasses.replace(plan(), hull_name=str(file))
    before = given.stages((9, 0))
    assert given.stages((9, 0)) == before
    file.write_text("another")
    after = given.stages((9, 0))
    assert [stage for stage in before if before[stage] != after[stage]] == ["relax"]


def ranks(rows: dict[int, dict[str, Any]], formulas: list[str], **settings: Any) -> list[Any]:
    columns = rank(rows, list(rows), dict(enumerate(formulas)), len(rows), plan(**settings))
    return columns["rank"]


def test_the_lowest_score_is_first_and_equal_scores_are_in_order() -> None:
    rows = {i: row(energy) for i, energy in enumerate([0.03, 0.01, 0.02, 0.01])}
    assert ranks(rows, ["A", "B", "C", "D"]) == [4, 1, 3, 2]
    assert ranks(rows, ["A", "B", "C", "D"], top=2) == [None, 1, None, 2]


def test_at_most_so_many_of_one_formula() -> None:
    rows = {i: row(energy) for i, energy in enumerate([0.01, 0.02, 0.03, 0.04, 0.05])}
    formulas = ["A", "A", "B", "A", "C"]
    assert ranks(rows, formulas, per_formula=1) == [1, None, 2, None, 3]
    assert ranks(rows, formulas, per_formula=2, top=3) == [1, 2, 3, None, None]


def test_of_crystals_that_became_the_same_the_best_stays() -> None:
    rows = {i: row(energy) for i, energy in enumerate([0.03, 0.02, 0.01])}
    rows[2]["same_as_after_relaxing"] = 0  # and so does crystal 0 itself
    columns = rank(rows, [0, 1, 2], {0: "A", 1: "B", 2: "A"}, 3, plan())
    assert columns["rank"] == [None, 2, 1]
    assert [score is None for score in columns["score"]] == [True, False, False]


@pytest.mark.parametrize("end", [-5.0, 0.0, 1.5, 40.0])
def test_the_default_tolerance_covers_a_twentieth_of_the_data(end: float) -> None:
    values = np.sort(np.random.default_rng(0).gamma(2.0, 2.0, size=20_000))
    quantiles = np.quantile(values, np.linspace(0, 1, 101)).tolist()
    tolerance = default_tolerance(quantiles, (end, end))
    if 0 <= end < 20:  # elsewhere percents are too coarse for more
        assert np.mean(np.abs(values - end) <= tolerance) == pytest.approx(0.05, abs=0.004)
    else:
        covered = np.mean(np.abs(values - end) <= tolerance)
        assert 0.04 < covered < 0.06


def test_a_constant_property_has_a_tolerance_above_zero() -> None:
    assert default_tolerance([2.0] * 101, (2.0, 2.0)) == 1e-6


def test_a_crystal_that_relaxes_into_a_known_or_another_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crystal_diffusion_jax.evaluation.predictions.predict", discoveries.predict)
    discoveries.write_model(tmp_path / "model")
    known = KnownCrystals(training_crystals.load(tmp_path / "model"), ())
    crystals = {
        1: perovskite("Ba", "Ti", 3.9),
        3: perovskite("Sr", "Ti", 4.0),
        6: perovskite("Ba", "Ti", 4.0),
    }
    columns = judge(crystals, 7, dataclasses.replace(plan(), known=known), progress=False)
    assert columns["same_as_after_relaxing"] == [None] * 6 + [1]
    assert columns["new_after_relaxing"] == [None, True, None, False, None, None, True]
    assert columns["known_as_after_relaxing"][3] == "training set: 77"
    # 3.9 A is below the volume from which on `discoveries.predict` takes a crystal for relaxed.
    assert columns["predicted_heat_ref_after_relaxing"][1] == pytest.approx(0.88)


def test_files_of_known_crystals_are_of_any_kind(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    perovskite("Ba", "Ti", 4.1).to(filename=str(folder / "a.cif"))
    perovskite("Ca", "Ti", 4.1).to(filename=str(folder / "POSCAR"), fmt="poscar")
    table = tmp_path / "table.csv"
    text = perovskite("Sr", "Ti", 4.1).to(fmt="cif").replace('"', '""')
    table.write_text(f'material_id,cif\nmy-1,"{text}"\n')
    assert len(list(read_rows(table)[1])) == 1
    known = KnownCrystals(None, (str(folder), str(table)))
    crystals = {i: perovskite(a, "Ti", 3.9) for i, a in enumerate(["Ba", "Ca", "Sr", "K"])}
    found = compare(crystals, known, progress=False)
    assert found.known_as == {0: "mine: a.cif", 1: "mine: POSCAR", 2: "table.csv: my-1", 3: ""}
    assert found.group == {0: 0, 1: 1, 2: 2, 3: 3}
    assert known.notes == []
    before = known.digests()
    (folder / "a.cif").rename(folder / "b.cif")
    assert known.digests()[str(table)] == before[str(table)]
    assert known.digests()[str(folder)] != before[str(folder)]


def test_known_crystals_that_cannot_be_read_are_said_and_other_files_refused(
    tmp_path: Path,
) -> None:
    perovskite("Ba", "Ti", 4.1).to(filename=str(tmp_path / "a.cif"))
    (tmp_path / "b.cif").write_text("data_nothing\n")
    known = KnownCrystals(None, (str(tmp_path),))
    (note,) = known.notes
    assert note.startswith(f"1 of 2 crystals of --known={tmp_path} cannot be read")
    assert "the first, b.cif: " in note
    (tmp_path / "notes.md").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"notes\.md is not among the kinds"):
        KnownCrystals(None, (str(tmp_path / "notes.md"),))
