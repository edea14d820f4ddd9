"""The numbers at the top of the page: scores and the funnel."""

import dataclasses
import json

import numpy as np
import pytest

from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.goal import Goal, goal
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxedCrystal
from crystal_diffusion_jax.report.cards import Median, caption, headline
from crystal_diffusion_jax.report.funnel import Funnel, Stage, count_stages, read_funnel
from crystal_diffusion_jax.structures.reading import Inputs
from tests.page_contents import PEROV5, REQUEST, perovskite

# At both ends, inside but invalid, outside, without a prediction.
VALUES = np.array([0.5, 1.0, 0.7, 1.2, np.nan])
VALID = np.array([True, True, False, True, True])
RANGE = Goal(0.5, 1.0, lowest=False, threshold=0.4, tolerance=0.1, unit="eV")
VALUE = Goal(0.9, 0.9, lowest=False, threshold=0.4, tolerance=0.15, unit="eV")
LOWEST = Goal(0.6, 0.6, lowest=True, threshold=0.7, tolerance=0.1, unit="eV")


def scores(*, predicted: bool) -> Report:
    report = evaluate(Inputs([None] * 5, list("abcde"), {}), progress=False)
    return dataclasses.replace(
        report,
        success_rate=success_rates(VALUES, VALID, (0.4, 0.5, 0.6)) if predicted else {},
        values=VALUES,
        valid=VALID,
    )


def test_a_requested_range_counts_valid_crystals_including_its_ends():
    found = headline(scores(predicted=True), RANGE)
    assert found["|predicted - asked|"] == Median(0.0, "eV", 3, 4, 5)
    assert "SR5" not in found


def test_a_requested_value_is_judged_by_the_distance_from_it_instead_of_by_sr5():
    found = headline(scores(predicted=True), VALUE)
    median = found["|predicted - asked|"]
    assert isinstance(median, Median)
    assert median.value == pytest.approx(0.25)  # of 0.4, 0.1, 0.2, 0.3
    assert "SR5" not in found
    assert VALUE.rule == "predicted within 0.15 eV of 0.9"
    assert "SR5" not in caption(PEROV5, VALUE, 0.037)


@pytest.mark.parametrize("wanted", [None, LOWEST])
def test_the_lowest_values_and_no_request_are_judged_by_sr5(wanted):
    found = headline(scores(predicted=True), wanted)
    assert {"SR5", "SR10", "SR15"} < set(found)
    assert "|predicted - asked|" not in found
    assert "lowest 5, 10, 15 %" in caption(PEROV5, wanted, 0.037)


def test_without_predictions_compositions_alone_are_counted():
    assert list(headline(scores(predicted=False), RANGE)) == ["unique compositions"]


def test_below_the_lowest_training_value_a_prediction_is_as_good_as_at_it():
    np.testing.assert_allclose(LOWEST.differences(VALUES), [0, 0.4, 0.1, 0.6, np.nan])
    assert LOWEST.met(VALUES).tolist() == [True, False, True, False, False]


def test_the_goal_is_the_request_for_the_property_of_the_data_set():
    found = goal(PEROV5, REQUEST)
    assert found is not None
    assert (found.asked, found.lowest) == (0.5, False)
    # A twentieth of the labels' range, -0.328 to 4.376.
    assert found.tolerance == pytest.approx(0.2352, abs=1e-4)
    lowest = dataclasses.replace(REQUEST, target={"heat_ref": (-0.3284636917, -0.3284636917)})
    found = goal(PEROV5, lowest)
    assert found is not None
    assert found.lowest
    interval = goal(PEROV5, dataclasses.replace(REQUEST, target={"heat_ref": (0.25, 0.5)}))
    assert interval is not None
    assert interval.asked == "0.25 to 0.5"
    assert goal(KNOWN_DATASETS["mp20"], REQUEST) is None
    assert goal(None, REQUEST) is None
    assert goal(PEROV5, None) is None


def outcome(*, converged: bool, rmsd: float, above: float) -> RelaxedCrystal:
    relaxation = Relaxation(perovskite("Ba", "Ti", 4.0), -4, -5, 7, converged, np.zeros(5), None)
    return RelaxedCrystal("", relaxation, rmsd=rmsd, energy_above_hull=above)


def test_each_stage_of_the_funnel_counts_what_passed_all_before_it():
    report = scores(predicted=True)
    compared = dataclasses.replace(
        # The third is invalid, so that the fourth is the first of its group that is left.
        report.compared, group=np.array([0, 1, 2, 2, 0]), novel=np.array([True, 0, 1, 1, 1], bool),
    )  # fmt: skip
    report = dataclasses.replace(report, compared=compared, counts={"read": 5})
    wide = dataclasses.replace(RANGE, high=1.5)
    outcomes = [
        outcome(converged=True, rmsd=0.1, above=0.05),
        outcome(converged=True, rmsd=0.1, above=0.05),
        outcome(converged=True, rmsd=0.1, above=0.05),
        outcome(converged=True, rmsd=np.nan, above=0.05),
    ]
    assert count_stages(report, wide, outcomes) == [
        Stage("asked", 5),
        Stage("written", 5),
        Stage("valid", 4),
        Stage("predicted 0.5 to 1.5 eV, as asked", 3),
        Stage("unique", 3),
        Stage("not in the training set", 2),
        Stage("relaxed and kept its structure", 1),
        Stage("above hull < 0.1 eV/atom", 1),
    ]


def test_stages_that_are_not_known_are_left_out():
    report = scores(predicted=False)
    assert [stage.name for stage in count_stages(report, RANGE, ())] == [
        "asked", "written", "valid", "unique",
    ]  # fmt: skip


def test_the_stages_of_the_folder_are_read_and_a_damaged_file_is_refused(tmp_path):
    assert read_funnel(tmp_path) is None
    path = tmp_path / "funnel.json"
    path.write_text(json.dumps({"steps": [{"stage": "sample", "text": "asked for", "count": 100}]}))
    expected = Funnel([Stage("asked for", 100)], command="")
    assert read_funnel(tmp_path) == read_funnel(tmp_path / "samples.db") == expected
    for content in (
        "[1, 2]", '{"steps": [{"text": "asked", "count": -1}]}', '{"steps": [["asked"]]}', "{",
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(UserError, match=r"funnel\.json cannot be read.*remove it"):
            read_funnel(tmp_path)
