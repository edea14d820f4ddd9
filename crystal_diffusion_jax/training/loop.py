"""Training, top to bottom: data, batches, initial or restored state, steps, log, checkpoints."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ExperimentConfig, TrainingConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.runtime import devices, processes
from crystal_diffusion_jax.runtime.heartbeat import Heartbeat
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training import chunks, preemption
from crystal_diffusion_jax.training.averages import LossAverages
from crystal_diffusion_jax.training.checkpoint_files import Losses, complete_checkpoints
from crystal_diffusion_jax.training.checkpoints import Best, Checkpoints
from crystal_diffusion_jax.training.init_from import load_initial_model, warm_start
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.pace import Pace
from crystal_diffusion_jax.training.programs import Announced
from crystal_diffusion_jax.training.run_log import RunLog
from crystal_diffusion_jax.training.step import (
    TrainState,
    initial_params,
    initial_state,
    make_evaluation_step,
    make_train_steps,
)
from crystal_diffusion_jax.training.training_data import (
    TrainingData,
    prepare_data,
)
from crystal_diffusion_jax.training.validation import validate
from crystal_diffusion_jax.training.workdir import (
    export_model,
    open_workdir,
    recorded_scale,
    require_model,
)


def train(
    config: ExperimentConfig,
    splits: Mapping[str, CrystalDataset],
    workdir: Path,
    log: Callable[[str], None] = print,
    resume_from_previous: bool = False,
) -> Path:
    """Trains, or resumes from the last checkpoint in `workdir`; returns the model folder.

    A finished run is left unchanged. When several processes train together (runtime/processes.py),
    each calls this function; the first one writes the files and prints.

    Args:
      config: the experiment.
      splits: "train" and "val".
      workdir: takes config.json, metrics.jsonl, tensorboard/, checkpoints/ and model/.
      log: takes the progress lines.
      resume_from_previous: go back to an earlier checkpoint if the last one is damaged.

    Raises:
      UserError: another config or another process in `workdir`, a damaged checkpoint, a finished
        run without its model, a disk that cannot be written, or values that are not finite.
      Preempted: on SIGTERM, after writing a checkpoint.
    """
    mesh = devices.data_mesh()
    log = log if processes.is_first() else lambda line: None
    resumes = processes.anywhere(bool(complete_checkpoints(workdir / "checkpoints")))
    initial_model = None if resumes else load_initial_model(config)
    # The network of the initial model knows distances in its own unit.
    unit = initial_model.statistics.lattice_scale if initial_model else recorded_scale(workdir)
    with contextlib.ExitStack() as stack:
        heartbeat = stack.enter_context(Heartbeat(log))
        stack.enter_context(heartbeat.doing("at work"))
        # Before the folder is created: a mistake here must not tie the folder to this config.
        data = processes.everywhere(lambda: prepare_data(config, splits, mesh, unit))
        denoiser = processes.everywhere(lambda: denoising.build(config, data.statistics))
        scale = data.statistics.lattice_scale
        stack.enter_context(open_workdir(workdir, config, splits, scale, heartbeat.log))
        keep_last = config.training.keep_last
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", keep_last, resume_from_previous, heartbeat.log)
        )
        training = config.training
        latest, best = checkpoints.latest(), checkpoints.best()
        if latest and best and latest.validated and _finished(latest.step, best, training):
            done = latest.step
            processes.everywhere(lambda: require_model(workdir, done))
            heartbeat.log(f"{workdir} is trained already: all {done} steps are done")
        else:
            _train(
                config,
                data,
                splits["train"],
                denoiser,
                initial_model,
                workdir,
                mesh,
                checkpoints,
                heartbeat,
            )
        best, latest = checkpoints.best(), checkpoints.latest()  # in this order: `best` waits
        assert latest is not None
        assert best is not None
        chosen = best.step if training.patience else latest.step
        heartbeat.log(
            f"{workdir / 'model'} is that of step {chosen}; the lowest validation loss was at step "
            f"{best.step}"
        )
    return workdir / "model"


def _finished(step: int, best: Best, training: TrainingConfig) -> bool:
    """Whether the validation after `step` steps is the last one."""
    waited = (step - best.step) // training.checkpoint_every
    return step == training.num_steps or 0 < training.patience <= waited


def _train(
    config: ExperimentConfig,
    data: TrainingData,
    crystals: CrystalDataset,
    denoiser: Denoiser,
    initial_model: TrainedModel | None,
    workdir: Path,
    mesh: Mesh,
    checkpoints: Checkpoints,
    heartbeat: Heartbeat,
) -> None:
    """Runs the steps after the last checkpoint."""
    training, part, log = data.training, devices.local_part(mesh), heartbeat.log
    key_init, *keys = _keys(config.seed)
    for warning in data.warnings:
        log(f"warning: {warning}")

    # Initial state, or that of the last checkpoint.
    with heartbeat.doing("setting up the network"):
        example = jax.tree.map(lambda array: array[0], data.batches.group(0, mesh.size, part))
        params, unflatten = initial_params(denoiser, key_init, example)
        if initial_model is not None:
            params = warm_start(params, unflatten, data.statistics, initial_model)
        optimizer = make_optimizer(training, unflatten)

        @functools.partial(jax.jit, out_shardings=devices.replicated(mesh))
        def first_state(params: Array, keys: list[Array]) -> tuple[TrainState, list[Array]]:
            return initial_state(params, optimizer), keys

        state, (key_train, key_validation) = first_state(params, keys)
        resumed = checkpoints.restore(state)
        state = resumed.state
    if resumed.step:
        log(f"resuming from the checkpoint of step {resumed.step} in {checkpoints.folder}")

    schedule = noise_schedule(config.noise)
    pace = Pace(training, data.validated)
    cached_elements = devices.cached_elements(mesh)
    if training.num_steps >= chunks.MIN_STEPS:
        with heartbeat.doing("measuring this processor"):
            cached_elements = chunks.cached_elements(denoiser, data.batches, mesh, log)
    train_steps = Announced(
        make_train_steps(
            denoiser,
            unflatten,
            schedule,
            config.loss,
            optimizer,
            training.ema_decay,
            mesh,
            cached_elements,
        ),
        "training",
        data.batches.sizes,
        heartbeat,
        pace,
    )
    evaluation_step = Announced(
        make_evaluation_step(denoiser, unflatten, schedule, config.loss, mesh),
        "validation",
        sorted({batch.crystals.mask.shape[-1] for batch in data.validation}),
        heartbeat,
        pace,
    )
    log(
        f"{state.params.size:,} parameters, {data.num_train:,} crystals in batches of "
        f"{data.batches.batch_sizes} padded to {data.batches.sizes} atoms, on "
        f"{devices.describe()}, {cached_elements:,} elements at a time"
    )
    best = checkpoints.best()
    # After a preemption, logging and validation that were due at its step are still to be done.
    first = resumed.step + training.steps_per_call if resumed.validated else resumed.step
    pending = [resumed.losses] if resumed.losses else []  # of the steps since the last row
    with (
        RunLog(workdir, training, resumed.step, resumed.validated, log) as run_log,
        preemption.watch() as preempted,
        heartbeat.doing("training"),
    ):
        averages = LossAverages(data.batches, run_log.by_size)
        for step in range(first, training.num_steps + 1, training.steps_per_call):
            if step > resumed.step:
                bucket = data.batches.bucket(step - 1)
                group = data.batches.group(step // training.steps_per_call - 1, mesh.size, part)
                rows = devices.from_local_rows(group, mesh, axis=1)
                if data.batches.sizes[bucket] in train_steps.called:
                    pace.count(training.steps_per_call, data.batches.batch_sizes[bucket])
                state, losses = devices.wait_on_cpu(train_steps(state, tuple(rows), key_train))
                # One call runs while the next is prepared; a longer queue would delay preemption.
                jax.block_until_ready(pending[-1:])
                pending.append(losses)
                heartbeat.reached(f"step {step}/{training.num_steps}")
            last = step == training.num_steps
            log_due = last or step % training.log_every == 0
            # Asking all processes waits for their devices, as a row of the log does anyway.
            if (log_due or jax.process_count() == 1) and preempted():
                _stop(step, state, _fetch(pending, step, checkpoints), checkpoints)
            if not log_due:
                continue
            losses = _fetch(pending, step, checkpoints)
            means, by_size = averages.update(losses, step)
            run_log.training(step, means, by_size, pace.lap(step))
            pending = []
            if not last and step % training.checkpoint_every:
                continue

            with heartbeat.doing(f"validating after step {step}"), pace.validating():
                scores = validate(
                    evaluation_step, state, data.validation, mesh, key_validation, preempted
                )
            if scores is None:
                _stop(step, state, losses, checkpoints)
            checkpoints.require_finite(scores, f"the validation after step {step}")
            checkpoints.require_finite_state(state, step)
            lowest = best is None or scores["loss"] <= best.loss
            if best is None or lowest:
                best = Best(step, scores["loss"])
            run_log.validation(step, scores, best)
            # Before the checkpoint, so that a finished run has its model.
            if processes.is_first() and (lowest or not training.patience):
                params = unflatten(jnp.asarray(jax.device_get(state.ema_params)))
                model = TrainedModel(params, config, data.statistics, {})
                export_model(
                    model, crystals, workdir, step, means, scores, run_log.seconds, cached_elements
                )
            checkpoints.save(step, state, scores)
            if _finished(step, best, training):
                break
            if not last and preempted():
                checkpoints.wait()
                raise preemption.Preempted(step, workdir)


@jax.jit  # outside, each operation would be compiled as a program of its own
def _keys(seed: int) -> tuple[Array, Array, Array]:
    """Keys of the initial weights, of the steps and of the validation."""
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    return first, second, third


def _fetch(pending: list[Any], step: int, checkpoints: Checkpoints) -> Losses:
    """[n] losses and gradient norms of the n steps up to `step` that have not been logged yet."""
    fetched = jax.device_get(pending)
    losses = {name: np.concatenate([each[name] for each in fetched]) for name in fetched[0]}
    finite = np.all(np.isfinite(list(losses.values())), axis=0)
    first = step - len(finite) + 1 + int(np.argmin(finite))
    checkpoints.require_finite(losses, f"step {first}")
    return losses


def _stop(step: int, state: TrainState, losses: Losses, checkpoints: Checkpoints) -> NoReturn:
    """Ends a preempted run with a checkpoint; the resumed run does what is due at `step`."""
    checkpoints.require_finite_state(state, step)
    checkpoints.save_preempted(step, state, losses)
    raise preemption.Preempted(step, checkpoints.folder.parent)
