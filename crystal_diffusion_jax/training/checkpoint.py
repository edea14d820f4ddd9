"""Checkpoints of a run: asynchronous orbax saves, the last few and the best kept.

A checkpoint is a folder named after its step, with the state, a record and checksums (seal.py);
that of a preemption, without a validation, is named "15.preempted" and goes when a later one is
there.
Orbax writes under another name and renames last, so that a folder of that name is complete.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, read_json
from crystal_diffusion_jax.training import seal
from crystal_diffusion_jax.training.seal import DamagedError, Losses
from crystal_diffusion_jax.training.state import TrainState

_RECORD = "record/record.json"
_METRICS = "metrics/metrics"  # instead of the record in checkpoints of version 0.1.0
# Bytes that a checkpoint takes at most: orbax collects the arrays' files in others, and a dozen
# small files need a block each.
_ROOM_FACTOR, _ROOM = 2, 200_000
_BEGUN = ".orbax-checkpoint-tmp"
_PREEMPTED, _DAMAGED, _REMOVED = ".preempted", ".damaged", ".removed"


class Checkpoint(NamedTuple):
    """One complete checkpoint; in the order of training, as a validation follows a preemption.

    Attributes:
      step: steps taken.
      validated: False for one of a preemption.
    """

    step: int
    validated: bool

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.step}" if self.validated else f"{self.step}{_PREEMPTED}"


class Checkpoints:
    """Checkpoints in one folder; a context manager that waits for pending writes.

    Args:
      folder: created if needed.
      config: of the run, which its checkpoints must share; `training.keep_last` checkpoints are
        kept besides the one of the lowest validation loss.

    Attributes:
      folder: as an absolute path, which orbax needs.

    Raises:
      UserError: from every method that writes, when the folder cannot be written.
    """

    def __init__(self, folder: Path, config: ExperimentConfig) -> None:
        self.folder, self._config = folder.absolute(), config
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            if processes.is_first():
                self._remove_unfinished()
        self._losses: dict[Checkpoint, float] = {}  # those known, also of a write that failed
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                default=ocp.StandardCheckpointHandler(),
                record=ocp.JsonCheckpointHandler(filename=Path(_RECORD).name),
            ),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The error that ends the run is the one to tell of.
        with contextlib.nullcontext() if error is None else contextlib.suppress(UserError):
            self.wait()
        with contextlib.suppress(Exception):  # the failed write, for the second time
            self._orbax.close()

    def save(self, step: int, state: TrainState, validation: dict[str, float]) -> None:
        """Starts writing the state reached after `step` steps."""
        self._save(Checkpoint(step, validated=True), state, validation, {})

    def save_preempted(self, step: int, state: TrainState, unfinished: Losses) -> None:
        """Writes a state without a validation, at once.

        `unfinished` are the losses since the last line of the log.
        """
        if self.latest() != Checkpoint(step, validated=False):  # of a run preempted at its start
            self._save(Checkpoint(step, validated=False), state, None, unfinished)
        self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is complete and those that it replaces are removed."""
        with self._writing():
            self._orbax.wait_until_finished()
            losses = self._on_disk()
            if processes.is_first():
                for each in losses.keys() - _kept(losses, self._config.training.keep_last):
                    self._remove(self.folder / each.name)

    def latest(self) -> Checkpoint | None:
        """The last complete checkpoint, or None."""
        return max(self._on_disk(), default=None)

    def before(self, which: Checkpoint) -> Checkpoint | None:
        """The complete checkpoint before another one, or None."""
        return max((each for each in self._on_disk() if each < which), default=None)

    def best_step(self) -> int | None:
        """Steps taken at the checkpoint of the lowest validation loss, or None."""
        self.wait()
        best = _best(self._on_disk())
        return best.step if best else None

    def restore(self, which: Checkpoint, like: TrainState) -> tuple[TrainState, Losses]:
        """Reads a state with the shapes, types and shardings of `like`.

        Returns:
          The state, and the losses since the last line of the log before a preemption.

        Raises:
          DamagedError: a file of the checkpoint is missing or is not as it was written.
          UserError: a newer version wrote it, or a run with another config.
        """
        path = self.folder / which.name
        record = None
        if not (path / _METRICS).exists():
            # Before the libraries see the files: they would print a dozen tracebacks from threads.
            seal.require_intact(path)
            record = seal.read_record(path / _RECORD)
            seal.require_same_config(record, self._config, path)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            items = ocp.args.Composite(default=ocp.args.StandardRestore(abstract))
            state: TrainState = self._orbax.restore(path, args=items)["default"]
        except Exception as error:  # damaged files make the libraries raise anything
            raise DamagedError(f"{path} is damaged ({_gist(error)})") from error
        return state, record.losses() if record else {}

    def set_aside(self, which: Checkpoint) -> Path:
        """Renames a damaged checkpoint, so that it counts no more; returns its new place."""
        path = self.folder / which.name
        aside = path.with_name(which.name + _DAMAGED)
        with self._writing():
            if processes.is_first():
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
        return aside

    def _save(
        self,
        which: Checkpoint,
        state: TrainState,
        validation: dict[str, float] | None,
        unfinished: Losses,
    ) -> None:
        self.wait()
        self._require_room(state)
        # The train step donates its state, so the writer gets a copy of its own.
        copy = jax.tree.map(jnp.copy, state)
        record = seal.make_record(self._config, validation, unfinished)._asdict()
        items = ocp.args.Composite(
            default=ocp.args.StandardSave(copy), record=ocp.args.JsonSave(record)
        )
        with self._writing():
            self._orbax.save(self.folder / which.name, args=items)
        self._losses[which] = validation["loss"] if validation else math.inf

    def _seal(self) -> None:
        """Orbax's thread calls it when all files are written, and renames the folder then."""
        if processes.is_first():
            for path in self.folder.glob(f"*{_BEGUN}*"):
                seal.write_checksums(path)

    def _require_room(self, state: TrainState) -> None:
        """Tries the disk: orbax writes in several threads, and fails in all of them at once."""
        if not processes.is_first():
            return
        size = _ROOM_FACTOR * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _ROOM
        trial = self.folder / f"trial{_REMOVED}"
        with self._writing():
            try:
                with trial.open("wb") as file:
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:  # macOS
                        file.write(bytes(size))
            finally:
                trial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the libraries wrap the operating system's errors variously
            raise UserError(
                f"{self.folder} cannot be written ({_gist(error)}); earlier checkpoints are "
                "whole: make room or mend it, and the same command goes on from the last one"
            ) from error

    def _on_disk(self) -> dict[Checkpoint, float]:
        """The complete checkpoints, and their validation losses."""
        found = []
        for path in self.folder.iterdir():
            step, dot, kind = path.name.partition(".")
            if step.isdecimal() and dot + kind in ("", _PREEMPTED):
                found.append(Checkpoint(int(step), validated=not kind))
        for each in found:
            if each not in self._losses:
                self._losses[each] = self._validation_loss(each)
        return {each: self._losses[each] for each in found}

    def _validation_loss(self, which: Checkpoint) -> float:
        """Infinite where it is not known: a damaged checkpoint can be the last but not the best."""
        path = self.folder / which.name
        try:
            if (path / _METRICS).exists():
                return float(read_json(path / _METRICS, MAX_DESCRIPTION_BYTES)["loss"])
            validation = seal.read_record(path / _RECORD).validation
            return float(validation["loss"]) if validation else math.inf
        except (UserError, ValueError, KeyError, TypeError):
            return math.inf

    def _remove_unfinished(self) -> None:
        """What a kill cut short: checkpoints half written or half removed."""
        for path in self.folder.iterdir():
            if path.name.endswith(_REMOVED) or _BEGUN in path.name:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remove(self, path: Path) -> None:
        # Renamed first: a kill on the way leaves nothing that looks complete.
        removed = path.with_name(path.name + _REMOVED)
        path.rename(removed)
        shutil.rmtree(removed)


def _best(losses: Mapping[Checkpoint, float]) -> Checkpoint | None:
    """That of the lowest validation loss."""
    validated = [each for each in losses if each.validated]
    return min(validated, key=lambda each: (losses[each], -each.step), default=None)


def _kept(losses: Mapping[Checkpoint, float], keep_last: int) -> set[Checkpoint | None]:
    """The last validated ones, the best, and that of a preemption while it is the last of all."""
    validated = sorted(each for each in losses if each.validated)
    return {*validated[-keep_last:], _best(losses), max(losses, default=None)}


def _gist(error: Exception) -> str:
    """The first line of a library's error, at most."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
