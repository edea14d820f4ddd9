"""The training loop: resume, step, log, validate, checkpoint, export the model folder."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crystal_diffusion_jax import __version__, devices, model_folder, processes
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.training.checkpoint import Checkpoints
from crystal_diffusion_jax.training.inputs import Inputs, Split, prepare_inputs
from crystal_diffusion_jax.training.logbook import Logbook, duration, progress_line
from crystal_diffusion_jax.training.state import TrainState, initial_state, make_optimizer
from crystal_diffusion_jax.training.step import (
    EvaluationStep,
    make_evaluation_step,
    make_train_steps,
)
from crystal_diffusion_jax.training.workdir import claim_workdir

# Draws of noise per validation crystal: four keep the noise of the loss below its trend.
VALIDATION_DRAWS = 4


def train(
    config: ExperimentConfig,
    splits: Mapping[str, Split],
    workdir: Path,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains, or resumes from the last checkpoint in `workdir`; returns the model folder.

    A run that has reached its last step is left as it is. Several processes (processes.py) train
    as one: each calls this function, and the first one writes and speaks.

    Args:
      config: the experiment.
      splits: "train" and "val".
      workdir: takes config.json, metrics.jsonl, tensorboard/, checkpoints/ and model/.
      say: takes the progress lines.

    Raises:
      UserError: another config in `workdir`, or a loss that is not finite.
    """
    mesh = devices.data_mesh()
    if not processes.is_first():
        say = _say_nothing
    # Before the folder is claimed: bad data must not claim it.
    inputs = processes.everywhere(lambda: prepare_inputs(config, splits, mesh))
    claim_workdir(workdir, config, splits)
    with Checkpoints(workdir / "checkpoints", config.training.keep_last) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start == config.training.num_steps:
            say(f"{workdir} is trained already: all {start} steps are done")
        else:
            _train_from(start, config, inputs, workdir, mesh, checkpoints, say)
        say(
            f"{workdir / 'model'} is that of step {config.training.num_steps}; the lowest "
            f"validation loss was at step {checkpoints.best_step()}"
        )
    return workdir / "model"


def _say_nothing(line: str) -> None:
    """The progress lines of all processes but the first."""


