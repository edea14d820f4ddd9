import os
import subprocess
import sys
from pathlib import Path

import jax

from crystal_diffusion_jax import devices

EIGHT_DEVICES = """
import jax, numpy as np
from crystal_diffusion_jax import devices

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
print(devices.describe())
"""


def test_the_mesh_holds_every_device_along_one_axis():
    mesh = devices.data_mesh()
    assert mesh.axis_names == ("data",)
    assert set(mesh.devices.flat) == set(jax.devices())


def test_eight_devices_share_a_batch_and_each_hold_the_weights():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    result = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("8 x cpu")
