"""evaluation/report.py, checks.py and summary.py: one set of crystals, scored."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.evaluation.checks import Failure
from crystal_diffusion_jax.evaluation.coverage import Fingerprint
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.summary import to_json, to_table
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.structures.reading import Inputs
from tests import crystal_sets

SPEC = KNOWN_DATASETS["perov5"]
SITES = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])


pytestmark = pytest.mark.usefixtures("in_this_process")


def oracle_by_number(structures: Sequence[Structure], oracle: str = "perov5") -> Predictions:
    """An oracle that predicts the first atom's number, in hundredths, and knows 94 elements."""
    numbers = [max(s.atomic_numbers) for s in structures]
    unknown = {i: "element unknown to the networks" for i, z in enumerate(numbers) if z > 94}
    values = [s.atomic_numbers[0] / 100 for s in structures]
    return Predictions(
        np.array([np.nan if i in unknown else v for i, v in enumerate(values)]), unknown
    )


def perovskite(a: str, b: str = "Ti", edge: float = 4.0) -> Structure:
    return Structure(Lattice.cubic(edge), [a, b, "O", "O", "O"], SITES)


dataset = functools.partial(crystal_sets.dataset, names=(SPEC.property_name,))
TRAIN = dataset([perovskite("Ba"), perovskite("Mg")])
TEST = dataset([perovskite("Sr"), perovskite("Pb")])
OVERLAP = Structure(Lattice.cubic(4.0), ["Mg", "O"], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.02]])
# Predictions 0.20, 0.20, 0.56, 0.18, 0.12, 0.12, 0.95 (fails) and a missing crystal; the
# thresholds are 0.439, 0.612 and 0.736.
SET: list[Structure | None] = [
    perovskite("Ca"),
    perovskite("Ca", edge=4.1),  # the same as the first
    perovskite("Ba"),  # known
    perovskite("Ar"),  # no oxidation states
    perovskite("Mg"),  # known
    OVERLAP,
    perovskite("Am"),
    None,
]
INPUTS = Inputs(SET, [f"{i}.cif" for i in range(8)], {7: "empty file"})


def report(inputs: Inputs = INPUTS, **options: Any) -> Report:
    return evaluate(inputs, SPEC, TRAIN, TEST, oracle_by_number, progress=False, **options)


@functools.cache
def whole_report() -> Report:
    return report()


def test_every_score_of_a_small_set_is_that_worked_out_by_hand() -> None:
    scores = whole_report()
    names = ("asked_for", "read", "predicted", "train", "test")
    assert [scores.counts[name] for name in names] == [8, 7, 6, 2, 2]
    assert scores.success_rate["single"]["SR5"] == Rate(5, 8)
    assert scores.success_rate["single"]["SR10"] == Rate(6, 8)
    assert scores.success_rate["single_valid"]["SR5"] == Rate(3, 8)
    assert scores.success_rate["best_of_10"]["SR5"] == Rate(0, 0)
    assert scores.validity["structure"] == Rate(6, 8)
    assert scores.validity["composition"] == Rate(6, 8)
    assert scores.validity["both"] == Rate(5, 8)
    assert scores.diversity["unique"] == Rate(6, 8)
    assert scores.diversity["novel"] == Rate(5, 8)
    assert scores.diversity["unique_compositions"] == Rate(6, 8)
    assert scores.diversity["novel_compositions"] == Rate(5, 8)
    assert scores.useful == Rate(1, 8)  # CaTiO3, once
    mean, median = scores.predictions["mean"], scores.predictions["median"]
    assert mean is not None
    assert median is not None
    assert mean.value == pytest.approx((0.20 + 0.20 + 0.56 + 0.18 + 0.12 * 2) / 6)
    assert median.value == pytest.approx((0.18 + 0.20) / 2)
    assert scores.coverage is None
    # The valid and predicted ones, 0.12 0.20 0.20 0.56, against twice 0.38 and twice 0.82.
    assert scores.distances["property"].sizes == (4, 2)
    assert scores.distances["property"].value == pytest.approx((0.26 + 0.18 + 0.62 + 0.26) / 4)


def test_predictions_below_every_training_label_are_counted() -> None:
    # The labels of the training set are 0.15; the two crystals with Mg in front are below.
    train = dataclasses.replace(TRAIN, properties=np.full((2, 1), 0.15))
    scores = evaluate(INPUTS, SPEC, train, TEST, oracle_by_number, progress=False)
    assert scores.predictions["below_training_range"] == Rate(2, 6)


