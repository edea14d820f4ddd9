"""studies/measurement.py: the error of a model that ignores its requests."""

import numpy as np
import pytest

from studies.measurement import error_if_ignored


@pytest.mark.parametrize("target", [0.0, 0.25, 0.5, 1.0])
def test_the_error_for_a_uniform_data_set_has_a_closed_form(target):
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
