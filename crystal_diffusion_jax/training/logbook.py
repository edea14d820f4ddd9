"""The run's log: metrics.jsonl, TensorBoard, and one progress line."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from crystal_diffusion_jax.files import replace_text


class Logbook:
    """Appends metrics to <workdir>/metrics.jsonl and <workdir>/tensorboard.

    Args:
      workdir: the run's folder.
      resume_step: rows of later steps are removed first: they belong to work that was lost and
        will be done again.
      writes: False for a process that leaves the log to another.

    Attributes:
      seconds: of training up to `resume_step`, as the remaining rows tell.
    """

    def __init__(self, workdir: Path, resume_step: int, writes: bool = True) -> None:
        self.seconds = 0.0
        self._writes = writes
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        rows = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows = [row for row in rows if _step_of(row) <= resume_step]
        replace_text(path, "".join(rows))
        self.seconds = max((float(json.loads(row).get("seconds", 0)) for row in rows), default=0.0)
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writes:
            self._file.close()
            self._tensorboard.close()

    def write(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        """Adds one row; `kind` is "train" or "validation"."""
        if not self._writes:
            return
        row: dict[str, Any] = {"kind": kind, "step": step, **metrics}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)


def _step_of(row: str) -> float:
    """The step of a row; a line that a kill cut short counts as lost."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def duration(seconds: float) -> str:
    """For example "2 h 05 min", "3 min 20 s" or "12 s"."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    if seconds >= 60:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds} s"


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