def test_crystals_outside_the_oracles_training_are_failures_and_in_no_mean() -> None:
    reason = f"{OUTSIDE} (predicted value): 0.12, trained on 0.3 to 0.9"

    def predict(structures: Sequence[Structure]) -> Predictions:
        found = oracle_by_number(structures)
        outside = {i: reason for i, value in enumerate(found.values) if value == 0.12}
        values = [np.nan if i in outside else value for i, value in enumerate(found.values)]
        return Predictions(np.array(values), found.failures | outside)

    test = dataclasses.replace(TEST, properties=np.array([[0.33], [0.87]]))
    scores = evaluate(INPUTS, SPEC, TRAIN, test, predict, progress=False)
    # The oracle says 0.38 and 0.82 of the test crystals.
    assert scores.oracle == {"error": pytest.approx(0.05)}
    assert scores.predictions["outside_training"] == Rate(2, 7)
    assert scores.counts["outside_training"] == 2
    assert scores.success_rate["single"]["SR5"] == Rate(3, 8)
    # One of the two is invalid anyway.
    assert scores.success_rate["single_valid"]["SR5"] == Rate(2, 8)
    mean = scores.predictions["mean"]
    assert mean is not None
    assert mean.value == pytest.approx((0.20 + 0.20 + 0.56 + 0.18) / 4)
    assert [f.name for f in scores.failures if f.text == reason] == ["4.cif", "5.cif"]
    assert to_json(scores, "set", SPEC)["predictions"]["outside_training"]["k"] == 2
    assert f"2 {OUTSIDE}: in no mean" in to_table(scores, SPEC)


def test_the_table_lists_ten_reasons_and_counts_the_others() -> None:
    reasons = {i: f"reason {i}" for i in range(13)}
    scores = report(Inputs([None] * 13, [str(i) for i in range(13)], reasons))
    table = to_table(scores, SPEC)
    assert table.count("reading: ") == 10
    assert "and 3 rarer reasons" in table


def test_every_failure_is_named_with_its_stage() -> None:
    failures = {(f.index, f.name, f.stage): f.reason for f in whole_report().failures}
    assert failures == {
        (3, "3.cif", "composition"): "an element without oxidation states in SMACT",
        (5, "5.cif", "structure"): "two atoms closer than 0.5 A",
        (6, "6.cif", "property"): "element unknown to the networks",
        (7, "7.cif", "reading"): "empty file",
    }


def test_scoring_the_test_set_itself_gives_distances_of_zero() -> None:
    crystals: list[Structure | None] = [perovskite("Pb"), perovskite("Sr")]
    scores = report(Inputs(crystals, ["a", "b"], {}))
    assert [estimate.value for estimate in scores.distances.values()] == [0.0, 0.0, 0.0]


def test_coverage_counts_a_crystal_without_fingerprint_as_a_miss() -> None:
    def make(structures: Sequence[Structure | None]) -> list[Fingerprint | str]:
        return [
            "no crystal: at all"
            if s is None or s.atomic_numbers[0] == 56
            else Fingerprint(np.zeros(1), np.zeros(1))
            for s in structures
        ]

    scores = report(make_fingerprints=make)
    assert scores.coverage is not None
    assert scores.counts["test_fingerprinted"] == 2
    assert scores.coverage.recall == Rate(2, 2)
    assert scores.coverage.precision == Rate(6, 8)
    (failure,) = [f for f in scores.failures if f.stage == "fingerprint"]
    assert failure == Failure(2, "2.cif", "fingerprint", "no crystal", "at all")


def test_test_crystals_without_prediction_are_counted_and_never_fatal() -> None:
    test = dataset([perovskite("Am"), perovskite("Cm"), perovskite("Sr")])

    def make(structures: Sequence[Structure | None]) -> list[Fingerprint | str]:
        return [
            Fingerprint(np.zeros(1), np.zeros(1))
            if s is not None and s.atomic_numbers[0] == 20
            else "none"
            for s in structures
        ]

    scores = evaluate(INPUTS, SPEC, TRAIN, test, oracle_by_number, make, progress=False)
    names = ("test", "test_predicted", "test_fingerprinted")
    assert [scores.counts[name] for name in names] == [3, 1, 0]
    assert scores.coverage is not None
    assert scores.coverage.recall == Rate(0, 3)
    assert scores.distances["property"].sizes == (4, 1)
    assert "1 of 3 test crystals have a predicted property" in to_table(scores, SPEC)
    scores = evaluate(
        INPUTS, SPEC, TRAIN, test.take(np.array([0, 1])), oracle_by_number, progress=False
    )
    assert scores.distances["property"].value is None
    counts_in_file = to_json(scores, "set", SPEC)["counts"]
    assert counts_in_file["test_predicted"] == 0
    assert counts_in_file["test_fingerprinted"] is None


