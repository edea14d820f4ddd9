"""studies/table1.py: seeds to spreads, rows to Markdown, and work that is not repeated."""

import dataclasses
import datetime
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.errors import UserError
from studies import records, table1
from studies.table1 import settings_of
from studies.table1_columns import RATES, RELAXED, SCORES, Estimate, Spread, estimates, spreads
from studies.table1_rows import (
    PAGE,
    PUBLISHED,
    Control,
    Measured,
    Row,
    Table,
    markdown,
    merged,
    read,
)


def scores(rate: float | None, num: int = 1000) -> dict[str, Any]:
    """A file of `experiments.evaluate` in which every rate is the same, but SR10 is 0.1 more."""

    def entry(value: float | None) -> dict[str, Any]:
        return {"rate": value, "low": 0.0, "high": 1.0, "n": num, "k": 1}

    names = {"SR5": rate, "SR10": None if rate is None else rate + 0.1, "SR15": rate}
    readings = ("single", "single_valid", "best_of_10")
    return {
        "counts": {"asked_for": num},
        "success_rate": {r: {n: entry(v) for n, v in names.items()} for r in readings},
        "validity": {"both": entry(rate), "structure": entry(rate)},
        "diversity": {
            n: entry(rate) for n in ("unique", "novel", "unique_compositions", "novel_compositions")
        },
        "useful": entry(rate),
        "predictions": {n: entry(rate) for n in ("outside_training", "below_training_range")},
        "volume": {
            "median_ratio": {"value": rate, "low": rate, "high": rate, "sizes": [num]},
            "denser": entry(rate),
            "looser": entry(rate),
        },
        "relaxed": None,
        "controls": {},
    }


def relaxed_scores(rate: float, num: int = 100) -> dict[str, Any]:
    """The same with relaxed crystals and two controls, whose rates are 0.1 and 0.2 more."""

    def one(rate: float) -> dict[str, Any]:
        whole = scores(rate, num)
        median = {"median": {"value": rate / 10, "low": rate / 20, "high": rate, "sizes": [90]}}
        stable = {n: entry(rate) for n in ("near_hull", "stable", "sun")}
        averages = ("energy_gain", "rmsd", "absolute_volume_change")
        relaxed = {
            **{n: entry(rate) for n in ("converged", "close")},
            **dict.fromkeys(averages, median),
            "stability_before": None,
            "stability_after": stable,
            "scores": scores(rate / 2, num),
        }
        return whole | {"relaxed": relaxed}

    def entry(value: float) -> dict[str, Any]:
        return {"rate": value, "low": 0.0, "high": 1.0, "n": num, "k": 1}

    controls = {"held_out": one(rate + 0.1), "substituted": one(rate + 0.2)}
    return one(rate) | {"controls": controls}


TODAY = datetime.date(2026, 11, 23)
CDS = Row("perov5_cds", "perov5", 0.0)


def measured(row: Row, rate: float | None, num: int = 1000) -> Measured:
    return Measured(
        row=row,
        num=num,
        first_seed=1000,
        seeds=1,
        date="2026-11-23",
        made_with="2 cores",
        weights_sha256=trained_model.load(row.model).weights_sha256,
        trained_on=100,
        sampler=settings_of(row, trained_model.load(row.model)),
        columns=spreads([scores(rate, num)]),
        beside_controls={} if rate is None else estimates(relaxed_scores(rate)),
    )


