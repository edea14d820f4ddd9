"""The numbers at the top of the page."""

import dataclasses

import numpy as np
import pytest

from crystal_diffusion_jax.evaluation.intervals import rate
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.report.cards import headline
from crystal_diffusion_jax.structures.reading import Inputs

IN_RANGE = "valid, in the requested range"
# At both ends, inside but invalid, outside, without a prediction.
VALUES = np.array([0.5, 1.0, 0.7, 1.2, np.nan])
VALID = np.array([True, True, False, True, True])


def scores(*, predicted: bool) -> Report:
    report = evaluate(Inputs([None] * 5, list("abcde"), {}), progress=False)
    return dataclasses.replace(
        report,
        success_rate=success_rates(VALUES, VALID, (0.4, 0.5, 0.6)) if predicted else {},
        validity={"both": rate(VALID)},
        values=VALUES,
        valid=VALID,
    )


def test_a_requested_range_counts_valid_crystals_including_its_ends():
    found = headline(scores(predicted=True), (0.5, 1.0))
    assert next(iter(found)) == IN_RANGE
    assert (found[IN_RANGE].k, found[IN_RANGE].n) == (2, 5)


@pytest.mark.parametrize("target", [None, (0.5, 0.5)])
def test_a_single_value_has_no_share_in_range(target):
    assert IN_RANGE not in headline(scores(predicted=True), target)


def test_without_predictions_there_is_no_share_in_range():
    assert IN_RANGE not in headline(scores(predicted=False), (0.5, 1.0))
