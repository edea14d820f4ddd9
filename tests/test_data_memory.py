"""More data than memory: training reads one batch at a time from the memory maps."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def trained(folder: Path, kind: str, num_crystals: int = 1_000_000) -> Any:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.training_memory", str(folder), str(num_crystals), kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.faults  # takes minutes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_million_crystals_train_in_little_memory_and_with_the_same_losses(tmp_path: Path) -> None:
    maps, memory = (trained(tmp_path / kind, kind) for kind in ("maps", "memory"))
    assert len(maps["losses"]) == 3
    assert maps["losses"] == memory["losses"]
    # MB; with the pages of the files that happen to be resident.
    assert maps["peak"] < 2000
    # Without these, memory hardly depends on the number of crystals.
    few = trained(tmp_path / "few", "maps", 1000)
    assert maps["data"] > 500
    assert maps["anonymous"] - few["anonymous"] < 0.2 * maps["data"]
    assert memory["anonymous"] - few["anonymous"] > 0.5 * maps["data"]
