"""evaluation/conditioning.py against numbers worked out by hand."""

import numpy as np
import pytest

from studies.conditioning import absolute_errors, answer, error_if_ignored, targets_across

NAN = float("nan")


def test_an_answer_is_the_error_and_the_quartiles_of_the_crystals_that_have_a_prediction():
    found = answer(2.0, np.array([1.0, NAN, 2.0, 3.0, 4.0, 5.0]))
    assert (found.num, found.predicted) == (6, 5)
    assert found.mean_error == pytest.approx((1 + 0 + 1 + 2 + 3) / 5)
    assert found.quartiles == pytest.approx((2.0, 3.0, 4.0))


def test_an_answer_without_predictions_has_no_error():
    found = answer(2.0, np.array([NAN, NAN]))
    assert (found.num, found.predicted) == (2, 0)
    assert found.mean_error is None
    assert found.quartiles is None


def test_errors_are_pooled_over_crystals_not_over_targets():
    errors = absolute_errors([0.0, 10.0], [np.array([1.0, -3.0]), np.array([NAN, 15.0])])
    np.testing.assert_allclose(errors, [1.0, 3.0, 5.0])
    assert len(absolute_errors([0.0], [np.array([NAN])])) == 0
    assert len(absolute_errors([], [])) == 0


@pytest.mark.parametrize("target", [0.0, 0.25, 0.5, 1.0])
def test_the_error_of_an_uniform_data_set_is_that_of_the_closed_form(target):
    # E|y - t| for y uniform on [0, 1] is (t^2 + (1 - t)^2) / 2.
    expected = (target**2 + (1 - target) ** 2) / 2
    assert error_if_ignored([target], np.linspace(0, 1, 101).tolist()) == pytest.approx(expected)


def test_the_error_if_ignored_is_close_to_that_of_random_draws():
    rng = np.random.default_rng(3)
    data = rng.normal(size=20_000)
    targets = [-1.5, 0.2, 2.0]
    expected = np.mean([np.abs(rng.permutation(data) - target).mean() for target in targets])
    quantiles = np.quantile(data, np.linspace(0, 1, 101)).tolist()
    # The outermost two hundredths are not normal but evenly spread up to the extremes.
    assert error_if_ignored(targets, quantiles) == pytest.approx(expected, rel=0.01)


def test_targets_are_evenly_spread_between_the_first_and_the_last_percentile():
    quantiles = [float(percent) for percent in range(101)]
    assert targets_across((0.0, 100.0), quantiles, 3) == pytest.approx([1.0, 50.0, 99.0])
    assert targets_across((-1.0, 1.0), None, 5) == pytest.approx([-1.0, -0.5, 0.0, 0.5, 1.0])
