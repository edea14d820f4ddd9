"""Work split over devices and chunks gives the results of the whole batch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystal_diffusion_jax.runtime import devices, parallel
from tests.child import on_devices

CAPACITY = devices.cached_elements(devices.data_mesh())
# Of sums whose terms, some of which cancel, are 260 in all, each after some ten roundings of angle,
# sine, product and sum: 260 * 10 * 2^-24.
ROUNDING = 2e-4
ROWS = {"x": np.random.default_rng(0).normal(size=(24, 3)), "w": np.arange(24.0)}


def loss(shared: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(rows["w"] * jnp.sin(rows["x"] @ shared))


def loss_and_gradient(shared, rows):
    return jax.value_and_grad(loss)(shared, rows)


def squares(shared, rows):
    return {"y": jnp.square(rows["x"]) * shared, "w": rows["w"] + 1.0}


@pytest.mark.parametrize("chunks", [1, 2, 3, 24])
def test_sums_over_chunks_are_the_sums_over_the_batch(chunks):
    shared = jnp.array([0.3, -0.2, 0.5])
    summed = parallel.sum_over_rows(loss_and_gradient, chunks * CAPACITY // 24, devices.data_mesh())
    value, gradient = jax.jit(summed)(shared, ROWS)
    angles = ROWS["x"] @ np.array([0.3, -0.2, 0.5])
    np.testing.assert_allclose(value, np.sum(ROWS["w"] * np.sin(angles)), rtol=1e-5, atol=ROUNDING)
    expected = (ROWS["w"] * np.cos(angles)) @ ROWS["x"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("chunks", [1, 4, 24])
def test_rows_come_back_in_their_order(chunks):
    mapped = parallel.map_rows(squares, chunks * CAPACITY // 24, devices.data_mesh())
    found = jax.jit(mapped)(2.0, ROWS)
    np.testing.assert_allclose(found["y"], 2.0 * ROWS["x"] ** 2, rtol=1e-6)
    np.testing.assert_array_equal(found["w"], ROWS["w"] + 1.0)


@given(st.integers(1, 400), st.integers(1, 10**7), st.integers(0, 10**7))
def test_no_other_number_of_equal_chunks_fits_the_cache_better(rows, per_row, per_chunk):
    chunks = parallel.num_chunks(rows, per_row, per_chunk, CAPACITY)
    assert rows % chunks == 0
    capacity = CAPACITY + per_chunk // 4

    def misfit(number: int) -> float:
        return abs(np.log(rows * per_row / number / capacity))

    if rows * per_row <= capacity:
        assert chunks == 1
    else:
        best = min(misfit(n) for n in range(1, rows + 1) if rows % n == 0)
        assert misfit(chunks) == pytest.approx(best)


EIGHT_DEVICES = """
import json, jax, numpy as np
from crystal_diffusion_jax.runtime import devices, parallel
from tests.test_parallel import CAPACITY, ROWS, loss_and_gradient, squares
mesh = devices.data_mesh()
assert mesh.size == 8
results = [
    jax.jit(parallel.sum_over_rows(loss_and_gradient, CAPACITY // n, mesh))(np.ones(3), ROWS)
    for n in (1, 3)
]
mapped = jax.jit(parallel.map_rows(squares, CAPACITY, mesh))(2.0, ROWS)
print(json.dumps(jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), [results, mapped])))
"""


def test_eight_devices_give_the_results_of_one():
    results, mapped = json.loads(on_devices(8, EIGHT_DEVICES))
    value, gradient = loss_and_gradient(jnp.ones(3), ROWS)
    for found_value, found_gradient in results:
        np.testing.assert_allclose(found_value, value, rtol=1e-5, atol=ROUNDING)
        np.testing.assert_allclose(found_gradient, gradient, rtol=1e-5, atol=ROUNDING)
    np.testing.assert_allclose(mapped["y"], 2.0 * ROWS["x"] ** 2, rtol=1e-6)
    np.testing.assert_array_equal(mapped["w"], ROWS["w"] + 1.0)
