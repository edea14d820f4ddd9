"""The run's log: metrics.jsonl, TensorBoard, and one progress line."""

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, TooLarge, read_text, replace_text
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.training.workdir import writing

# What reading a row of any content may raise.
_DAMAGE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


class Logbook:
    """Appends metrics to <workdir>/metrics.jsonl and <workdir>/tensorboard.

    Args:
      workdir: the run's folder.
      resume_step: rows of later steps are removed first: they belong to work that was lost and
        will be done again.
      writes: False for a process that leaves the log to another.

    Attributes:
      seconds: of training up to `resume_step`, as the remaining rows tell.

    Raises:
      UserError: also from `write` and at the end, when the files cannot be written.
    """

    def __init__(self, workdir: Path, resume_step: int, writes: bool = True) -> None:
        self.seconds = 0.0
        self._workdir, self._writes = workdir, writes
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        with writing(workdir):
            rows = [row for row in _rows(path) if _step_of(row) <= resume_step]
            replace_text(path, "".join(rows))
            self._file = path.open("a")
            self._tensorboard = _Events(workdir / "tensorboard", resume_step + 1)
        self.seconds = max(map(_seconds_of, rows), default=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._writes:
            return
        # Closing tries once more to write what could not be written: the first error is told.
        with (
            contextlib.nullcontext() if error is None else contextlib.suppress(UserError),
            writing(self._workdir),
            contextlib.closing(self._tensorboard),
            contextlib.closing(self._file),
        ):
            pass

    def write(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        """Adds one row; `kind` is "train" or "validation"."""
        if not self._writes:
            return
        row: dict[str, Any] = {"kind": kind, "step": step, **metrics}
        with writing(self._workdir):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            self._tensorboard.add_scalars(kind, step, metrics)


class _Events:
    """TensorBoard's file, written in the caller's thread.

    tensorboardX's own SummaryWriter writes in a thread, which a full disk ends in silence; the run
    then waits for ever to hand over its eleventh number.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(str(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        # Hides points of that step and later ones in earlier files.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=purge_step, session_log=start))
        self._records.flush()

    def add_scalars(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            summary = scalar(f"{kind}/{name}", value)
            self._write(Event(step=step, summary=summary))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


class Clock:
    """Rates, time left, and the seconds of training in all, those before an interruption too."""

    def __init__(
        self, config: TrainingConfig, start: int, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._config, self._say = config, say
        self._lap = time.monotonic()
        self._begin = self._lap - seconds
        self._lap_step = start

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return time.monotonic() - self._begin

    def lap(self, step: int, means: dict[str, float]) -> dict[str, float]:
        """Says the progress; returns the row of the log, `means` with speed and time."""
        now = time.monotonic()
        # No step at all when a preemption came between the last step and its line.
        per_step = (now - self._lap) / max(step - self._lap_step, 1)
        rate = self._config.batch_size / per_step
        left = per_step * (self._config.num_steps - step)
        self._lap, self._lap_step = now, step
        self._say(progress_line(step, self._config.num_steps, means, rate, left))
        return {**means, "structures_per_second": rate, "seconds": self.seconds}


def _rows(path: Path) -> list[str]:
    """The lines of a log; none where there is no log yet."""
    if not path.exists():
        return []
    try:
        return read_text(path, MAX_RECORD_BYTES).splitlines(keepends=True)
    except TooLarge as error:
        raise UserError(
            f"{path} is no log of a run ({error}): remove it, or use another --workdir"
        ) from error


def _step_of(row: str) -> float:
    """The step of a row; a line that a kill cut short counts as lost."""
    try:
        return float(json.loads(row)["step"])
    except _DAMAGE:
        return float("inf")


def _seconds_of(row: str) -> float:
    """Of training up to a row, 0 where it does not say."""
    try:
        seconds = float(json.loads(row)["seconds"])
    except _DAMAGE:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def progress_line(
    step: int, num_steps: int, metrics: dict[str, float], rate: float, seconds_left: float
) -> str:
    """Step, losses by part, structures per second and time left, in one line."""
    losses = " ".join(
        f"{name} {metrics[name]:.4g}"
        for name in ("loss", "lattice", "frac_coords", "species_kl", "species_cross_entropy")
    )
    speed = f"{rate:,.0f} structures/s  {duration(seconds_left)} left"
    return f"step {step}/{num_steps}  {losses}  {speed}"
