"""experiments/figures.py: requests, judgement, numbers, pictures, and work that is not repeated."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax import api, trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracle.predict import Predictions
from crystal_diffusion_jax.request import ANCESTRAL
from studies import figures, plots
from studies.figure_requests import Training, figure_requests, summary
from studies.measurement import Request, score
from tests import tiny_run
from tests.tiny_run import perovskite, sampled

SPEC = KNOWN_DATASETS["perov5"]
QUANTILES = tuple(np.linspace(-0.3, 4.3, 101).tolist())
TRAINING = Training((-0.3, 4.3), 1.5, QUANTILES)
PNG = b"\x89PNG\r\n"


def test_every_crystal_that_was_asked_for_is_counted_once():
    crystals = {
        0: perovskite("Sr", "Ti", 3.9),
        2: perovskite("Ba", "Ti", 4.0),
        3: perovskite("Ba", "Ti", 4.1),
        5: perovskite("Ba", "Ti", 0.5),  # atoms on top of each other
    }
    values = {3.9: 0.3, 4.0: 0.6, 4.1: np.nan, 0.5: -2.0}

    def judge(structures: Sequence[Structure]) -> Predictions:
        return Predictions(np.array([values[round(s.lattice.a, 3)] for s in structures]), {2: ""})

    found = score(sampled(6, crystals, {1: "too flat", 4: "too flat"}), SPEC, judge, -0.3)
    assert found["values"] == [0.3, None, 0.6, None, None, -2.0]
    assert found["rejected"] == {"too flat": 2}
    assert found["unpredictable"] == 1
    assert found["valid"] == 3
    assert found["compositions"] == 2
    assert found["below_training_range"] == 1
    # The thresholds are 0.439, 0.612 and 0.736.
    assert found["success"]["single"] == {"SR5": 2, "SR10": 3, "SR15": 3}
    assert found["success"]["single_valid"] == {"SR5": 1, "SR10": 2, "SR15": 2}


def asked(num: int = 8, targets: int = 4, training: Training = TRAINING) -> Any:
    return figure_requests(
        training, "sha", num=num, targets=targets, weights=[0.0, 1.0], solver=ANCESTRAL, seed=7
    )


def measured(request: Request, values: list[float | None]) -> dict[str, Any]:
    rates = {"SR5": 1, "SR10": 2, "SR15": request.num}
    return {
        "request": dataclasses.asdict(request),
        "values": values,
        "rejected": {"too flat": values.count(None)},
        "unpredictable": 0,
        "valid": request.num,
        "compositions": 2,
        "below_training_range": 0,
        "success": {"single": rates, "single_valid": rates},
    }


def test_the_unguided_set_at_the_minimum_is_asked_for_once():
    requests = asked()
    assert requests.guided[0] is not None
    assert requests.guided[0] == requests.histogram["minimum"]
    assert len(requests.all) == 3 + 1 + 4
    assert [request.num for request in requests.across] == [2] * 4
    assert len({request.seed for request in requests.across}) == 4
    assert requests.histogram["median"].target == pytest.approx(2.0)


def test_without_quantiles_the_middle_is_the_mean_and_the_targets_reach_the_ends():
    requests = asked(training=dataclasses.replace(TRAINING, quantiles=None))
    assert list(requests.histogram) == ["minimum", "mean", "maximum"]
    assert [requests.across[end].target for end in (0, -1)] == pytest.approx([-0.3, 4.3])


def test_the_summary_waits_for_all_targets():
    requests = asked()
    some = [measured(requests.across[0], [0.0, None])]
    assert "conditioning" not in summary(requests, some, TRAINING)
    every = [
        measured(request, [request.target + 0.5, request.target - 1.5])
        for request in requests.across[:-1]
    ] + [measured(requests.across[-1], [requests.across[-1].target + 9.0, None])]
    found = summary(requests, every, TRAINING)["conditioning"]
    assert (found["num"], found["predicted"], found["rejected"]) == (8, 7, 1)
    assert found["mean_absolute_error"] == pytest.approx((3 * 0.5 + 3 * 1.5 + 9.0) / 7)
    assert found["median_absolute_error"] == pytest.approx(1.5)
    assert [each["mean_error"] for each in found["targets"]] == pytest.approx([1, 1, 1, 9])


@pytest.mark.parametrize("quantiles", [QUANTILES, None])
def test_pictures_are_small_even_when_crystals_are_missing_or_out_of_range(quantiles):
    training = dataclasses.replace(TRAINING, quantiles=quantiles)
    requests = asked(training=training)
    rows = [measured(request, [1e6, None] * (request.num // 2)) for request in requests.all]
    rows[-1]["values"] = [None, None]
    pictures = figures.draw(requests, rows, training, SPEC, "a model")
    assert set(pictures) == {"property_histogram.png", "conditioning.png", "guidance.png"}
    for content in pictures.values():
        assert content.startswith(PNG)
        assert len(content) < 80_000


def test_labels_have_the_decimals_that_the_range_needs():
    requests = asked()
    (row, *_) = (measured(request, [1.0] * request.num) for request in requests.all)
    row["request"]["target"] = -154.55712
    carbon = dataclasses.replace(TRAINING, ends=(-154.557, -154.066), quantiles=None)
    (axes,) = plots.property_histogram({"minimum": row}, carbon, SPEC, "carbon").axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "target -154.5571" in labels
    (axes,) = plots.property_histogram({"minimum": row}, TRAINING, SPEC, "perovskites").axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "target -154.557" in labels


def test_compositions_are_drawn_whole_and_only_where_there_are_several():
    requests = asked()
    rows = [measured(request, [1.0] * request.num) for request in requests.guided]
    counts = [52, 51]
    several = [row | {"compositions": count} for row, count in zip(rows, counts, strict=True)]
    _, right = plots.guidance(several, "a model").axes
    assert right.get_ylim()[0] == 0
    assert right.get_ylim()[1] > 52 * 1.05
    one = [row | {"compositions": 1} for row in rows]
    assert len(plots.guidance(one, "carbon").axes) == 1


def test_the_error_is_told_in_the_picture_with_what_it_would_be_without_listening():
    scores = {
        "mean_absolute_error": 0.25,
        "median_absolute_error": 0.125,
        "mean_absolute_error_if_ignored": 1.5,
        "predicted": 3,
        "num": 4,
    }
    text = plots.error_text(scores, "eV/cell")
    assert "mean absolute error 0.25 eV/cell" in text
    assert "ignored: 1.5" in text
    assert "3 of 4" in text
    assert "no crystal" in plots.error_text(scores | {"mean_absolute_error": None}, "eV/cell")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["figures.py", *arguments])
    monkeypatch.setattr(figures, "predict", tiny_run.judge)
    program.run(figures.main)


def test_the_command_measures_draws_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures"
    arguments = ["--model=perov5_cds", f"--out={out}", "--num=2", "--targets=2", "--guidance=0"]
    calls = []
    balances = []

    def sample(self: api.Model, num: int, target: dict[str, float], **asked: Any) -> Any:
        balances.append(asked["charge_balance"])
        calls.append((num, target["heat_ref"], asked["guidance"], asked["seed"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        asked["say"]("one batch")
        return sampled(num, {0: perovskite("Sr", "Ti", 3.9)}, dict.fromkeys(range(1, num), "flat"))

    monkeypatch.setattr(api.Model, "sample", sample)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 130
    assert len(json.loads((out / "figures.json").read_text())["measurements"]) == 2
    assert not list(out.glob("*.png"))
    run(monkeypatch, *arguments)
    assert len(calls) == 3 + 3  # five sets, of which two were there
    low, high = api.load("perov5_cds").properties["heat_ref"]
    assert calls[0] == (2, low, 0.0, 0)
    assert calls[3] == (2, high, 0.0, 0)
    assert [(num, seed) for num, _, _, seed in calls[4:]] == [(1, 0), (1, 1)]
    assert {path.name for path in out.glob("*.png")} == {
        "property_histogram.png",
        "conditioning.png",
        "guidance.png",
    }
    content = json.loads((out / "figures.json").read_text())
    assert content["property"] == {"name": "heat_ref", "unit": "eV/cell"}
    assert content["conditioning"]["num"] == 2
    assert len(content["measurements"]) == 5
    for each in content["measurements"]:
        assert len(each["values"]) == each["request"]["num"]
    said = capsys.readouterr().err
    assert "2 of 5 sets are there already" in said
    assert "one batch" in said
    assert " left" in said
    run(monkeypatch, *arguments)
    assert len(calls) == 6
    # Records of before there was a choice count as without it.
    for each in content["measurements"]:
        assert each["request"].pop("charge_balance") is False
    (out / "figures.json").write_text(json.dumps(content))
    run(monkeypatch, *arguments)
    assert len(calls) == 6
    run(monkeypatch, *arguments, "--charge_balance")
    assert len(calls) == 6 + 5
    assert balances == [False] * 6 + [True] * 5


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--guidance=0,a"], "--guidance=0,a must be numbers"),
        (["--guidance=nan"], "--guidance=nan must be finite"),
        (["--targets=1"], "--targets=1 must be"),
        (["--num=3"], "--num=3 must be"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--seed=-1"], "--seed=-1"),
        (["--model=perov5_csd"], "did you mean perov5_cds"),
    ],
)
def test_a_mistake_ends_with_one_sentence(arguments, fragment, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--model=perov5_cds", f"--out={tmp_path / 'new'}", *arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert fragment in said
    assert not (tmp_path / "new").exists()


def test_a_foreign_file_in_the_folder_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "figures.json").write_text('{"measurements": [{"request": {}}]}')
    with pytest.raises(SystemExit):
        run(monkeypatch, "--model=perov5_cds", f"--out={tmp_path}")
    assert "figures.json is damaged, or was not written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("data", "name", "abx3", "'abx3', which has no judge"),
        ("model", "conditioning", "none", "trained without a condition"),
    ],
)
def test_a_model_without_judge_or_condition_is_refused(section, field, value, message):
    trained = trained_model.load("perov5_cds")
    part = dataclasses.replace(getattr(trained.config, section), **{field: value})
    config = dataclasses.replace(trained.config, **{section: part})
    with pytest.raises(UserError, match=message):
        figures.judged_dataset(dataclasses.replace(trained, config=config), "m")
