"""studies/figures.py: requests, scores, numbers, pictures, and work that is not repeated."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from pymatgen.core import Structure

from crystal_diffusion_jax import api, trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import ANCESTRAL
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracles.predict import Predictions
from studies import figures, measurement, plots
from studies.figures import make_requests, pictures, summary
from studies.measurement import Arguments, Measurement, Training, dataset_of, score
from tests import tiny_run
from tests.tiny_run import perovskite, sampled

SPEC = KNOWN_DATASETS["perov5"]
QUANTILES = tuple(np.linspace(-0.3, 4.3, 101).tolist())
TRAINING = Training((-0.3, 4.3), QUANTILES)
PNG = b"\x89PNG\r\n"


def test_every_requested_crystal_is_counted_once():
    crystals = {
        0: perovskite("Sr", "Ti", 3.9),
        2: perovskite("Ba", "Ti", 4.0),
        3: perovskite("Ba", "Ti", 4.1),
        5: perovskite("Ba", "Ti", 0.5),  # atoms on top of each other
    }
    values = {3.9: 0.3, 4.0: 0.6, 4.1: np.nan, 0.5: -2.0}

    def oracle(structures: Sequence[Structure]) -> Predictions:
        return Predictions(np.array([values[round(s.lattice.a, 3)] for s in structures]), {2: ""})

    rejected = {1: "too flat", 4: "too flat"}
    found = score(sampled(6, crystals, rejected), {"num": 6}, SPEC, oracle, -0.3)
    assert found.values == [0.3, None, 0.6, None, None, -2.0]
    assert found.rejected == {"too flat": 2}
    assert found.unpredictable == 1
    assert found.valid == 3
    assert found.compositions == 2
    assert found.below_training_range == 1
    # The thresholds are 0.439, 0.612 and 0.736.
    assert found.success == {"SR5": 1, "SR10": 2, "SR15": 2}


def requests_for() -> dict[str, dict[str, Arguments]]:
    common = {"num": 8, "seed": 7, "solver": ANCESTRAL, "charge_balance": False}
    return make_requests(TRAINING, [0.0, 1.0], 4, common)


def measured(arguments: Arguments, values: list[float | None]) -> Measurement:
    return Measurement(
        weights_sha256="sha",
        arguments=arguments,
        values=values,
        rejected={"too flat": values.count(None)},
        unpredictable=0,
        valid=len(values),
        compositions=2,
        below_training_range=0,
        success={"SR5": 1, "SR10": 2, "SR15": len(values)},
    )


def results(values: tuple[float | None, ...] = ()) -> dict[str, dict[str, Measurement]]:
    """Results whose predictions are the targets, or else the given values, repeated."""

    def answered(arguments: Arguments) -> Measurement:
        return measured(arguments, list((values or (arguments["target"],)) * arguments["num"]))

    return {
        picture: {label: answered(arguments) for label, arguments in labelled.items()}
        for picture, labelled in requests_for().items()
    }


def test_the_targets_share_the_crystals_and_have_noise_of_their_own():
    requests = requests_for()
    histogram, across = requests["property_histogram"], requests["conditioning"].values()
    assert requests["guidance"]["0"] == histogram["minimum"]  # measured once
    assert [request["num"] for request in across] == [2] * 4
    assert [request["seed"] for request in across] == [7, 8, 9, 10]
    assert histogram["median"]["target"] == pytest.approx(2.0)


def test_targets_are_evenly_spaced_between_the_first_and_the_last_percentile():
    targets = [request["target"] for request in requests_for()["conditioning"].values()]
    assert targets == pytest.approx(np.linspace(QUANTILES[1], QUANTILES[-2], 4))


def test_a_summary_has_the_error_and_the_quartiles_of_the_predictions():
    found = measured({"target": 2.0, "guidance": 0, "num": 6}, [1.0, None, 2.0, 3.0, 4.0, 5.0])
    assert (found.num, found.summary["predicted"]) == (6, 5)
    assert found.summary["mean_error"] == pytest.approx((1 + 0 + 1 + 2 + 3) / 5)
    assert found.summary["quartiles"] == pytest.approx((2.0, 3.0, 4.0))
    empty = measured({"target": 2.0, "guidance": 0, "num": 2}, [None, None])
    assert empty.summary["mean_error"] is None
    assert empty.summary["quartiles"] is None


def test_errors_are_pooled_over_crystals_not_over_targets():
    *others, last = requests_for()["conditioning"].values()
    across = [
        measured(request, [request["target"] + 0.5, request["target"] - 1.5]) for request in others
    ]
    across.append(measured(last, [last["target"] + 9.0, None]))
    labelled = {str(i): each for i, each in enumerate(across)}
    found = summary(results() | {"conditioning": labelled}, TRAINING)["conditioning"]
    assert (found["num"], found["predicted"]) == (8, 7)
    assert found["mean_absolute_error"] == pytest.approx((3 * 0.5 + 3 * 1.5 + 9.0) / 7)
    assert found["median_absolute_error"] == pytest.approx(1.5)
    assert [each["mean_error"] for each in found["targets"]] == pytest.approx([1, 1, 1, 9])


def assert_legends_are_whole(figures: Mapping[str, Figure]) -> None:
    """Each picture has one legend, within the picture and above all its axes."""
    for name, figure in figures.items():
        figure.draw_without_rendering()
        (legend,) = figure.legends
        top = max(axes.get_window_extent().y1 for axes in figure.axes)
        extent = legend.get_window_extent()
        assert extent.y0 >= top, name
        assert extent.x0 >= 0, name
        assert extent.x1 <= figure.bbox.width, name


def test_legends_are_whole_and_hide_no_data():
    found = results()
    curve = plots.learning_curve([1.0], [found["guidance"]["0"]], [(1.0, 0.5)], "a run")
    figures = pictures(found, TRAINING, SPEC, "a model") | {"curve": curve}
    assert_legends_are_whole(figures)
    for figure in figures.values():
        assert all(axes.get_legend() is None for axes in figure.axes)


def test_pictures_are_small_even_if_crystals_are_missing_or_out_of_range():
    found = results((1e6, None))
    last = found["conditioning"]["3"]
    last.values[:] = [None] * last.num
    for figure in pictures(found, TRAINING, SPEC, "a model").values():
        content = plots.save(figure)
        assert content.startswith(PNG)
        assert len(content) < 80_000


def test_titles_have_the_decimals_that_the_range_needs():
    row = measured({"target": -154.55712, "guidance": 0.0, "num": 1}, [1.0])
    carbon = dataclasses.replace(TRAINING, ends=(-154.557, -154.066))
    for training, text in ((carbon, "-154.5571 (1"), (TRAINING, "-154.557 (1")):
        (axes,) = plots.property_histogram({"minimum": row}, training, SPEC, "").axes
        assert axes.get_title("left") == f"minimum requested: {text} crystals)"


def test_compositions_are_drawn_from_zero_and_only_if_there_are_several():
    rows = list(results()["guidance"].values())
    several = [dataclasses.replace(rows[0], compositions=52), *rows[1:]]
    _, right = plots.guidance(several, "a model").axes
    assert right.get_ylim()[0] == 0
    assert right.get_ylim()[1] > 52 * 1.05
    one = [dataclasses.replace(row, compositions=1) for row in rows]
    assert len(plots.guidance(one, "carbon").axes) == 1


def test_the_error_is_stated_in_the_picture_next_to_that_of_a_model_which_ignores_requests():
    scores = {
        "mean_absolute_error": 0.25,
        "median_absolute_error": 0.125,
        "mean_absolute_error_if_ignored": 1.5,
        "predicted": 3,
        "num": 4,
    }
    text = plots.error_text(scores, "eV/cell")
    assert "mean absolute error 0.25 eV/cell (1.5 if the request were ignored)" in text
    assert "3 of 4" in text
    assert "no crystal" in plots.error_text(scores | {"mean_absolute_error": None}, "eV/cell")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["figures.py", *arguments])
    monkeypatch.setattr(measurement, "predict", tiny_run.predict)
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
        asked["log"]("one batch")
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
    record = out / "figures.json"
    content = json.loads(record.read_text())
    assert content["property"] == {"name": "heat_ref", "unit": "eV/cell"}
    assert content["conditioning"]["num"] == 2
    assert len(content["measurements"]) == 5
    for each in content["measurements"]:
        assert len(each["values"]) == each["arguments"]["num"]
    said = capsys.readouterr().err
    assert "guidance 0: measured already" in said
    assert "one batch" in said
    run(monkeypatch, *arguments)
    assert len(calls) == 6
    run(monkeypatch, *arguments, "--charge_balance")
    assert len(calls) == 6 + 5
    assert balances == [False] * 6 + [True] * 5
    # Measurements name the settings of the sampler, which the model may change.
    run(monkeypatch, *arguments, "--solver=second_order")  # that of the model
    assert len(calls) == 6 + 5
    run(monkeypatch, *arguments, "--solver=ancestral")
    assert len(calls) == 6 + 5 + 5
    settings = [each["arguments"] for each in json.loads(record.read_text())["measurements"]]
    assert [each["num_steps"] for each in settings] == [50] * 10 + [1000] * 5


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--guidance=0,a"], "--guidance=0,a must be finite numbers"),
        (["--guidance=nan"], "--guidance=nan must be finite numbers"),
        (["--targets=1"], "--targets=1 must be"),
        (["--num=3"], "--num=3 must be"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--seed=-1"], "--seed=-1"),
        (["--model=perov5_cdsi"], "did you mean perov5_cds"),
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
    (tmp_path / "figures.json").write_text('{"measurements": [{"arguments": {}}]}')
    with pytest.raises(SystemExit):
        run(monkeypatch, "--model=perov5_cds", f"--out={tmp_path}")
    assert "figures.json is damaged, or was not written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("data", "name", "abx3", "'abx3', for which there is no oracle"),
        ("model", "conditioning", "none", "trained without a condition"),
    ],
)
def test_a_model_without_oracle_or_condition_is_refused(section, field, value, message):
    trained = trained_model.load("perov5_cds")
    part = dataclasses.replace(getattr(trained.config, section), **{field: value})
    config = dataclasses.replace(trained.config, **{section: part})
    with pytest.raises(UserError, match=message):
        dataset_of(dataclasses.replace(trained, config=config), "m")
