import numpy as np
import pytest

from crystal_diffusion_jax.crystals import wrap


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -1.0, -0.25, 17.75, -1e-9, -1e-30, 0.99999994])
def test_wrap_moves_a_coordinate_by_a_whole_number_into_the_unit_interval(value):
    value = np.float32(value)
    wrapped = float(wrap(value))
    assert 0.0 <= wrapped < 1.0
    moved = wrapped - float(value)
    # All values but the tiny negative ones are moved exactly; those by one rounding of 1.
    assert abs(moved - round(moved)) <= 1e-7
