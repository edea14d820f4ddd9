"""The log of a run: metrics.jsonl, TensorBoard, and progress lines."""

import contextlib
import json
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
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, TooLarge, read_text, replace_text
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.training.workdir import write_errors


class RunLog:
    """Appends rows to <workdir>/metrics.jsonl and <workdir>/tensorboard; prints the progress.

    Only the first process writes files.

    Args:
      workdir: the run's folder.
      config: of the run.
      start: steps taken so far.
      logged: whether the row of step `start` is in the log already. All later rows are removed:
        they belong to work that was lost and will be redone.
      log: takes the progress lines.

    Raises:
      UserError: also from the methods, when the files cannot be written.
    """

    def __init__(
        self,
        workdir: Path,
        config: TrainingConfig,
        start: int,
        logged: bool,
        log: Callable[[str], None] = print,
    ) -> None:
        self._workdir, self._config, self._log = workdir, config, log
        self._writes = processes.is_first()
        seconds = self._open(start if logged else start - 1) if self._writes else 0.0
        self._last_step, self._last_time = start, time.monotonic()
        self._begin = self._last_time - seconds

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
        # Closing retries a failed write; the first error is the one to report.
        with (
            contextlib.nullcontext() if error is None else contextlib.suppress(UserError),
            write_errors(self._workdir),
            contextlib.closing(self._tensorboard),
            contextlib.closing(self._file),
        ):
            pass

    @property
    def seconds(self) -> float:
        """Training time so far, that before an interruption included."""
        return time.monotonic() - self._begin

    def training(self, step: int, losses: dict[str, float]) -> None:
        """Logs the mean losses since the last row, with speed and time."""
        now = time.monotonic()
        # No steps at all if a preemption came between the last step and its row.
        per_step = (now - self._last_time) / max(step - self._last_step, 1)
        self._last_step, self._last_time = step, now
        rate, left = self._config.batch_size / per_step, self._config.num_steps - step
        row = {**losses, "structures_per_second": rate, "seconds": self.seconds}
        self._write("train", step, row)
        self._log(progress_line(step, self._config.num_steps, losses, rate, per_step * left))

    def validation(self, step: int, losses: dict[str, float]) -> None:
        """Logs the losses of a validation."""
        self._write("validation", step, losses)
        self._log(f"step {step}  validation loss {losses['loss']:.4f}")

    def _open(self, keep_through: int) -> float:
        """Opens the files; returns the seconds of training up to the last row that is kept."""
        path = self._workdir / "metrics.jsonl"
        with write_errors(self._workdir):
            rows, seconds = read_metrics(path, keep_through)
            replace_text(path, "".join(rows))
            self._file = path.open("a")
            self._tensorboard = _TensorBoard(self._workdir / "tensorboard", keep_through + 1)
        return seconds

    def _write(self, kind: str, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        row: dict[str, Any] = {"kind": kind, "step": step, **values}
        with write_errors(self._workdir):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            self._tensorboard.write(kind, step, values)


class _TensorBoard:
    """An event file, written in the caller's thread.

    tensorboardX's SummaryWriter writes in a thread of its own, which dies silently on a full disk;
    its queue then blocks the run forever.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(str(folder / name))
        self._add(Event(file_version="brain.Event:2"))
        # TensorBoard hides points of earlier files from that step on.
        start = SessionLog(status=SessionLog.START)
        self._add(Event(step=purge_step, session_log=start))
        self._records.flush()

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(Event(step=step, summary=scalar(f"{kind}/{name}", value)))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def read_metrics(path: Path, keep_through: int) -> tuple[list[str], float]:
    """The rows of a log up to a step, and the seconds of training up to the last of them.

    Raises:
      UserError: the file is too large.
    """
    rows, seconds = [], 0.0
    try:
        lines = read_text(path, MAX_RECORD_BYTES).splitlines(keepends=True) if path.exists() else []
    except TooLarge as error:
        raise UserError(
            f"{path} is not the log of a run ({error}): remove it, or use another --workdir"
        ) from error
    for line in lines:
        try:
            row = json.loads(line)
            if row["step"] <= keep_through:
                seconds = max(seconds, row.get("seconds", 0.0))
                rows.append(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a line that a kill cut short
    return rows, seconds


def progress_line(
    step: int, num_steps: int, losses: dict[str, float], rate: float, seconds_left: float
) -> str:
    """Step, losses, structures per second and time left, in one line."""
    parts = " ".join(
        f"{name} {losses[name]:.4g}"
        for name in ("loss", "lattice", "frac_coords", "species_kl", "species_cross_entropy")
    )
    speed = f"{rate:,.0f} structures/s  {duration(seconds_left)} left"
    return f"step {step}/{num_steps}  {parts}  {speed}"
