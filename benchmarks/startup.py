"""Seconds that commands take from their start, in processes of their own.

Caches are in a temporary folder: empty when a command is "cold", and as another run of it left them
when it is "cached". The files of Python and of the libraries are in memory in either case.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread, spread
from crystal_diffusion_jax.data.locate import find_known

_ROOT = Path(__file__).parent.parent
# Set for the whole process, these would keep programs or choose devices for the child.
_NOT_PASSED_ON = ("JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS")


def seconds_until(command: Sequence[str], cache: Path, line: str = "") -> float:
    """Seconds until a command has ended, or has printed a line; then it is stopped.

    Args:
      command: arguments of Python.
      cache: folder of the caches.
      line: a regular expression; "" waits for the end.

    Raises:
      RuntimeError: it failed, or ended without the line; with the end of what it printed.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environment = inherited | {
        "CRYSTAL_DIFFUSION_CACHE": str(cache),
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
    }
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed: list[str] = []
    assert process.stdout is not None
    try:
        for text in process.stdout:
            printed.append(text)
            if line and re.search(line, text):
                return time.perf_counter() - begin
        process.wait()
        seconds = time.perf_counter() - begin
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    if process.returncode or line:
        raise RuntimeError(f"{' '.join(command)}: {''.join(printed)[-400:] or 'no output'}")
    return seconds


def repeated_start(command: Sequence[str], repeats: int) -> dict[str, Any]:
    """Seconds of a command that needs no cache."""
    with tempfile.TemporaryDirectory() as cache:
        return {"seconds": spread([seconds_until(command, Path(cache)) for _ in range(repeats)])}


def cold_and_cached(
    command: Callable[[Path], Sequence[str]], repeats: int, line: str = ""
) -> dict[str, Spread]:
    """Seconds with empty caches, and with those of the run before.

    Args:
      command: makes the arguments of Python, given a folder for what it writes.
      repeats: of each.
      line: see `seconds_until`.
    """
    cold, cached = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("cache", "first", "second")]
            cold.append(seconds_until(command(paths[1]), paths[0], line))
            cached.append(seconds_until(command(paths[2]), paths[0], line))
    return {"cold": spread(cold), "cached": spread(cached)}


IMPORT = ("-c", "import crystal_diffusion_jax as cdj; cdj.load")
HELP = ("-m", "experiments.sample", "--help")


def first_crystals(folder: Path, num: int = 20, num_steps: int = 50) -> list[str]:
    """The command that samples `num` crystals, with two calls of the network in a step."""
    return [
        *("-m", "experiments.sample", "--model=perov5_cds", "--solver=second_order"),
        *(f"--num={num}", f"--num_steps={num_steps}", f"--out={folder}"),
    ]


def training(folder: Path, smoke: bool = False) -> list[str]:
    """The command that trains on Perov-5, or on the built-in data if those are not at hand.

    It logs step 100; a smoke run its last step, 10.
    """
    variant = ":smoke" if smoke else ""
    command = ["-m", "experiments.train", f"--config=configs/perov5_cds.py{variant}"]
    perov5 = None if smoke else find_known("perov5")
    if perov5 is None:
        # Properties are those that the data come with.
        command += ["--config.data.name=abx3", "--config.data.properties=()"]
    else:
        command.append(f"--config.data.root={perov5}")
    return [
        *command,
        f"--workdir={folder}",
        *([] if smoke else ["--config.training.log_every=100"]),
    ]
