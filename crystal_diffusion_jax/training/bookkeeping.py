"""What is due between two calls of the train steps: log, validation, model folder, checkpoint."""

import dataclasses
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from crystal_diffusion_jax import __version__, trained_model
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.runtime import devices, processes
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.training.checkpoint import Checkpoints
from crystal_diffusion_jax.training.finite import require_finite_losses, require_finite_state
from crystal_diffusion_jax.training.logbook import Clock, Logbook
from crystal_diffusion_jax.training.preemption import Preempted
from crystal_diffusion_jax.training.seal import Losses
from crystal_diffusion_jax.training.state import TrainState, Unflatten
from crystal_diffusion_jax.training.workdir import writing

# (state, whether to give up) -> losses, or None if it gave up
Validate = Callable[[TrainState, Callable[[], bool]], dict[str, float] | None]


@dataclasses.dataclass
class Bookkeeping:
    """Keeps the files of a run up to date with its state.

    Attributes:
      config: of the run.
      statistics: of the training split.
      workdir: the run's folder.
      checkpoints: those of the run.
      logbook: open for writing.
      clock: running.
      unflatten: layout of the weights.
      validate: scores a state on the validation split.
      preempted: says whether the run has to stop, the same in all processes.
      say: takes the line about a validation.
      pending: losses of the steps since the last line of the log, a dictionary for each call.
    """

    config: ExperimentConfig
    statistics: DatasetStatistics
    workdir: Path
    checkpoints: Checkpoints
    logbook: Logbook
    clock: Clock
    unflatten: Unflatten
    validate: Validate
    preempted: Callable[[], bool]
    say: Callable[[str], None]
    pending: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def account(self, done: int, state: TrainState) -> None:
        """Does what is due after `done` steps.

        A preemption on the way leaves a checkpoint from which the resumed run does it all anew.

        Raises:
          Preempted: after the checkpoint.
          UserError: numbers that are not finite, or a disk that cannot be written.
        """
        training = self.config.training
        last = done == training.num_steps
        due = last or done % training.log_every == 0
        # Several processes wait for their devices when they ask one another; here they do anyhow.
        if (due or jax.process_count() == 1) and self.preempted():
            self._stop(done, state)
        if not due:
            return
        means = {name: float(np.mean(row)) for name, row in self._losses(done).items()}
        self.logbook.write("train", done, self.clock.lap(done, means))
        if done % training.checkpoint_every == 0 or last:
            scores = self.validate(state, self.preempted)
            if scores is None:
                self._stop(done, state)
            require_finite_losses(scores, done, self._kept)
            require_finite_state(state, done, self._kept)
            self.logbook.write("validation", done, scores)
            self.say(f"step {done}  validation loss {scores['loss']:.4f}")
            if processes.is_first():
                # Before the checkpoint: a run that is resumed no more has its last model.
                self._save_model(done, state, means, scores)
            self.checkpoints.save(done, state, scores)
            if self.preempted() and not last:
                self.checkpoints.wait()
                raise self._ended(done)
        self.pending = []

    def _stop(self, done: int, state: TrainState) -> NoReturn:
        losses = self._losses(done)
        require_finite_state(state, done, self._kept)
        self.checkpoints.save_preempted(done, state, losses)
        raise self._ended(done)

    def _ended(self, done: int) -> Preempted:
        return Preempted(
            f"preempted: {self.workdir} has a checkpoint of step {done}, and the same command goes "
            "on from there"
        )

    def _losses(self, done: int) -> Losses:
        """Of the steps since the last line of the log."""
        fetched = jax.device_get(self.pending)
        losses = {name: np.concatenate([row[name] for row in fetched]) for name in fetched[0]}
        require_finite_losses(losses, done, self._kept)
        return losses

    def _kept(self) -> str:
        self.checkpoints.wait()
        good = self.checkpoints.latest()
        kept = f"the checkpoint of step {good.step}" if good else "no checkpoint yet"
        return f"{self.workdir} keeps {kept}"

    def _save_model(
        self, done: int, state: TrainState, means: dict[str, float], scores: dict[str, float]
    ) -> None:
        training = {
            "steps": done,
            "training losses": {name: round(value, 5) for name, value in means.items()},
            "validation losses": {name: round(value, 5) for name, value in scores.items()},
            "time": duration(self.clock.seconds),
            "devices": f"{devices.describe()}, {os.cpu_count()} cores, {platform.machine()}",
            "versions": f"crystal_diffusion_jax {__version__}, jax {jax.__version__}",
        }
        params = self.unflatten(jnp.asarray(jax.device_get(state.ema_params)))
        model = trained_model.TrainedModel(params, self.config, self.statistics, training)
        with writing(self.workdir):
            trained_model.save(model, self.workdir / "model")