def finished(folder: Path, rate: float, relaxed: bool = False) -> None:
    """The file that `experiments.evaluate` writes."""
    folder.mkdir(parents=True)
    content = relaxed_scores(rate) if relaxed else scores(rate)
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run on `TODAY`, each of which succeeds; all rates found are 0.5."""
    today = SimpleNamespace(date=SimpleNamespace(today=lambda: TODAY))
    monkeypatch.setattr(records, "datetime", today)
    found: list[list[str]] = []

    def note(command: list[str], **options: Any) -> Any:
        found.append(command[2:])
        (out,) = (Path(flag[6:]) for flag in command if flag.startswith("--out="))
        if command[2] == "experiments.evaluate":
            finished(out.parent, 0.5, "--relax" in command)
        return type("Done", (), {"returncode": 0})()

    monkeypatch.setattr(table1.subprocess, "run", note)
    return found


def test_spreads_are_mean_and_range_of_the_seeds():
    found = spreads([scores(0.2), scores(0.3), scores(0.7)])
    assert set(found) == set(RATES)
    assert found["useful"].mean == pytest.approx(0.4)
    assert (found["useful"].low, found["useful"].high) == (0.2, 0.7)
    assert found["SR10 best_of_10"].mean == pytest.approx(0.5)
    assert str(found["SR5 single"]) == "0.400 (0.200-0.700)"
    assert str(spreads([scores(0.25)] * 3)["valid"]) == "0.250"


def test_the_page_has_every_published_row_and_every_column_of_ours():
    row = Row("perov5_cds", "perov5", 1.0)
    page = markdown("perov5", Table([measured(row, 0.125)], []))
    for title in PUBLISHED["perov5"]:
        assert f"| {title} |" in page
    assert "| **perov5_cds, guidance 1**, single | 0.125 | 0.225 | 0.125 | 0.125 |" in page
    tables = page.split("\n\n")
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_rows_are_all_combinations_of_the_requested_values():
    assert table1.rows("perov5_cds,mp20_cds", "0,2", "paper") == [
        Row("perov5_cds", "perov5", 0.0, "paper"),
        Row("perov5_cds", "perov5", 2.0, "paper"),
        Row("mp20_cds", "mp20", 0.0, "paper"),
        Row("mp20_cds", "mp20", 2.0, "paper"),
    ]
    assert table1.rows("perov5_cds", None, None) == [Row("perov5_cds", "perov5", 0.0, None)]
    assert {row.model for row in table1.rows(None, "1", None)} == set(trained_model.shipped_names())


def test_the_page_has_shipped_models_only_and_samples_as_a_user_would(
    tmp_path, monkeypatch, commands
):
    run(
        monkeypatch,
        f"--out={tmp_path / 'page.md'}",
        f"--work={tmp_path / 'work'}",
        "--seeds=1",
        "--num_relaxed=0",
    )
    samplings = [flags for name, *flags in commands if name == "experiments.sample"]
    assert len(samplings) == len(PAGE)
    for row, flags in zip(PAGE, samplings, strict=True):
        assert trained_model.load(row.model).config.data.name == row.dataset
        assert f"--model={row.model}" in flags
        assert f"--guidance={row.guidance:g}" in flags
        assert ("--sampler=paper" in flags) == (row.sampler == "paper")
        assert ("--charge_balance" in flags) == row.charge_balance
        assert "--seed=1000" in flags
        assert f"--num={1000 if row.dataset == 'perov5' else 300}" in flags
    page = (tmp_path / "page.md").read_text()
    assert "| **perov5_cds, guidance 0, --sampler=paper**, single | 0.500 |" in page
    assert "| 1000 ancestral steps, corrector 1e-06 |" in page
    title = "mp20_cdi, binary and ternary, guidance 0, --charge_balance"
    assert f"| **{title}**, single | 0.500 |" in page
    assert "trained on 12,258 binary and ternary crystals" in page
    assert f"| 1000 x 1,000, {TODAY} | 50 second-order steps, " in page
    assert "control" not in page.partition("## perov5")[2]


def test_first_crystals_of_the_first_seed_are_relaxed_beside_controls(
    tmp_path, monkeypatch, commands
):
    flags = ["--models=carbon24_cdi", f"--work={tmp_path / 'work'}", "--num_relaxed=7"]
    run(monkeypatch, *flags, f"--out={tmp_path / 'page.md'}", "--seeds=2", "--first_seed=5")
    names = [command[0].removeprefix("experiments.") for command in commands]
    assert names == ["sample", "evaluate"] * 3
    *_, sampled, evaluated = commands
    assert {"--seed=5", "--num=7"} <= set(sampled)
    assert {"--relax", "--controls=7"} <= set(evaluated)
    assert not any("--relax" in command for command in commands[:-1])
    page = (tmp_path / "page.md").read_text()
    assert f"| 5-6 x 300, {TODAY} |" in page
    title = "carbon24_cdi, guidance 0"
    assert f"| {title} | 100 | 0.500 (0.000-1.000) | 0.600 (0.000-1.000) |" in page
    # Converged, median gain, RMSD and volume change, RMSD < 0.1, SR5 after, no hull before, after.
    row = f"| {title} | 100 | 0.500 (0.000-1.000) | " + "0.050 (0.025-0.500) | " * 3
    assert f"{row}0.500 (0.000-1.000) | 0.250 (0.000-1.000) | - | 0.500 (0.000-1.000) |" in page
    assert "| control: held-out test crystals | 100 | 0.600 (0.000-1.000) |" in page
    assert "| control: one-element substitutions in them | 100 | 0.700 (0.000-1.000) |" in page
    table = read(tmp_path / "page.json")
    assert [(each.dataset, each.name) for each in table.controls] == [
        ("carbon24", "held_out"),
        ("carbon24", "substituted"),
    ]
    assert table.rows[0].beside_controls["RMSD, Å"] == Estimate(0.05, 0.025, 0.5, 90)
    # Rows without relaxed crystals are not enough for a table with them.
    run(monkeypatch, *flags, f"--out={tmp_path / 'page.md'}", "--seeds=2", "--first_seed=5")
    assert len(commands) == 6


def test_a_control_is_on_the_page_once_and_new_scores_replace_old_ones():
    old, new = (
        [Control("perov5", n, estimates(relaxed_scores(r))) for n in names]
        for r, names in ((0.5, ("held_out", "substituted")), (0.25, ("held_out",)))
    )
    table = merged(Table([], old), [], new)
    assert {each.name: each.columns["valid"].value for each in table.controls} == {
        "held_out": 0.25,
        "substituted": 0.5,
    }
    assert markdown("perov5", table).count("control: held-out") == 2
    assert "control" not in markdown("mp20", table)


def test_estimates_have_every_column_and_say_on_how_many_crystals_they_rest():
    found = estimates(relaxed_scores(0.5))
    assert set(found) == {*SCORES, *RELAXED}
    assert found["S.U.N. before"] == Estimate(None, None, None, 0)
    assert found["S.U.N. after"] == Estimate(0.5, 0.0, 1.0, 100)
    assert found["energy gain, eV/atom"].n == 90


def test_the_page_in_the_docs_is_that_of_its_rows():
    page = Path(__file__).parent.parent / "docs" / "table1.md"
    table = read(page.with_suffix(".json"))
    assert page.read_text() == table1.page(table)
    assert [each.row for each in table.rows][: len(PAGE)] == list(PAGE)


@pytest.mark.parametrize(
    ("page", "digits", "least"), [("README.md", 2, 5), ("docs/choose_model.md", 3, 8)]
)
def test_success_rates_on_other_pages_are_those_of_the_table(page, digits, least):
    root = Path(__file__).parent.parent
    by_request: dict[tuple[object, ...], dict[str, Spread]] = {
        (each.row.model, each.row.guidance, each.row.sampler, each.row.charge_balance): each.columns
        for each in read(root / "docs" / "table1.json").rows
    }
    model, found, expected = "", [], []
    for line in (root / page).read_text().splitlines():
        title, *cells = line.strip("| ").split(" | ") if line.startswith("| ") else [""]
        named = re.search(r"`((?:perov5|carbon24|mp20)_cd[is])`", title)
        triple = next((cell for cell in cells if re.fullmatch(r"[\d.]+( / [\d.]+){2}", cell)), None)
        if triple is None or not (named or "`--sampler=paper`" in title):
            continue
        model = named[1] if named else model  # "the same, `--sampler=paper`"
        settings = (
            0.5 if "guidance 0.5" in title else 0.0,
            "paper" if "--sampler=paper" in title else None,
            model.startswith("mp20"),
        )
        rates = [
            by_request[model, *settings][f"{name} single_valid"].mean
            for name in ("SR5", "SR10", "SR15")
        ]
        found.append((title, triple))
        expected.append((title, " / ".join(f"{rate:.{digits}f}" for rate in rates)))
    assert found == expected
    assert len(found) == least


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["table1", *arguments])
    table1.main()


def test_scores_in_the_work_folder_are_not_computed_again(tmp_path, monkeypatch, commands):
    for guidance in (0, 2):
        for seed in (1000, 1001):
            folder = tmp_path / "work" / f"perov5_cds_guidance{guidance}_seed{seed}"
            finished(folder, 0.5 + guidance / 10)
    out = tmp_path / "table.md"
    models = ["--models=perov5_cds", "--guidance=0,2"]
    arguments = [*models, "--seeds=2", "--num_relaxed=0", f"--out={out}"]
    run(monkeypatch, *arguments, f"--work={tmp_path / 'work'}")
    page = out.read_text()
    assert "| **perov5_cds, guidance 0**, single | 0.500 | 0.600 | 0.500 |" in page
    assert "| **perov5_cds, guidance 2**, single | 0.700 | 0.800 | 0.700 |" in page
    assert "Our models are trained on 6,572 crystals." in page
    assert [command[0] for command in commands] == ["experiments.sample"] * 4
    run(monkeypatch, *arguments, f"--work={tmp_path / 'work'}", "--num=10")
    assert len(commands) == 4  # rows of more crystals are not replaced


def test_a_command_that_fails_ends_the_measurement(tmp_path, monkeypatch):
    failed = type("Done", (), {"returncode": 2})()
    monkeypatch.setattr(table1.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(UserError, match=r"experiments\.sample ended with status 2"):
        run(monkeypatch, "--models=perov5_cds", f"--out={tmp_path}/t.md", f"--work={tmp_path}/w")


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"counts": {"asked_for": 1000}}'])
def test_damaged_scores_are_named(tmp_path, monkeypatch, content):
    folder = tmp_path / "work" / "perov5_cds_guidance0_seed1000"
    finished(folder, 0.5)
    (folder / "metrics.json").write_text(content)
    flags = ["--models=perov5_cds", f"--out={tmp_path / 't.md'}", f"--work={tmp_path / 'work'}"]
    with pytest.raises(UserError, match=r"metrics\.json is damaged .* remove it, or use another"):
        run(monkeypatch, *flags, "--seeds=1")


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize("differs", [{"weights_sha256": "0"}, {"sampler": "3 leaps"}])
def test_a_row_of_other_weights_or_another_sampler_is_measured_again(
    tmp_path, monkeypatch, differs
):
    out = tmp_path / "table.md"
    old = dataclasses.replace(measured(CDS, 0.125), **differs)
    records.write(out.with_suffix(".json"), Table([old], []))
    finished(tmp_path / "work" / "perov5_cds_guidance0_seed1000", 0.5)
    run(monkeypatch, "--models=perov5_cds", "--seeds=1", f"--out={out}", f"--work={tmp_path}/work")
    (row,) = read(out.with_suffix(".json")).rows
    assert row.columns["valid"].mean == 0.5
    model = trained_model.load("perov5_cds")
    assert (row.weights_sha256, row.sampler) == (model.weights_sha256, settings_of(CDS, model))


def test_a_page_needs_no_model_of_the_rows_it_has_already(tmp_path, monkeypatch):
    out = tmp_path / "table.md"
    gone = dataclasses.replace(
        measured(PAGE[0], 0.125), row=Row("runs/gone", "perov5", 0.0), sampler="3 leaps"
    )
    records.write(out.with_suffix(".json"), Table([gone, measured(CDS, 0.5)], []))
    run(monkeypatch, "--models=perov5_cds", "--seeds=1", f"--out={out}")
    assert "| 3 leaps |" in out.read_text()


@pytest.mark.usefixtures("commands")
def test_rows_of_an_earlier_command_stay_on_the_page_and_are_not_measured_again(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "table.md"
    former = [measured(Row("carbon24_cdi", "carbon24", 0.0), 0.25), measured(CDS, 0.125)]
    records.write(out.with_suffix(".json"), Table(former, []))

    finished(tmp_path / "work" / "perov5_cds_guidance2_seed1000", 0.5)
    arguments = [f"--out={out}", f"--work={tmp_path / 'work'}", "--seeds=1"]
    run(monkeypatch, "--models=perov5_cds", "--guidance=0,2", *arguments)

    assert "perov5_cds, guidance 0 is in" in capsys.readouterr().out
    titles = re.findall(r"^\| \*\*(.*)\*\*, single \| (\S+)", out.read_text(), re.MULTILINE)
    assert titles == [
        ("perov5_cds, guidance 0", "0.125"),
        ("perov5_cds, guidance 2", "0.500"),
        ("carbon24_cdi, guidance 0", "0.250"),
    ]


def test_rows_are_read_back_as_written_and_replaced_by_new_ones(tmp_path):
    rows = [measured(PAGE[-1], 1 / 3), measured(PAGE[3], None), measured(PAGE[0], 0.75)]
    controls = [Control("mp20", "held_out", estimates(relaxed_scores(1 / 3)))]
    path = tmp_path / "rows.json"
    records.write(path, Table(rows, controls))
    found = read(path)
    assert found.controls == controls
    assert [each.row for each in found.rows] == [each.row for each in rows]
    assert found.rows[0].columns["useful"].mean == pytest.approx(1 / 3, abs=1e-6)
    assert found.rows[1].columns["useful"] == Spread(None, None, None)
    assert "| - |" in markdown("perov5", Table([found.rows[1]], []))
    assert "NaN" not in path.read_text()

    other = Row("perov5_cdi", "perov5", 7.0)
    both = merged(found, [measured(other, 0.5), measured(PAGE[3], 0.25, num=10)], []).rows
    assert [each.row for each in both] == [PAGE[0], PAGE[3], PAGE[-1], other]
    assert (both[1].num, both[1].columns["valid"].mean) == (10, 0.25)


def changed(field: str, value: object) -> str:
    """The text of one row with one of its fields, rates or parts of the request changed."""
    entry = msgspec.to_builtins(measured(PAGE[0], 0.5))
    for part in (entry, entry["columns"], entry["row"]):
        if field in part:
            part[field] = value
    return json.dumps({"rows": [entry], "controls": []})


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[",
        "[]",
        '{"rows": [1], "controls": []}',
        '{"rows": [{"row": 1}], "controls": []}',
        '{"rows": [], "controls": [{"dataset": "mp20", "name": "held_out", "columns": {"a": 1}}]}',
        "[" * 100_000,
        changed("useful", "abc"),
        changed("useful", [0.5]),
        changed("valid", [[], 0.5, 0.5]),
        changed("made_with", [1]),
        changed("num", "1000"),
        changed("guidance", "0"),
        changed("model", ["perov5_cds"]),
        changed("dataset", "perov6"),
    ],
)
def test_a_foreign_file_is_named(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(
        UserError, match=r"rows\.json is damaged, or was not written by this program"
    ):
        read(path)
