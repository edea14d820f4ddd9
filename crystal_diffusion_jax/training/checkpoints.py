"""Checkpoints: orbax saves them asynchronously and keeps the last few and the best.

    checkpoints/20            state after 20 steps, with its validation loss
    checkpoints/preempted_15  state of a run that was preempted between two validations

Orbax writes into a temporary folder and renames it when complete. It does not notice a flipped
byte in a compressed array, hence the checksums, which are written before the renaming and compared
before orbax reads anything.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.training.checkpoint_files import (
    PREEMPTED,
    Checkpoint,
    Losses,
    complete_checkpoints,
    read_losses,
    read_state,
    set_damaged_aside,
    write_checksums,
)
from crystal_diffusion_jax.training.step import TrainState

# Largest size of a checkpoint in bytes: orbax writes the arrays twice, and a dozen small files.
_SIZE_FACTOR, _SIZE = 2, 200_000
_REMOVED = "removed"
_UNFINISHED = "*.orbax-checkpoint-tmp*"


class Restored(NamedTuple):
    """Where a run resumes.

    Attributes:
      step: steps taken; 0 for a new run.
      validated: see `Checkpoint`.
      state: after that step.
      losses: of the steps that have not been logged yet.
    """

    step: int
    validated: bool
    state: TrainState
    losses: Losses


class Best(NamedTuple):
    """The lowest validation loss so far, and the steps that were taken then."""

    step: int
    loss: float


class Checkpoints:
    """The checkpoints of a run; a context manager that waits for pending writes.

    Args:
      folder: created if needed.
      keep_last: checkpoints to keep beside the one with the lowest validation loss.
      resume_from_previous: go back to an earlier checkpoint if the last one is damaged.
      log: takes a line for each damaged checkpoint.

    Raises:
      UserError: the last checkpoint is damaged, or (every method that writes) the folder cannot be
        written.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int,
        resume_from_previous: bool = False,
        log: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder.absolute()
        with self._write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove(self.folder / _REMOVED, *self.folder.glob(_UNFINISHED))
            # Before orbax opens them: an unreadable file of any checkpoint would make it raise.
            processes.everywhere(lambda: set_damaged_aside(self.folder, resume_from_previous, log))
            best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
            policy = AnyPreservationPolicy([LatestN(keep_last), best])
            self._validated = self._open(preservation_policy=policy, best_fn=_score)
            self._preempted = self._open(preservation_policy=LatestN(1), step_prefix=PREEMPTED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        # An error that has ended the run is the one to report.
        with contextlib.nullcontext() if error is None else contextlib.suppress(UserError):
            self.wait()
        for manager in (self._validated, self._preempted):
            with contextlib.suppress(Exception):  # it repeats the error of a failed write
                manager.close()
        self._remove(*self.folder.glob(_UNFINISHED))

    def latest(self) -> Checkpoint | None:
        """The last checkpoint, or None."""
        return max(complete_checkpoints(self.folder), default=None)

    def best(self) -> Best | None:
        """The checkpoint of the lowest validation loss, or None."""
        self.wait()
        step = self._validated.best_step()
        return None if step is None else Best(step, self._validated.metrics(step)["loss"])

    def restore(self, like: TrainState) -> Restored:
        """The last checkpoint, or the initial state `like` after 0 steps if there is none."""
        latest = self.latest()
        if latest is None:
            return Restored(0, True, like, {})
        path = self.folder / latest.name
        return Restored(*latest, read_state(path, like), read_losses(path))

    def require_finite(self, values: Mapping[str, Any], where: str) -> None:
        """Stops a run before values that are not finite reach its log, checkpoints or model.

        Raises:
          UserError: names the values (trees of arrays by name), and `where` they occurred.
        """
        leaves = {name: jax.tree.leaves(value) for name, value in jax.device_get(values).items()}
        wrong = [name for name in leaves if not all(np.isfinite(x).all() for x in leaves[name])]
        if not wrong:
            return
        self.wait()
        latest = self.latest()
        kept = f"the checkpoint of step {latest.step}" if latest else "no checkpoint yet"
        raise UserError(
            f"training stopped at {where}: {', '.join(wrong)} not finite; {self.folder.parent} has "
            f"{kept}. Lower config.training.learning_rate or check the data, and train into "
            "another --workdir"
        )

    def require_finite_state(self, state: TrainState, step: int) -> None:
        """`require_finite` of the state, which is one step ahead of the losses."""
        parts = {
            "the weights": state.params,
            "the averaged weights": state.ema_params,
            "the state of the optimizer": state.opt_state,
        }
        self.require_finite(parts, f"step {step}")

    def save(self, step: int, state: TrainState, validation: dict[str, float]) -> None:
        """Starts writing the state after `step` steps, with its validation losses."""
        self._save(self._validated, step, state, {}, validation)

    def save_preempted(self, step: int, state: TrainState, losses: Losses) -> None:
        """Writes the state of a preempted run and waits for it; see `Restored`."""
        if self.latest() != Checkpoint(step, validated=False):  # preempted as soon as it resumed
            self._save(self._preempted, step, state, losses)
        self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is complete and those it replaces are removed."""
        with self._write_errors():
            self._validated.wait_until_finished()
            self._preempted.wait_until_finished()
            for step in self._preempted.all_steps():
                if step <= (self._validated.latest_step() or 0):
                    self._preempted.delete(step)
            self._remove(self.folder / _REMOVED)

    def _open(self, **options: Any) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder,
            item_names=("state", "losses"),
            options=ocp.CheckpointManagerOptions(
                save_root_metadata=False,
                # An interrupted deletion would look like a damaged checkpoint.
                todelete_subdir=_REMOVED,
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=self._write_checksums
                ),
                **options,
            ),
        )

    def _save(
        self,
        manager: ocp.CheckpointManager,
        step: int,
        state: TrainState,
        losses: Losses,
        validation: dict[str, float] | None = None,
    ) -> None:
        self.wait()
        # The next train step reuses the memory of `state`, so the writer gets a copy.
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
            losses=ocp.args.JsonSave({name: row.tolist() for name, row in losses.items()}),
        )
        with self._write_errors():
            # Orbax would fail in several threads at once, each with a traceback on stderr.
            size = _SIZE_FACTOR * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SIZE
            if shutil.disk_usage(self.folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            manager.save(step, args=items, metrics=validation, force=True)

    def _write_checksums(self) -> None:
        """Called from orbax's thread when all files are written, before the renaming."""
        if processes.is_first():
            for path in self.folder.glob(_UNFINISHED):
                write_checksums(path)

    def _remove(self, *paths: Path) -> None:
        if processes.is_first():
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # orbax wraps the operating system's errors in various types
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            full = os.strerror(errno.ENOSPC)
            raise UserError(
                f"{self.folder} cannot be written ({full if full in str(error) else reason}); "
                "earlier checkpoints are intact: make room or repair it, and the same command "
                "resumes from the last one"
            ) from error


def _score(validation: dict[str, float]) -> float:
    return -validation["loss"]  # orbax keeps the highest
