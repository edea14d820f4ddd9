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
from crystal_diffusion_jax.training.averages import BySize
from crystal_diffusion_jax.training.checkpoints import Best
from crystal_diffusion_jax.training.pace import Lap
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
      clock: seconds that never go back.

    Attributes:
      by_size: the latest losses of each padded size in the rows that are kept.

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workdir, self._config, self._log, self._clock = workdir, config, log, clock
        self._writes = processes.is_first()
        self.by_size: BySize = {}
        seconds = self._open(start if logged else start - 1) if self._writes else 0.0
        self._begin = clock() - seconds

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
        return self._clock() - self._begin

    def training(self, step: int, losses: dict[str, float], by_size: BySize, lap: Lap) -> None:
        """Logs the mean losses, those of the sizes that were drawn since the last row, the pace."""
        row: dict[str, Any] = {**losses, "seconds": self.seconds}
        if lap.rate is not None:
            row["structures_per_second"] = lap.rate
        self._write("train", step, row, by_size)
        self._log(progress_line(step, self._config, losses, lap))

    def validation(self, step: int, losses: dict[str, float], best: Best) -> None:
        """Logs the losses of a validation, and which one is the best so far."""
        self._write("validation", step, losses)
        lowest = "the lowest so far" if best.step == step else f"the lowest is of step {best.step}"
        self._log(f"step {step}  validation loss {losses['loss']:.4f}, {lowest}")

    def _open(self, keep_through: int) -> float:
        """Opens the files; returns the seconds of training up to the last row that is kept."""
        path = self._workdir / "metrics.jsonl"
        with write_errors(self._workdir):
            rows, seconds, self.by_size = read_metrics(path, keep_through)
            replace_text(path, "".join(rows))
            self._file = path.open("a")
            self._tensorboard = _TensorBoard(self._workdir / "tensorboard", keep_through + 1)
        return seconds

    def _write(
        self, kind: str, step: int, values: dict[str, float], by_size: BySize | None = None
    ) -> None:
        if not self._writes:
            return
        row: dict[str, Any] = {"kind": kind, "step": step, **values}
        if by_size is not None:
            row["by_size"] = by_size
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


def read_metrics(path: Path, keep_through: int) -> tuple[list[str], float, BySize]:
    """The rows of a log up to a step, the seconds of training then, and each size's last losses."""
    by_size: BySize = {}
    rows, seconds = [], 0.0
    for line in path.read_text(errors="replace").splitlines(True) if path.exists() else []:
        try:
            row = json.loads(line)
            keep = row["step"] <= keep_through
            of_row = {int(size): means for size, means in row.get("by_size", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line that a kill cut short
        if keep:
            seconds = max(seconds, row.get("seconds", 0.0))
            by_size |= of_row
            rows.append(line)
    return rows, seconds, by_size


def progress_line(step: int, config: TrainingConfig, losses: dict[str, float], lap: Lap) -> str:
    """Step, losses, structures per second and time left, in one line."""
    parts = " ".join(
        f"{name} {losses[name]:.4g}"
        for name in ("loss", "lattice", "frac_coords", "species_kl", "species_cross_entropy")
    )
    line = f"step {step}/{config.num_steps}  {parts}"
    if lap.rate is not None:
        line += f"  {lap.rate:,.0f} structures/s"
    if lap.left is not None:
        at_most = "at most " if config.patience else ""
        line += f"  {at_most}{timedelta(seconds=round(lap.left))} left"
    return line
