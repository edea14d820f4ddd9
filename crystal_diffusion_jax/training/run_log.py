"""The log of a run: metrics.jsonl, TensorBoard, and progress lines."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.runtime.files import replace_text
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
      UserError: the files cannot be written; raised by the methods too.
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

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
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
        """Training time so far, including the time before interruptions."""
        return time.monotonic() - self._begin

    def training(self, step: int, losses: dict[str, float]) -> None:
        """Logs the mean losses since the last row, with speed and time."""
        now = time.monotonic()
        # There are no steps if the run was preempted between the last step and its row.
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

    tensorboardX's SummaryWriter writes in a thread of its own, which dies silently on a full disk,
    after which its queue blocks the run forever.
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
    """The rows of a log up to a step, and the seconds of training up to the last of them."""
    rows, seconds = [], 0.0
    for line in path.read_text(errors="replace").splitlines(True) if path.exists() else []:
        try:
            row = json.loads(line)
            keep = row["step"] <= keep_through
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut short
        if keep:
            seconds = max(seconds, row.get("seconds", 0.0))
            rows.append(line)
    return rows, seconds


def progress_line(
    step: int, num_steps: int, losses: dict[str, float], rate: float, seconds_left: float
) -> str:
    """Step, losses, structures per second and time left, in one line."""
    parts = " ".join(
        f"{name} {losses[name]:.4g}"
        for name in ("loss", "lattice", "frac_coords", "species_kl", "species_cross_entropy")
    )
    left = timedelta(seconds=round(seconds_left))
    return f"step {step}/{num_steps}  {parts}  {rate:,.0f} structures/s  {left} left"