def test_failures_of_equal_cause_have_equal_reasons_whatever_their_particulars() -> None:
    texts = {0: "unknown element: 'Xx'", 1: "unknown element: 'Qq'", 2: "no atoms"}
    content = to_json(report(Inputs([None] * 3, ["a", "b", "c"], texts)), "set", SPEC)
    assert content["failures"]["by_reason"] == {
        "reading: unknown element": 2,
        "reading: no atoms": 1,
    }
    assert [item["detail"] for item in content["failures"]["list"]] == ["'Xx'", "'Qq'", ""]


def test_a_set_in_which_nothing_can_be_read_still_has_a_report() -> None:
    scores = report(Inputs([None] * 12, [str(i) for i in range(12)], dict.fromkeys(range(12), "x")))
    content = json.loads(json.dumps(to_json(scores, "set", SPEC), allow_nan=False))
    assert content["success_rate"]["best_of_10"]["SR15"]["k"] == 0
    assert content["success_rate"]["best_of_10"]["SR15"]["n"] == 1
    assert content["distances"]["density"]["value"] is None
    assert content["failures"]["by_reason"] == {"reading: x": 12}
    assert "12  reading: x" in to_table(scores, SPEC)


def test_the_table_and_the_file_tell_the_same_numbers() -> None:
    scores = whole_report()
    content = to_json(scores, "set", SPEC)
    table = to_table(scores, SPEC)
    single = content["success_rate"]["single"]["SR5"]
    row = next(line for line in table.splitlines() if line.startswith("SR5 single "))
    assert row.split()[2:] == [
        f"{single['rate']:.4f}", f"{single['low']:.4f}", "..", f"{single['high']:.4f}",
        "5", "of", "8",
    ]  # fmt: skip
    assert content["thresholds"] == {"SR5": 0.43924842, "SR10": 0.61202443, "SR15": 0.7364607}
    assert content["versions"]["smact"] in table


def test_what_needs_no_data_set_is_the_same_with_and_without_it() -> None:
    whole = whole_report()
    part = evaluate(INPUTS, SPEC, predict=oracle_by_number, progress=False)
    assert part.validity == whole.validity
    np.testing.assert_array_equal(part.values, whole.values)
    np.testing.assert_array_equal(part.valid, whole.valid)
    for name in ("unique", "unique_compositions"):
        assert part.diversity[name] == whole.diversity[name]
    assert part.success_rate == whole.success_rate
    # What needs one is unknown.
    assert set(part.diversity) == {"unique", "unique_compositions"}
    assert part.compared.novel is None
    assert (part.useful, part.oracle["error"], part.counts["test"]) == (None, None, None)
    assert part.distances == {}


def test_with_a_training_split_novelty_is_that_of_the_whole_report() -> None:
    whole = whole_report()
    part = evaluate(INPUTS, train=TRAIN, progress=False)
    assert part.diversity == whole.diversity
    assert part.compared.novel is not None
    np.testing.assert_array_equal(part.compared.novel, whole.compared.novel)


def test_without_an_oracle_there_are_no_success_rates() -> None:
    part = evaluate(INPUTS, progress=False)
    assert part.success_rate == {}
    assert np.isnan(part.values).all()
    assert part.validity["both"] == Rate(5, 8)
    assert part.diversity["unique"] == Rate(6, 8)


def test_a_prediction_keeps_its_place_when_crystals_before_it_are_missing() -> None:
    def number_of_atoms(structures: Sequence[Structure]) -> Predictions:
        return Predictions(np.array([float(len(s)) for s in structures]), {})

    one = Structure(Lattice.cubic(3.0), ["Fe"], [[0.0, 0.0, 0.0]])
    two = Structure(Lattice.cubic(3.0), ["Fe", "Fe"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    inputs = Inputs([None, two, None, one], list("abcd"), {0: "empty file", 2: "empty file"})
    part = evaluate(inputs, SPEC, predict=number_of_atoms, progress=False)
    np.testing.assert_array_equal(part.values, [np.nan, 2.0, np.nan, 1.0])


@pytest.mark.parametrize("num", [0, 3])
def test_a_set_without_any_crystal_has_a_report_without_data_and_oracle(num: int) -> None:
    inputs = Inputs([None] * num, ["x"] * num, dict.fromkeys(range(num), "empty file"))
    part = evaluate(inputs, progress=False)
    assert part.validity["both"] == Rate(0, num)
    assert part.diversity["unique"] == Rate(0, num)
