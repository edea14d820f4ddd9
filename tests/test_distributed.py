"""Two processes on this machine train as one. The time limits detect hangs, not slowness."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.training.loop import train
from tests.smoke_run import (
    CONFIG,
    programs_made_once,
    splits,
)

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 240
# What the collectives library prints on stdout, from several threads and in pieces.
GLOO = re.compile(
    r"\[Gloo\] Rank |\d+| is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : "
)
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}
# Losses and gradients of twenty steps are compared, which sums over one device and over two round
# differently: to 1e-6 for some thousand terms. What that does to the steps, and these to later
# losses, grows with the learning rate; with this one all steps together change the losses by less
# than a percent, so that the rounding of a single step is all there is.
LEARNING_RATE = 1e-5
TRAIN = [
    "-m",
    "experiments.train",
    "--config=tests/smoke_config.py",
    f"--config.training.learning_rate={LEARNING_RATE}",
]
SLOWLY = dataclasses.replace(
    CONFIG, training=dataclasses.replace(CONFIG.training, learning_rate=LEARNING_RATE)
)
# A defect that only the second process has, when it gathers its first rows. That it has gone is
# known when its heartbeat has been missing for 10 s, by default 100.
DEFECTIVE = """
import functools, sys
import jax
from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.cli import train

group = Batches.group
def defective(self, index, *rest):
    if "--process_id=1" in sys.argv:
        raise RuntimeError("the disk of the second host is gone")
    return group(self, index, *rest)
Batches.group = defective
jax.distributed.initialize = functools.partial(
    jax.distributed.initialize, heartbeat_timeout_seconds=10
)
cli.run(train.main)
"""

# One process alone is sent SIGTERM: the second in the middle of an interval of the log, or the
# first in the middle of a validation.
PREEMPTED = """
import os, signal, sys
from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.training import loop
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.cli import train

group, validate = Batches.group, loop.validate
def preempting_steps(self, index, *rest):
    if index == 2 and "--process_id=1" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
    return group(self, index, *rest)
def preempting_validation(*arguments):
    if "--process_id=0" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
    return validate(*arguments)
if "MOMENT" == "steps":
    Batches.group = preempting_steps
else:
    loop.validate = preempting_validation
cli.run(train.main)
"""


def two_processes(
    workdir: Path, program: list[str], *flags: str, second: tuple[str, ...] = ()
) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of both; `second` are flags that the second one alone has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--workdir={workdir}"]
    running = [
        subprocess.Popen(
            [sys.executable, *program, *meeting, f"--process_id={process}", *flags, *extra],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, extra in enumerate([(), second])
    ]
    try:
        return [
            (process.wait(), *output)
            for process in running
            for output in [process.communicate(timeout=TIME_LIMIT)]
        ]
    finally:
        for process in running:
            process.kill()
            process.communicate()


def losses(workdir: Path) -> dict[tuple[str, int], list[float]]:
    """All losses by kind and step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clock = {"kind", "step", "seconds", "structures_per_second"}
    return {
        (row["kind"], row["step"]): jax.tree.leaves({name: row[name] for name in set(row) - clock})
        for row in rows
    }


def assert_same_losses(workdir: Path, expected: Path) -> None:
    found, wanted = losses(workdir), losses(expected)
    assert list(found) == list(wanted)
    assert ("train", 20) in wanted
    assert ("validation", 20) in wanted
    for key, values in wanted.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, err_msg=str(key))


def copy_up_to_step_10(workdir: Path, copy: Path) -> Path:
    """What a kill between the two checkpoints would have left."""
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "20")
    return copy


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    with programs_made_once():
        yield


