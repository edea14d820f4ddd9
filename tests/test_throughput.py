"""The benchmark runs and its figures are consistent; their values are not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--plain", "--whole_batch", "--nosampling"]])
def test_the_benchmark_reports_every_figure(flags):
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.throughput",
            "--config=configs/perov5_cds.py:smoke",
            "--num_blocks=2",
            "--num_atoms=3",
            *flags,
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["num_blocks"] == 2
    assert report["attention"] == ("plain" if flags else "efficient")
    (size,) = report["sizes"]
    assert size["num_atoms"] == 3
    rate = size["batch_size"] / (size["step_ms"] / 1e3)
    assert size["structures_per_second"] == pytest.approx(rate, rel=0.05)
    share = size["structures_per_second"] * size["flop_per_structure"]
    share /= 1e9 * report["matmul_peak_gflops"]
    assert size["share_of_matmul_peak"] == pytest.approx(share, abs=2e-3)
    assert ("sampling" in size) == (not flags)
    if not flags:
        assert size["sampling"]["calls_per_crystal"] == 100
