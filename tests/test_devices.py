import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from crystal_diffusion_jax.runtime import devices
from tests.child import on_devices

EIGHT_DEVICES = """
import jax, numpy as np
from crystal_diffusion_jax.runtime import devices

mesh = devices.data_mesh()
assert dict(mesh.shape) == {"data": 8}, mesh
rows = np.arange(48.0).reshape(16, 3)
split = jax.device_put(rows, devices.by_batch(mesh))
whole = jax.device_put(rows, devices.replicated(mesh))
for index, shard in enumerate(sorted(split.addressable_shards, key=lambda s: s.device.id)):
    np.testing.assert_array_equal(shard.data, rows[2 * index : 2 * index + 2])
assert len(whole.addressable_shards) == 8
for shard in whole.addressable_shards:
    np.testing.assert_array_equal(shard.data, rows)
rows_by_step = np.arange(48.0).reshape(2, 8, 3)
placed = devices.from_local_rows({"rows": rows_by_step}, mesh, axis=1)["rows"]
assert placed.sharding == devices.by_batch(mesh, axis=1)
np.testing.assert_array_equal(placed, rows_by_step)
assert devices.local_part(mesh) == range(8)
print(devices.describe())
"""


@pytest.mark.parametrize(
    ("fewer", "options"), [(False, {"xla_backend_optimization_level": 1}), (True, {})]
)
def test_large_programs_do_not_undo_a_wish_for_fewer_optimisations(fewer, options):
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", fewer)
    try:
        assert devices.compiler_options() == (options if jax.default_backend() == "cpu" else {})
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def test_the_mesh_holds_every_device_along_one_axis():
    mesh = devices.data_mesh()
    assert mesh.axis_names == ("data",)
    assert set(mesh.devices.flat) == set(jax.devices())


def test_eight_devices_share_a_batch_and_each_hold_the_weights():
    assert on_devices(8, EIGHT_DEVICES).startswith("8 x cpu")


def device(process: int, number: int) -> SimpleNamespace:
    return SimpleNamespace(process_index=process, id=number)


def test_the_devices_of_a_process_lie_side_by_side_however_they_are_numbered(monkeypatch):
    # As on a pod, where numbers follow the cables.
    numbered = [device(process=number % 4 // 2, number=number) for number in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: numbered)
    monkeypatch.setattr(devices, "Mesh", lambda array, *_, **__: SimpleNamespace(devices=array))
    mesh = devices.data_mesh()
    assert [one.id for one in mesh.devices] == [0, 1, 4, 5, 2, 3, 6, 7]
    for process, part in enumerate([range(4), range(4, 8)]):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert devices.local_part(mesh) == part


# Independent programs, each with a sum over both devices; without their turns XLA blocks at once.
MANY_PROGRAMS = """
import jax, jax.numpy as jnp, numpy as np
from crystal_diffusion_jax.runtime import devices
jax.config.update("jax_num_cpu_devices", 2)
mesh = devices.data_mesh()
def total(x):
    return jax.lax.psum(jnp.sum(x @ x.T), devices.AXIS)
spec = jax.sharding.PartitionSpec
summed = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=spec("data"), out_specs=spec()))
rows = jax.device_put(np.ones((400, 400), np.float32), devices.by_batch(mesh))
results = [devices.wait_on_cpu(summed(rows)) for _ in range(60)]
print({float(result) for result in results})
"""


def test_programs_that_wait_for_one_another_take_turns():
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=20"
    done = subprocess.run(
        [sys.executable, "-c", MANY_PROGRAMS],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
    assert done.stdout == "{32000000.0}\n"
