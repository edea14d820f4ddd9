"""Training runs that are preempted, killed, out of disk space, or fed NaN and infinities."""

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.data.batches import Batch, Batches
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.training import training_data
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.training.loop import train
from crystal_diffusion_jax.training.preemption import Preempted
from tests.small_disk import fill, small_disk
from tests.smoke_run import (
    CONFIG,
    programs_made_once,
    splits,
)
from tests.test_checkpoint import state_after
from tests.test_loop import Killed, checkpoint_steps, kill_at, metrics, quiet, with_nan

ROOT = Path(__file__).parent.parent
# Two calls of the train steps to a line of the log, so that a preemption may fall between.
SPARSE = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, log_every=10))
FLAGS = ["--config=tests/smoke_config.py", "--config.training.log_every=10"]
# As in the process of the tests, to compare with.
AS_HERE = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=1",
}
# Detects a hang, not slowness.
TIME_LIMIT = 600


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    with programs_made_once():
        yield


def run(workdir: Path, log: Callable[[str], None] = quiet, **options: bool) -> Path:
    return train(SPARSE, splits(), workdir, log, **options)


def terminate_at(text: str) -> Callable[[str], None]:
    """Sends SIGTERM at a progress line."""

    def log(line: str) -> None:
        if text in line:
            os.kill(os.getpid(), signal.SIGTERM)

    return log


def at_group(monkeypatch: pytest.MonkeyPatch, index: int, act: Callable[[], object]) -> None:
    """Runs `act` when the batches of the given call of the train steps are requested."""

    class Acting(Batches):
        asked = 0

        def group(self, number: int, multiple: int = 1, part: range | None = None) -> Batch:
            # The first time of all is for the shapes.
            Acting.asked += 1
            if number == index and Acting.asked > 1:
                act()
            return super().group(number, multiple, part)

    monkeypatch.setattr(training_data, "Batches", Acting)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    run(workdir)
    return workdir


def assert_same_results(workdir: Path, expected: Path) -> None:
    """The same bytes of weights, the same rows of the log, the same checkpoints."""
    weights = [(each / "model" / "weights.npz").read_bytes() for each in (workdir, expected)]
    assert weights[0] == weights[1]
    assert metrics(workdir) == metrics(expected)
    assert checkpoint_steps(workdir) == checkpoint_steps(expected) == {"10", "20"}


@pytest.mark.parametrize(("group", "step"), [(0, 5), (3, 20)], ids=["between lines", "at the end"])
def test_a_preempted_and_resumed_run_gives_bitwise_the_same(
    tmp_path, undisturbed, monkeypatch, group, step
):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_group(patch, group, terminate)
        with pytest.raises(Preempted, match=rf"has a checkpoint of step {step}; the same comm"):
            run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert f"preempted_{step}" in checkpoint_steps(tmp_path)
    lines: list[str] = []
    run(tmp_path, lines.append)
    assert f"resuming from the checkpoint of step {step} in" in lines[0]
    assert_same_results(tmp_path, undisturbed)


def test_a_preemption_interrupts_validation_which_is_repeated_on_resume(tmp_path, undisturbed):
    with pytest.raises(Preempted, match="of step 10"):
        run(tmp_path, terminate_at("step 10/20"))
    assert checkpoint_steps(tmp_path) == {"preempted_10"}
    assert not (tmp_path / "model").exists()
    run(tmp_path)
    assert_same_results(tmp_path, undisturbed)


def test_a_run_that_is_preempted_then_killed_and_has_a_damaged_checkpoint_ends_the_same(
    tmp_path, undisturbed, monkeypatch
):
    with monkeypatch.context() as patch:
        at_group(patch, 2, terminate)
        with pytest.raises(Preempted, match="of step 15"):
            run(tmp_path)
    with monkeypatch.context() as patch:
        at_group(patch, 3, kill)
        with pytest.raises(Killed):
            run(tmp_path)
    damaged = shutil.copytree(tmp_path, tmp_path.with_name("damaged"))
    run(tmp_path)
    assert_same_results(tmp_path, undisturbed)

    next((damaged / "checkpoints" / "preempted_15").rglob("manifest.ocdbt")).unlink()
    with pytest.raises(UserError, match=r"manifest.ocdbt .* add --resume_from_previous .* step 10"):
        run(damaged)
    lines: list[str] = []
    run(damaged, lines.append, resume_from_previous=True)
    assert "renamed to preempted_15.damaged" in lines[0]
    shutil.rmtree(damaged / "checkpoints" / "preempted_15.damaged")
    assert_same_results(damaged, undisturbed)


def test_a_second_training_in_the_same_workdir_is_refused(tmp_path):
    with (
        exclusive(tmp_path, "--workdir"),
        pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"),
    ):
        run(tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("line", "room"),
    [("step 10/20", 0), ("step 20  validation", 0), ("step 20  validation", 300_000)],
    ids=["log", "model", "checkpoint"],
)
def test_a_full_disk_is_reported_and_the_run_resumes_once_there_is_room(
    tmp_path, undisturbed, line, room
):
    with small_disk(tmp_path / "disk", "4m") as disk:
        workdir = disk / "run"
        fillers: list[Path] = []

        def log(text: str) -> None:
            if line in text:
                fillers.append(fill(disk, room))

        with pytest.raises(UserError, match=r"cannot be written \(.*No space left on device"):
            run(workdir, log)
        assert checkpoint_steps(workdir) == ({"10"} if "20" in line[:7] else set())
        fillers[0].unlink()
        run(workdir)
        assert_same_results(workdir, undisturbed)