def _train_from(
    start: int,
    config: ExperimentConfig,
    inputs: Inputs,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
) -> None:
    """The steps after `start`, the step of the last checkpoint or 0."""
    denoiser = Denoiser(config.model, num_species=len(inputs.statistics.vocabulary))
    schedule = noise_schedule(config.noise)
    optimizer = make_optimizer(config.training)
    key_init, key_train, key_validation = jax.random.split(jax.random.key(config.seed), 3)
    part = devices.local_part(mesh)
    example = jax.tree.map(lambda array: array[0], inputs.batches.group(0, mesh.size, part))
    state, unflatten = initial_state(denoiser, optimizer, key_init, example)
    state, key_train, key_validation = devices.replicate((state, key_train, key_validation), mesh)
    steps_fn = make_train_steps(
        denoiser, unflatten, schedule, config.loss, optimizer, config.training.ema_decay, mesh
    )
    evaluate_fn = make_evaluation_step(denoiser, unflatten, schedule, config.loss, mesh)
    if start:
        state = checkpoints.restore(start, state)
        say(f"resuming from the checkpoint of step {start} in {workdir}")
    say(
        f"{state.params.size:,} parameters, {inputs.num_train:,} crystals in batches of "
        f"{inputs.batches.batch_sizes} padded to {inputs.batches.sizes} atoms, on "
        f"{devices.describe()}"
    )
    with Logbook(workdir, start, writes=processes.is_first()) as logbook:
        clock = _Clock(config, start, logbook.seconds, say)
        pending: list[dict[str, jax.Array]] = []
        per_call = config.training.steps_per_call
        for done in range(start + per_call, config.training.num_steps + 1, per_call):
            batches = inputs.batches.group(done // per_call - 1, mesh.size, part)
            rows = devices.from_local_rows(batches, mesh, axis=1)
            state, metrics = devices.in_turn(steps_fn(state, tuple(rows), key_train))
            pending.append(metrics)
            last = done == config.training.num_steps
            if done % config.training.log_every == 0 or last:
                fetched = jax.device_get(pending)
                losses = {
                    name: np.concatenate([row[name] for row in fetched]) for name in fetched[0]
                }
                _refuse_not_finite(losses, done, workdir, checkpoints.latest_step())
                means = {name: float(np.mean(values)) for name, values in losses.items()}
                pending = []
                logbook.write("train", done, clock.lap(done, means))
            if done % config.training.checkpoint_every == 0 or last:
                scores = _validate(evaluate_fn, state, inputs.validation, mesh, key_validation)
                _refuse_not_finite(scores, done, workdir, checkpoints.latest_step())
                logbook.write("validation", done, scores)
                say(f"step {done}  validation loss {scores['loss']:.4f}")
                if processes.is_first():
                    # Before the checkpoint: a run that is resumed no more has its last model.
                    training = _training_record(done, means, scores, clock.seconds)
                    params = unflatten(jnp.asarray(jax.device_get(state.ema_params)))
                    model = model_folder.TrainedModel(params, config, inputs.statistics, training)
                    model_folder.save(model, workdir / "model")
                checkpoints.save(done, state, scores)


class _Clock:
    """Rates, time left, and the seconds of training in all, those before an interruption too."""

    def __init__(
        self, config: ExperimentConfig, start: int, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._config, self._say = config.training, say
        self._lap = time.monotonic()
        self._begin = self._lap - seconds
        self._lap_step = start

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def lap(self, step: int, means: dict[str, float]) -> dict[str, float]:
        now = time.monotonic()
        per_step = (now - self._lap) / (step - self._lap_step)
        rate = self._config.batch_size / per_step
        left = per_step * (self._config.num_steps - step)
        self._lap, self._lap_step = now, step
        self._say(progress_line(step, self._config.num_steps, means, rate, left))
        return {**means, "structures_per_second": rate, "seconds": self.seconds}


def _refuse_not_finite(
    losses: Mapping[str, Any], done: int, workdir: Path, good_step: int | None
) -> None:
    """Stops the run before numbers gone wrong reach the log, a checkpoint or the model folder.

    `losses` holds numbers of the validation after step `done`, or rows of the steps up to it.
    """
    finite = np.all([np.isfinite(values) for values in losses.values()], axis=0)
    wrong = [name for name, values in losses.items() if not np.all(np.isfinite(values))]
    where = f"the validation after step {done}"
    if np.ndim(finite):
        where = f"step {done - len(finite) + 1 + int(np.argmin(finite))}"
    if wrong:
        kept = f"the checkpoint of step {good_step}" if good_step else "no checkpoint yet"
        raise UserError(
            f"training stopped at {where}: {', '.join(wrong)} not finite; {workdir} keeps {kept}. "
            "Lower config.training.learning_rate or look at the data, and train into another "
            "--workdir"
        )


def _validate(
    evaluate_fn: EvaluationStep,
    state: TrainState,
    validation: list[Batch],
    mesh: jax.sharding.Mesh,
    key: jax.Array,
) -> dict[str, float]:
    """Mean over the validation split with the same noise every time."""
    losses, weights = [], []
    for index, batch in enumerate(validation):
        rows = devices.from_local_rows(batch, mesh)
        for draw in range(VALIDATION_DRAWS):
            fixed = jax.random.fold_in(jax.random.fold_in(key, index), draw)
            losses.append(devices.in_turn(evaluate_fn(state, tuple(rows), fixed)))
            weights.append(devices.in_turn(rows.weight.sum()))
    losses, weights = jax.device_get((losses, weights))
    return {
        name: float(np.average([one[name] for one in losses], weights=weights))
        for name in losses[0]
    }


def _training_record(
    step: int, means: dict[str, float], scores: dict[str, float], seconds: float
) -> dict[str, Any]:
    """What the model card says of the training."""
    return {
        "steps": step,
        "training losses": {name: round(value, 5) for name, value in means.items()},
        "validation losses": {name: round(value, 5) for name, value in scores.items()},
        "time": duration(seconds),
        "devices": f"{devices.describe()}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": f"crystal_diffusion_jax {__version__}, jax {jax.__version__}",
    }
