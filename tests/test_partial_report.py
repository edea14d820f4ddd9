"""evaluation/partial.py: the scores that need no data set or no judge."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.partial import evaluate_partly
from crystal_diffusion_jax.evaluation.report import evaluate
from crystal_diffusion_jax.structures.reading import Inputs
from tests.test_evaluation_report import INPUTS, SPEC, TEST, TRAIN, judge


def test_what_needs_no_data_set_is_the_same_with_and_without_it() -> None:
    whole = evaluate(INPUTS, SPEC, TRAIN, TEST, judge, progress=False)
    part = evaluate_partly(INPUTS, SPEC, judge, progress=False)
    assert part.validity == whole.validity
    np.testing.assert_array_equal(part.values, whole.values)
    np.testing.assert_array_equal(part.valid, whole.valid)
    for name in ("unique", "unique_compositions"):
        assert part.diversity[name] == whole.diversity[name]
    # The judge's error is above 0.3 there, so none of its answers is implausible.
    assert part.success == whole.success


def test_without_a_data_set_nothing_is_said_of_novelty() -> None:
    part = evaluate_partly(INPUTS, SPEC, judge, progress=False)
    assert set(part.diversity) == {"unique", "unique_compositions"}
    assert part.novel is None


def test_with_a_training_split_novelty_is_that_of_the_whole_report() -> None:
    whole = evaluate(INPUTS, SPEC, TRAIN, TEST, judge, progress=False)
    part = evaluate_partly(INPUTS, train=TRAIN, progress=False)
    assert part.diversity == whole.diversity
    np.testing.assert_array_equal(part.novel, whole.novel)


def test_without_a_judge_nobody_succeeds_or_fails() -> None:
    part = evaluate_partly(INPUTS, progress=False)
    assert part.success == {}
    assert np.isnan(part.values).all()
    assert part.validity["both"] == Rate(5, 8)
    assert part.diversity["unique"] == Rate(6, 8)


def test_a_prediction_keeps_its_place_when_crystals_before_it_are_missing() -> None:
    @dataclasses.dataclass(frozen=True)
    class Answer:
        values: np.ndarray
        failures: dict[int, str]

    def number_of_atoms(structures: Sequence[Structure]) -> Answer:
        return Answer(np.array([float(len(s)) for s in structures]), {})

    one = Structure(Lattice.cubic(3.0), ["Fe"], [[0.0, 0.0, 0.0]])
    two = Structure(Lattice.cubic(3.0), ["Fe", "Fe"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    inputs = Inputs([None, two, None, one], list("abcd"), {0: "empty file", 2: "empty file"})
    part = evaluate_partly(inputs, KNOWN_DATASETS["perov5"], number_of_atoms, progress=False)
    np.testing.assert_array_equal(part.values, [np.nan, 2.0, np.nan, 1.0])


@pytest.mark.parametrize("num", [0, 3])
def test_a_set_without_any_crystal_has_a_partial_report(num: int) -> None:
    inputs = Inputs([None] * num, ["x"] * num, dict.fromkeys(range(num), "empty file"))
    part = evaluate_partly(inputs, progress=False)
    assert part.validity["both"] == Rate(0, num)
    assert part.diversity["unique"] == Rate(0, num)