def test_a_read_only_workdir_is_reported(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        with pytest.raises(Killed):
            run(disk / "run", kill_at("crystals in batches"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError, match=r"--workdir=.* Read-only file system"):
            run(disk / "run")


def float_fields(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from float_fields(value, (*path, field.name))
        elif isinstance(value, float):
            yield (*path, field.name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400], ids=str)
def test_a_config_field_that_is_not_finite_is_named(value):
    paths = list(float_fields(CONFIG))
    assert ("training", "learning_rate") in paths
    for section, field in paths:
        values = config_module.to_dict(CONFIG)
        values[section][field] = value
        with pytest.raises(UserError, match=rf"config\.{section}.*\b{field}\b"):
            config_module.from_dict(values)


def test_a_gradient_that_overflows_under_a_finite_loss_stops_the_run(tmp_path, monkeypatch):
    """Its square does: 1e25 is a number in float32, 1e50 is none."""

    class Steep(Batches):
        def group(self, number: int, multiple: int = 1, part: range | None = None) -> Batch:
            batches = super().group(number, multiple, part)
            return batches._replace(weight=batches.weight * np.float32(1e25))

    monkeypatch.setattr(training_data, "Batches", Steep)
    with pytest.raises(UserError, match=r"stopped at step 1: grad_norm not finite; .* no checkpoi"):
        run(tmp_path)
    assert metrics(tmp_path) == []


def test_a_preempted_run_with_losses_that_are_not_finite_writes_no_checkpoint(
    tmp_path, monkeypatch
):
    class NanBatches(Batches):
        def group(self, number: int, multiple: int = 1, part: range | None = None) -> Batch:
            batches = super().group(number, multiple, part)
            if number == 2:
                terminate()
            return with_nan(batches) if number == 2 else batches

    monkeypatch.setattr(training_data, "Batches", NanBatches)
    with pytest.raises(UserError, match=r"stopped at step 13: .*lattice.* not finite"):
        run(tmp_path)
    assert checkpoint_steps(tmp_path) == {"10"}


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_named_by_its_part(tmp_path, wrong):
    good = state_after(10)
    with Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.require_finite_state(good, 10)
        damaged = dataclasses.replace(good, ema_params=good.ema_params.at[3].set(wrong))
        with pytest.raises(UserError, match=r"at step 10: the averaged weights not finite; .* no"):
            checkpoints.require_finite_state(damaged, 10)
        damaged = dataclasses.replace(good, params=jnp.full(9, wrong))
        with pytest.raises(UserError, match="at step 10: the weights not finite"):
            checkpoints.require_finite_state(damaged, 10)


class Training:
    """A training run from the command line, with its output in a file."""

    def __init__(
        self, workdir: Path, *flags: str, program: Sequence[str] = ("-m", "experiments.train")
    ) -> None:
        self._path = workdir.with_name(f"{workdir.name}.output")
        command = [sys.executable, "-u", *program, *FLAGS, *flags]
        with self._path.open("w") as file:
            self._process = subprocess.Popen(
                [*command, f"--workdir={workdir}"],
                cwd=ROOT,
                env=os.environ | AS_HERE,
                stdout=file,
                stderr=file,
            )

    @property
    def output(self) -> str:
        return self._path.read_text()

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Whether it was reached before the end of the training."""
        deadline = time.monotonic() + TIME_LIMIT
        while self._process.poll() is None and time.monotonic() < deadline:
            if reached():
                return True
            time.sleep(0.002)
        return False

    def wait_for(self, text: str) -> bool:
        """The same for a text in its output."""
        return self.wait_until(lambda: text in self.output)

    def pause(self, seconds: float) -> None:
        """Suspends it, as a scheduler or a closed laptop does."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # a thread may be writing a line
        before = self._path.stat()
        time.sleep(seconds)
        assert self._path.stat().st_mtime_ns == before.st_mtime_ns
        self._process.send_signal(signal.SIGCONT)

    def end(self, how: signal.Signals | None = None) -> int:
        """The exit status, negative for a signal."""
        try:
            if how:
                self._process.send_signal(how)
            return self._process.wait(TIME_LIMIT)
        finally:
            self._process.kill()


@pytest.mark.slow
def test_sigterm_exits_with_status_143_and_one_line(tmp_path):
    workdir = tmp_path / "run"
    training = Training(workdir, "--config.training.num_steps=100000")
    assert training.wait_for("step 10/")
    assert training.end(signal.SIGTERM) == 143
    *_, last = training.output.splitlines()
    assert last.startswith("preempted: ")
    assert "Traceback" not in training.output
    (preempted,) = (name for name in checkpoint_steps(workdir) if "preempted" in name)
    assert f"has a checkpoint of step {preempted.split('_')[1]}; " in last


@pytest.mark.faults
def test_a_suspended_run_ends_with_the_same_bytes(tmp_path, undisturbed):
    workdir = tmp_path / "run"
    training = Training(workdir)
    assert training.wait_for("crystals in batches")
    paused = 0
    for moment in (lambda _: True, begun(workdir), complete(workdir, "10")):
        if moment(training):
            training.pause(2.0)
            paused += 1
    assert training.end() == 0, training.output
    assert paused >= 1  # the later moments may pass unseen on a busy machine
    assert_same_results(workdir, undisturbed)


# Waits for the moment of a kill; False if the training ended before it.
Moment = Callable[[Training], bool]


def kills(workdir: Path, moments: Iterator[Moment]) -> int:
    """Restarts a run until it finishes; returns the number of kills."""
    killed = 0
    while True:
        training = Training(workdir)
        due = training.wait_for("crystals in batches") and next(moments)(training)
        status = training.end(signal.SIGKILL if due else None)
        if status != -signal.SIGKILL:
            assert status == 0, training.output
            return killed
        killed += 1


def begun(workdir: Path) -> Moment:
    """While a checkpoint is being written."""
    return lambda training: training.wait_until(
        lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    )


def complete(workdir: Path, step: str) -> Moment:
    return lambda training: training.wait_until((workdir / "checkpoints" / step).exists)


def random_moments(workdir: Path, rng: random.Random, usual: float) -> Iterator[Moment]:
    """Half of them within 0.3 s of the start of a checkpoint, half at any time."""
    while True:
        writing, share = rng.random() < 0.5, rng.random()

        def moment(training: Training, writing: bool = writing, share: float = share) -> bool:
            if writing and not begun(workdir)(training):
                return False
            end = time.monotonic() + share * (0.3 if writing else usual)
            return training.wait_until(lambda: time.monotonic() > end)

        yield moment


# Kills itself, so that the moment does not depend on the load of the machine: WAIT says whether
# the checkpoint of STEP is complete or only begun.
KILLING = """
import os, signal
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.cli import train

save = Checkpoints.save
def killing(self, step, *rest):
    save(self, step, *rest)
    if step == STEP:
        if WAIT:
            self.wait()
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.save = killing
cli.run(train.main)
"""


@pytest.mark.faults
def test_a_run_that_is_killed_twice_ends_the_same(tmp_path, undisturbed):
    workdir = tmp_path / "run"
    for step, wait in (("10", True), ("20", False)):
        program = KILLING.replace("STEP", step).replace("WAIT", str(wait))
        training = Training(workdir, program=["-c", program])
        assert training.end() == -signal.SIGKILL, training.output
    training = Training(workdir)
    assert training.end() == 0, training.output
    assert_same_results(workdir, undisturbed)


@pytest.mark.faults
def test_a_run_that_is_killed_at_fifty_random_moments_ends_the_same(tmp_path, undisturbed):
    rng = random.Random(6)
    training = Training(tmp_path / "measured")
    assert training.wait_for("crystals in batches")
    begin = time.monotonic()
    assert training.end() == 0, training.output
    usual = time.monotonic() - begin
    killed = trial = 0
    while killed < 50:
        trial += 1
        workdir = tmp_path / f"run{trial}"
        killed += kills(workdir, random_moments(workdir, rng, usual))
        assert_same_results(workdir, undisturbed)


@pytest.mark.faults
def test_a_full_disk_exits_with_status_2_and_one_sentence(tmp_path, undisturbed):
    with small_disk(tmp_path / "disk", "4m") as disk:
        workdir = disk / "run"
        workdir.mkdir()
        filler = fill(disk, 150_000)
        training = Training(workdir)
        assert training.end() == 2, training.output
        *_, last = training.output.splitlines()
        assert last.startswith("error: ")
        assert "No space left on device" in last
        assert "Traceback" not in training.output
        filler.unlink()
        training = Training(workdir)
        assert training.end() == 0, training.output
        assert json.loads((workdir / "model" / "model.json").read_text())["training"]["steps"] == 20
        assert_same_results(workdir, undisturbed)


@pytest.mark.faults
def test_a_damaged_checkpoint_exits_with_status_2_unless_told_to_go_back(
    tmp_path, undisturbed, monkeypatch
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_group(patch, 2, terminate)
        with pytest.raises(Preempted, match="of step 15"):
            run(workdir)
    files = (path for path in (workdir / "checkpoints" / "preempted_15").rglob("*"))
    largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    training = Training(workdir)
    assert training.end() == 2, training.output
    *_, last = training.output.splitlines()
    assert last.startswith("error: ")
    assert "--resume_from_previous to go back to the checkpoint of step 10" in last
    assert "Traceback" not in training.output
    training = Training(workdir, "--resume_from_previous")
    assert training.end() == 0, training.output
    assert "renamed to preempted_15.damaged" in training.output
    shutil.rmtree(workdir / "checkpoints" / "preempted_15.damaged")
    assert_same_results(workdir, undisturbed)
