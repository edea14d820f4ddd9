"""Training and sampling speed of a config on this machine, as JSON.

    python -m benchmarks.throughput --config=configs/perov5_cds.py --width=256

Crystals are random, because speed depends only on their sizes. `--plain` replaces the efficient
attention by `plain_attention` and leaves everything else unchanged.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import jax
from absl import app, flags
from ml_collections import config_flags

from benchmarks import plain_attention
from benchmarks.session import process_memory_mb
from benchmarks.speed import matmul_peak, sampling_speed, training_speed
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.runtime import compilation, devices

_CONFIG = config_flags.DEFINE_config_file("config", "configs/perov5_cds.py", "The experiment.")
_WIDTH = flags.DEFINE_integer("width", None, "Width of atoms and pairs (default: the config's).")
_NUM_BLOCKS = flags.DEFINE_integer("num_blocks", None, "Blocks (default: the config's).")
_SIZES = flags.DEFINE_list("num_atoms", ["5", "10", "20"], "Atoms per crystal.")
_PLAIN = flags.DEFINE_boolean(
    "plain", False, "Compute the attention pair by pair, as in the paper."
)
_WHOLE = flags.DEFINE_boolean("whole_batch", False, "One device processes the batch in one chunk.")
_SAMPLING = flags.DEFINE_boolean("sampling", True, "Measure the sampler too.")

_CACHED_ELEMENTS = devices.cached_elements


def main(argv: list[str]) -> None:
    """Prints one JSON object."""
    del argv
    config = _config()
    mesh = devices.data_mesh()
    peak = matmul_peak(mesh)
    if _WHOLE.value:
        mesh = jax.sharding.Mesh(mesh.devices[:1], mesh.axis_names)
    report: dict[str, Any] = {
        "devices": devices.describe(),
        "jax": jax.__version__,
        "width": config.model.width,
        "num_blocks": config.model.num_blocks,
        "attention": "plain" if _PLAIN.value else "efficient",
        "whole_batch": _WHOLE.value,
        "matmul_peak_gflops": round(peak / 1e9, 1),
        "sizes": [],
    }
    with _attention(), _chunks():
        for num_atoms in map(int, _SIZES.value):
            rows = training_speed(config, num_atoms, mesh)
            share = rows["flop_per_structure"] * rows["structures_per_second"] / peak
            rows["share_of_matmul_peak"] = round(share, 3)
            if _SAMPLING.value:
                rows["sampling"] = sampling_speed(config, num_atoms, mesh)
            rows["peak_memory_mb"] = process_memory_mb()
            report["sizes"].append(rows)
    print(json.dumps(report, indent=1))


def _config() -> ExperimentConfig:
    values = _CONFIG.value.to_dict()
    if _WIDTH.value:
        values["model"] |= {"width": _WIDTH.value, "pair_hidden_width": _WIDTH.value}
    if _NUM_BLOCKS.value:
        values["model"]["num_blocks"] = _NUM_BLOCKS.value
    return config_module.from_dict(values)


@contextlib.contextmanager
def _attention() -> Iterator[None]:
    if not _PLAIN.value:
        yield
        return
    module = "crystal_diffusion_jax.models.denoiser"
    with (
        patch(f"{module}.CrystalAttention", plain_attention.PlainAttention),
        patch(f"{module}.pair_features", plain_attention.plain_pair_features),
    ):
        yield


@contextlib.contextmanager
def _chunks() -> Iterator[None]:
    with patch.object(devices, "cached_elements", return_value=10**9) as one_chunk:
        if not _WHOLE.value:
            one_chunk.side_effect = _CACHED_ELEMENTS
        yield


if __name__ == "__main__":
    devices.use_every_core()
    compilation.keep_compiled_programs()
    app.run(main)