@pytest.fixture(scope="module")
def by_one(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("one")
    train(SLOWLY, splits(), workdir, log=lambda line: None)
    return workdir


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> tuple[Path, list[str]]:
    """The workdir, and the output of each process."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    ended = two_processes(workdir, TRAIN)
    assert [status for status, _, _ in ended] == [0, 0], ended
    return workdir, [out for _, out, _ in ended]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_its_files(by_one, by_two):
    workdir, _ = by_two
    assert_same_losses(workdir, by_one)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"10", "20"}
    assert {path.name for path in workdir.iterdir()} == {path.name for path in by_one.iterdir()}
    assert trained_model.load(workdir).training["steps"] == 20


@pytest.mark.slow
def test_only_the_first_process_prints(by_two):
    _, (first, second) = by_two
    assert "step 20/20" in first
    assert "trained model" in first
    assert GLOO.sub("", second).strip() == ""


@pytest.mark.slow
def test_one_process_resumes_the_run_of_two(by_one, by_two, tmp_path):
    workdir = copy_up_to_step_10(by_two[0], tmp_path / "run")
    lines: list[str] = []
    train(SLOWLY, splits(), workdir, lines.append)
    assert any("resuming from the checkpoint of step 10" in line for line in lines)
    assert_same_losses(workdir, by_one)


@pytest.mark.slow
def test_two_processes_resume_the_run_of_one(by_one, tmp_path):
    workdir = copy_up_to_step_10(by_one, tmp_path / "run")
    (status, out, error), (other_status, _, other_error) = two_processes(workdir, TRAIN)
    assert (status, other_status) == (0, 0), error + other_error
    assert "resuming from the checkpoint of step 10" in out
    assert_same_losses(workdir, by_one)


@pytest.mark.slow
def test_an_error_in_the_first_process_ends_both_with_the_same_sentence(by_two):
    before = losses(by_two[0])
    for status, _, error in two_processes(by_two[0], TRAIN, "--config.seed=1"):
        assert status == 2, error
        assert "error: " in error
        assert "seed: 0 -> 1" in error
    assert losses(by_two[0]) == before


def test_processes_with_different_configs_do_not_start(tmp_path):
    workdir = tmp_path / "run"
    for status, _, error in two_processes(workdir, TRAIN, second=("--config.seed=1",)):
        assert status == 2, error
        assert "the processes have different configs or data" in error
    assert not workdir.exists()


@pytest.mark.faults
def test_sigterm_to_one_process_lets_both_write_a_checkpoint(by_one, tmp_path):
    """Steps that run one by one take the same crystals and noise as five at a time."""
    workdir, one_by_one = tmp_path / "run", "--config.training.steps_per_call=1"
    for moment, step in (("steps", 5), ("validation", 10)):
        program = ["-c", PREEMPTED.replace("MOMENT", moment)]
        ended = two_processes(workdir, program, *TRAIN[2:], one_by_one)
        assert [status for status, _, _ in ended] == [143, 143], ended
        assert f"preempted: {workdir} has a checkpoint of step {step}; the" in ended[0][1]
        assert GLOO.sub("", ended[1][1]).strip() == ""
        assert {path.name for path in (workdir / "checkpoints").iterdir()} == {f"preempted_{step}"}
    training = dataclasses.replace(SLOWLY.training, steps_per_call=1)
    train(dataclasses.replace(SLOWLY, training=training), splits(), workdir, lambda line: None)
    assert_same_losses(workdir, by_one)


@pytest.mark.slow
def test_a_process_that_crashes_ends_the_other(tmp_path):
    workdir = tmp_path / "run"
    flags = TRAIN[2:]
    (status, _, _), (broken_status, _, error) = two_processes(workdir, ["-c", DEFECTIVE], *flags)
    assert status != 0
    assert broken_status == 1
    assert "the disk of the second host is gone" in error
    assert losses(workdir) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("localhost:1234", None, 0), "must be given together"),
        ((None, 2, 0), "must be given together"),
        (("localhost:1234", 2, 2), "--process_id=2 is not one of 0 .. 1"),
        (("localhost", 2, 1), "--coordinator=localhost is not HOST:PORT"),
    ],
)
def test_inconsistent_process_numbers_are_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        processes.join(*arguments)


def test_a_process_alone_is_told_how_to_name_the_others(tmp_path):
    finished = subprocess.run(
        [sys.executable, *TRAIN, f"--workdir={tmp_path}", "--distributed"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
    )
    assert finished.returncode == 2, finished.stderr
    assert "--coordinator=HOST:PORT --num_processes=N --process_id=I" in finished.stderr
    assert "Traceback" not in finished.stderr
