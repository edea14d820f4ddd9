"""`experiments.discover` from its flags to its shortlist, with crystals whose fate is known."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax.cli import discover, program, report
from crystal_diffusion_jax.discovery import funnel, pipeline, plan
from crystal_diffusion_jax.discovery.plan import Plan, make_plan
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.report import build
from crystal_diffusion_jax.structures.samples_reader import read_request, read_values
from crystal_diffusion_jax.structures.store import Samples
from tests import discoveries
from tests.discoveries import GAIN, PREDICTED, SHIFT, TARGET, TOLERANCE, Bench
from tests.page_contents import data_of
from tests.tiny_run import perovskite

STAGES = ("screen", "relax", "judge", "rank", "export")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return discoveries.write_model(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a command that nothing disturbed; beside it what the command said."""
    out = tmp_path_factory.mktemp("whole") / "out"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        Bench.of(model, patch).run(out)
    (out.parent / "said").write_text(said.getvalue())
    return out


@pytest.fixture
def bench(model: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench.of(model, monkeypatch)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of that folder, for tests that run the command again there."""
    return shutil.copytree(whole, tmp_path / "out")


def counts(out: Path) -> dict[str, int]:
    steps = json.loads((out / "funnel.json").read_text())["steps"]
    return {step["name"]: step["count"] for step in steps}


def shortlist(out: Path) -> list[dict[str, str]]:
    with (out / "shortlist.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(out: Path) -> dict[str, bytes]:
    """Everything but databases, which hold times of writing, and the lock; OUT for the folder."""
    return {
        str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"OUT")
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".db" and path.name != ".lock"
    }


def with_hull(without: Plan) -> Plan:
    """A hull on which all are but KNbO3, and NaTaO3 far below it beside elements."""
    energies = {"KNbO3": 0.2, "NaTaO3": -1.5, "BaTiO3": 0.01}
    phases = {"NaTaO3": "Na (0.200) + O2 (0.600) + Ta (0.200)", "KNbO3": "K2O (0.3) + Nb2O5 (0.7)"}

    def columns(relaxed: Any) -> dict[str, list[Any]]:
        formulas = [_formula(one) for one in relaxed]
        return {
            "formation_energy_per_atom": [-1.0 for _ in formulas],
            "energy_above_hull": [energies.get(formula, 0.0) for formula in formulas],
            "decomposition": [
                phases.get(formula, "BaO (0.4) + TiO2 (0.6)") for formula in formulas
            ],
        }

    return dataclasses.replace(without, hull=lambda inputs: columns, hull_name="a test's")


def _formula(one: RelaxedCrystal) -> str:
    structure = one.relaxation.structure
    return "" if structure is None else structure.composition.reduced_formula


def test_the_funnel_is_what_counting_by_hand_gives(whole: Path) -> None:
    assert counts(whole) == {
        "asked": 14,
        "written": 13,
        "valid": 12,  # not 3
        "in_tolerance": 11,  # not 5
        "unique": 10,  # not 1
        "new": 9,  # not 4
        "relaxed": 8,  # not 8
        "kept_structure": 7,  # not 9
        "predicted_after_relaxing": 6,  # not 11
        "new_after_relaxing": 6,
        "different": 6,
        "shortlisted": 6,
    }
    said = (whole.parent / "said").read_text()
    assert "sample: 14 asked for, 13 written\nrejected: 1, non-finite numbers\n" in said
    assert (
        "screen: 12 valid, 11 predicted within 0.3 eV/cell of the target, 10 unique, "
        "9 not in the training set\n"
    ) in said
    assert "relax: 8 relaxed, 7 kept their structure\n" in said
    assert "rank: 6 different after relaxing, 6 on the shortlist\n" in said
    assert "note: no hull of known phases, which takes --potential=chgnet" in said


def test_only_crystals_that_passed_the_screen_are_relaxed(whole: Path) -> None:
    relaxed = {i for i, row in read_values(whole / "samples.db").items() if "relaxed_steps" in row}
    assert relaxed == {0, 6, 7, 8, 9, 10, 11, 12, 13}
    with (whole / "relaxed" / "relaxed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[4]["failure"] == "not relaxed: it did not pass the screen"
    assert rows[2]["failure"].startswith("rejected when sampled")


def test_the_shortlist_is_ordered_by_the_stated_score(whole: Path) -> None:
    rows = shortlist(whole)
    # Without a hull: energy released over 0.1 eV/atom, and the distance from the target.
    scores = {
        formula: GAIN[formula] / 0.1 + abs(PREDICTED[formula] - SHIFT - TARGET) / TOLERANCE
        for formula in ("BaTiO3", "BaZrO3", "BaHfO3", "KNbO3", "NaNbO3", "NaTaO3")
    }
    assert [row["formula"] for row in rows] == sorted(scores, key=lambda x: scores[x])
    assert [row["rank"] for row in rows] == list("123456")
    for row in rows:
        assert float(row["score"]) == pytest.approx(scores[row["formula"]], abs=1e-5)
        terms = ("score_energy", "score_property", "score_elements")
        total = sum(float(row[name]) for name in terms)
        assert total == pytest.approx(float(row["score"]), abs=2e-6)
        assert float(row["predicted_heat_ref"]) == pytest.approx(PREDICTED[row["formula"]])
        assert float(row["volume_per_atom"]) == pytest.approx(0.97 * 64 / 5)
        assert float(row["min_distance"]) == pytest.approx((0.97 * 64) ** (1 / 3) / 2, abs=1e-5)
        assert row["space_group"] == "Pm-3m"
        assert row["new"] == row["new_after_relaxing"] == "True"


def test_with_a_hull_crystals_far_above_it_leave_and_far_below_is_no_merit(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "make_plan", lambda *given: with_hull(make_plan(*given)))
    bench.run(tmp_path / "out")
    assert counts(tmp_path / "out")["near_hull"] == 5
    rows = {row["formula"]: row for row in shortlist(tmp_path / "out")}
    assert "KNbO3" not in rows
    assert float(rows["NaTaO3"]["score_energy"]) == 0
    assert float(rows["NaTaO3"]["score_elements"]) == 1
    assert float(rows["BaTiO3"]["score_energy"]) == pytest.approx(0.1)
    assert float(rows["BaTiO3"]["score_elements"]) == 0
    assert rows["NaTaO3"]["decomposition"] == "Na (0.200) + O2 (0.600) + Ta (0.200)"
    # A looser limit lets the last one in, without another relaxation.
    done = len(bench.relaxed)
    bench.run(tmp_path / "out", "--max_e_hull=0.21")
    assert counts(tmp_path / "out")["near_hull"] == 6
    assert len(bench.relaxed) == done
    # Without the hull nothing of it stays.
    monkeypatch.setattr(plan, "make_plan", make_plan)
    bench.run(tmp_path / "out")
    assert len(bench.relaxed) == done
    for row in shortlist(tmp_path / "out"):
        assert row.get("decomposition", "") == ""
        assert float(row["score_elements"]) == 0
    for row in read_values(tmp_path / "out" / "samples.db").values():
        assert not row.keys() & {"relaxed_energy_above_hull", "relaxed_decomposition"}


def test_a_hull_is_asked_for_the_chosen_crystals_alone(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answered: list[int] = []

    def recording(*given: Any) -> Plan:
        found = with_hull(make_plan(*given))
        columns = found.hull
        assert columns is not None

        def hull(inputs: Any) -> Any:
            asked.append(sum(structure is not None for structure in inputs.structures))
            found = columns(inputs)

            def answer(relaxed: Any) -> Any:
                answered.append(sum(one.relaxation.structure is not None for one in relaxed))
                return found(relaxed)

            return answer

        return dataclasses.replace(found, hull=hull)

    monkeypatch.setattr(plan, "make_plan", recording)
    bench.run(tmp_path / "out", "--tolerance=1")
    bench.run(tmp_path / "out", "--tolerance=0.06")
    assert answered == [count - 1 for count in asked]  # CaZrO3 cannot be relaxed
    assert asked[1] < asked[0] == len(bench.relaxed)


def test_a_kill_before_the_page_leaves_none_of_the_choice_before(bench: Bench, out: Path) -> None:
    def killed(arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", killed)
        with pytest.raises(SystemExit):
            bench.run(out, "--top=2")
    assert not (out / "report.html").exists()
    bench.run(out, "--top=2")
    assert (out / "report.html").exists()


def test_the_page_says_what_became_of_each_crystal(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "predict", discoveries.predict)
    monkeypatch.setitem(PREDICTED, "SrHfO3", 0.8)  # the page predicts invalid crystals, too
    pages = []
    for flags in ([], [f"--relaxed={whole / 'relaxed'}"]):
        report.write([f"--structures={whole}", f"--out={tmp_path / 'page.html'}", *flags])
        pages.append((tmp_path / "page.html").read_text())
    assert data_of(pages[0]) == data_of(pages[1])
    assert ">4 crystals are not relaxed: they failed a check before.<" in pages[0]
    assert ">1 crystals are not shown: rejected when sampled: non-finite numbers.<" in pages[0]
    assert "Shares are of those that passed the checks before." in pages[0]
    assert "<b>88.9 %</b>converged<br><span>8 of 9</span>" in pages[0]
    assert f"crystal-diffusion discover --model={trained_at(whole)} " in pages[0]
    assert 'class="note"' not in pages[0]
    columns = {column["key"]: column["values"] for column in data_of(pages[0])["columns"]}
    failed = dict(zip(columns["index"], columns["failed_check"], strict=True))
    assert {index: text for index, text in failed.items() if text} == {
        1: "unique",
        3: "valid",
        4: "not in the training set",
        5: "predicted within 0.3 eV/cell of the target",
        8: "relaxed",
        9: "kept their structure",
        11: "with a prediction after relaxing",
    }
    flags_of = dict(zip(columns["index"], columns["flags"], strict=True))
    assert flags_of[5] == ""  # it was not tried, which is no failure of the potential
    assert flags_of[8] == "cannot be relaxed"


def trained_at(out: Path) -> str:
    stored = read_request(out)
    assert stored is not None
    return stored.request.model


@pytest.mark.parametrize("when", ["before", "after"])
def test_kills_at_every_stage_are_made_good_by_the_same_command(
    bench: Bench, whole: Path, tmp_path: Path, when: str
) -> None:
    # Before the stage is recorded as finished, or right after.
    finish = pipeline._Progress.finish
    reached: list[str] = []

    def killed(self: Any, name: str, key: Any) -> None:
        if when == "after" or name in reached:
            finish(self, name, key)
        if name not in reached:
            reached.append(name)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline._Progress, "finish", killed)
        for _ in STAGES:
            with pytest.raises(SystemExit) as caught:
                bench.run(tmp_path / "cut")
            assert caught.value.code == 130
    assert reached == list(STAGES)
    bench.run(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(whole)
    assert len(bench.relaxed) == 9  # none of them twice


def test_a_kill_while_sampling_and_while_relaxing_loses_nothing(
    bench: Bench, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut"

    def stops(*given: Any) -> None:
        raise KeyboardInterrupt

    def one_batch(model: Any, request: Any, sink: Any, batch_size: int, log: Any) -> None:
        discoveries.generate(model, request, sink, batch_size, stops)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "generate", one_batch)
        with pytest.raises(SystemExit):
            bench.run(out)
    assert len(read_values(out / "samples.db")) == 4  # of five, one rejected
    with pytest.MonkeyPatch.context() as patch:
        at = iter(range(100))
        patch.setattr(
            "crystal_diffusion_jax.cli.discover.end_if_any",
            lambda received: stops() if next(at) == 5 else None,
        )
        with pytest.raises(SystemExit):
            bench.run(out)
    assert 0 < len(bench.relaxed) < 9
    bench.run(out)
    assert files(out) == files(whole)
    assert len(bench.relaxed) == 9


def test_a_kill_between_the_last_batch_and_the_export_loses_no_file(
    bench: Bench, whole: Path, tmp_path: Path
) -> None:
    def killed(self: Samples) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "export", killed)
        with pytest.raises(SystemExit):
            bench.run(tmp_path / "cut")
    assert not (tmp_path / "cut" / "samples.extxyz").exists()
    bench.run(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(whole)


def test_a_finished_folder_is_only_reported(bench: Bench, whole: Path, capsys) -> None:
    # Where it was made, as the command names its folder.
    before = files(whole), {path: path.stat().st_mtime_ns for path in whole.glob("shortlist*")}
    bench.run(whole)
    assert (files(whole), {p: p.stat().st_mtime_ns for p in whole.glob("shortlist*")}) == before
    first = (whole.parent / "said").read_text()
    assert capsys.readouterr().out == first.replace("5 more\n", "").replace("4 more\n", "")
    assert bench.pages == []


def test_the_page_of_the_folder_is_asked_for_once(bench: Bench, out: Path) -> None:
    (out / "report.html").unlink()
    for _ in range(2):
        bench.run(out)
    assert bench.pages == [[f"--structures={out}", f"--out={out / 'report.html'}"]]


def test_changed_flags_compute_what_depends_on_them(
    bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    begin = pipeline._Progress.begin

    def begins(self: Any, stage: str, later: list[str]) -> None:
        ran.append(stage)
        begin(self, stage, later)

    monkeypatch.setattr(pipeline._Progress, "begin", begins)
    bench.run(out, "--top=2")
    assert ran == ["rank", "export"]
    assert [row["rank"] for row in shortlist(out)] == ["1", "2"]
    assert len([path for path in (out / "shortlist").iterdir() if path.is_dir()]) == 2
    ran.clear()
    bench.run(out, "--top=2", "--cell=primitive")
    assert ran == ["export"]
    ran.clear()
    bench.relaxed.clear()
    bench.run(out, "--tolerance=1")
    assert ran == list(STAGES)
    assert bench.relaxed == ["CaTiO3"]  # the only one that a wider tolerance adds
    bench.run(out, "--tolerance=0.06")
    assert bench.relaxed == ["CaTiO3"]
    # Those that the narrower screen leaves out have nothing of the wider one.
    values = read_values(out / "samples.db")
    assert {i for i, row in values.items() if "relaxed_energy_gain" in row} == {6, 9, 10, 11}
    assert {i for i, row in values.items() if "rank" in row} == {6, 10}


def test_a_removed_output_is_written_again(bench: Bench, whole: Path, out: Path) -> None:
    (out / "shortlist.csv").unlink()
    (out / "stages.json").write_text("{")
    bench.run(out)
    assert files(out) == files(whole)


def test_crystals_of_the_users_files_are_known(bench: Bench, tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.cif"
    file.write_text(perovskite("Ba", "Hf", 4.1).to(fmt="cif"))
    out = tmp_path / "out"
    bench.run(out, f"--known={file}")
    assert counts(out)["new"] == 8
    assert "not in the training set or --known" in capsys.readouterr().out
    rows = read_values(out / "samples.db")
    assert rows[7]["known_as"] == "mine.cif: mine.cif"
    assert rows[4]["known_as"] == "training set: 77"
    # The same name with other content is another file.
    file.write_text(perovskite("Ba", "Zr", 4.1).to(fmt="cif"))
    bench.run(out, f"--known={file}")
    rows = read_values(out / "samples.db")
    assert [i for i, row in rows.items() if row.get("new") is False] == [4, 6]


def test_without_training_crystals_new_stays_empty_and_is_said(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    bench.model = shutil.copytree(bench.model, tmp_path / "model")
    (bench.model / "training_crystals.npz").unlink()
    monkeypatch.setenv("CRYSTAL_DIFFUSION_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    bench.run(tmp_path / "out")
    said = capsys.readouterr().out
    assert "note: the training crystals of this model are not there" in said
    assert "new" not in counts(tmp_path / "out")
    assert not any("new" in row for row in read_values(tmp_path / "out" / "samples.db").values())
    assert len(shortlist(tmp_path / "out")) == 7  # with the one that the training set had


def test_a_model_without_an_oracle_is_not_checked_for_its_property(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("crystal_diffusion_jax.discovery.plan.KNOWN_DATASETS", {})
    arguments = [f"--model={bench.model}", f"--out={tmp_path / 'out'}", "--num=14", "--target=0.8"]
    arguments.append(f"--potential={discoveries.POTENTIAL}")
    monkeypatch.setattr(sys, "argv", ["discover.py", *arguments])
    program.run(discover.main)
    assert "note: no network predicts the property of this model" in capsys.readouterr().out
    assert "in_tolerance" not in counts(tmp_path / "out")
    # CaTiO3 and KTaO3 are no longer sorted out.
    assert counts(tmp_path / "out")["shortlisted"] == 8
    assert "predicted_heat_ref" not in shortlist(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--top=0", "--top=0 must be within 1"),
        ("--per_formula=0", "--per_formula=0 must be"),
        ("--tolerance=0", "--tolerance=0.0 must be"),
        ("--tolerance=nan", "--tolerance=nan must be"),
        ("--max_e_hull=inf", "--max_e_hull=inf must be"),
        (
            "--cell=primitve",
            "--cell=primitve: choose from as_relaxed, primitive, conventional; did",
        ),
        ("--part=0/4", "argument --part: 0/4 is not I/N with I from 1 to N"),
        ("--part=5/4", "argument --part: 5/4 is not I/N"),
        ("--part=2", "argument --part: 2 is not I/N"),
        ("--known=nowhere.csv", "--known=nowhere.csv does not exist"),
        ("--hull=mp20", "--hull needs --potential=chgnet"),
        ("--potential=chgnt", "did you mean chgnet?"),
        ("--batch_size=0", "--batch_size=0 must be"),
        ("--target=none", "--tolerance=0.3 needs a target of a property that an oracle predicts"),
    ],
)
def test_mistakes_are_found_before_the_folder_is_made(
    bench: Bench, tmp_path: Path, capsys, flag: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.run(tmp_path / "out", flag)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_request_or_potential_is_refused(bench: Bench, out: Path, capsys) -> None:
    for flag, sentence in [
        ("--seed=1", "holds samples of another request, which differs in seed (there 0, now 1)"),
        ("--potential=ase:tests.odd_calculators.Exploding", "differ in potential"),
    ]:
        with pytest.raises(SystemExit) as caught:
            bench.run(out, flag)
        assert caught.value.code == 2
        assert sentence in capsys.readouterr().err


def test_nothing_left_is_an_empty_shortlist(bench: Bench, tmp_path: Path) -> None:
    bench.run(tmp_path / "out", "--tolerance=0.00001", "--target=3")
    assert shortlist(tmp_path / "out") == []
    assert counts(tmp_path / "out")["in_tolerance"] == 0
    assert bench.relaxed == []
    assert [path.name for path in (tmp_path / "out" / "shortlist").iterdir()] == ["shortlist.db"]


def test_the_shortlist_of_a_stage_without_checks_starts_from_those_before() -> None:
    chain = [
        funnel.Check("screen", "a", "a", lambda row: bool(row["a"])),
        funnel.Check("rank", "b", "b", lambda row: bool(row["b"])),
    ]
    rows = {0: {"a": True, "b": False}, 5: {"a": False, "b": True}, 7: {"a": True, "b": True}}
    assert funnel.passing(rows, funnel.up_to(chain, "judge")) == [0, 7]
    assert funnel.passing(rows, chain) == [7]
    assert [count for *_, count in funnel.counts(rows, chain, 9)] == [9, 3, 2, 1]


def test_from_python_the_shortlist_is_a_table_with_the_crystals(
    bench: Bench, whole: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def discovered(**given: Any) -> Any:
        return cdj.discover(
            bench.model,
            TARGET,
            discoveries.NUM,
            out=tmp_path / "out",
            tolerance=TOLERANCE,
            potential=discoveries.POTENTIAL,
            log=said.append,
            **given,
        )

    table = discovered(elements=None, seed=0)
    rows = shortlist(whole)
    assert list(table["index"]) == [int(row["index"]) for row in rows]
    assert set(table.columns) - {"generated", "relaxed"} == rows[0].keys()
    assert table["score"].tolist() == pytest.approx([float(row["score"]) for row in rows])
    for index, generated, relaxed in table[["index", "generated", "relaxed"]].to_numpy():
        assert generated == discoveries.crystal(index)
        assert relaxed.volume == pytest.approx(0.97 * generated.volume)
    assert "rank: 6 different after relaxing, 6 on the shortlist" in said
    assert len(discovered(top=2)) == 2
    with pytest.raises(UserError, match="differs in seed"):
        discovered(seed=1)
    with pytest.raises(TypeError, match="sead"):
        discovered(sead=1)
