"""Training, top to bottom: data, batches, initial or restored state, steps, log, checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from crystal_diffusion_jax.data.batches import Batch, Batches, evaluation_batches, tail_oversampling
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.runtime import devices, processes
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training import preemption
from crystal_diffusion_jax.training.checkpoint_files import (
    Checkpoint,
    Losses,
    complete_checkpoints,
)
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.training.init_from import load_initial_model, warm_start
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.run_log import RunLog
from crystal_diffusion_jax.training.step import (
    EvaluationStep,
    TrainState,
    initial_params,
    initial_state,
    make_evaluation_step,
    make_train_steps,
)
from crystal_diffusion_jax.training.workdir import export_model, open_workdir, require_model

# Noise draws per validation crystal: four keep the noise of the loss below its trend.
VALIDATION_DRAWS = 4


class TrainingData(NamedTuple):
    """The data as the steps need them."""

    statistics: DatasetStatistics  # of the training split
    num_train: int
    batches: Batches
    validation: list[Batch]  # this process's part of each batch


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
    # Before the folder is created: a mistake here must not tie the folder to this config.
    data = processes.everywhere(lambda: prepare_data(config, splits, mesh))
    denoiser = processes.everywhere(lambda: denoising.build(config.model, data.statistics))
    resumes = processes.anywhere(bool(complete_checkpoints(workdir / "checkpoints")))
    initial_model = None if resumes else load_initial_model(config)
    with (
        open_workdir(workdir, config, splits, log),
        Checkpoints(
            workdir / "checkpoints", config.training.keep_last, resume_from_previous, log
        ) as checkpoints,
    ):
        num_steps = config.training.num_steps
        if checkpoints.latest() == Checkpoint(num_steps, validated=True):
            processes.everywhere(lambda: require_model(workdir, num_steps))
            log(f"{workdir} is trained already: all {num_steps} steps are done")
        else:
            _train(config, data, denoiser, initial_model, workdir, mesh, checkpoints, log)
        log(
            f"{workdir / 'model'} is that of step {num_steps}; the lowest validation loss was at "
            f"step {checkpoints.best_step()}"
        )
    return workdir / "model"


def prepare_data(
    config: ExperimentConfig, splits: Mapping[str, CrystalDataset], mesh: Mesh
) -> TrainingData:
    """Statistics and batches; raises UserError for an element that only "val" has."""
    training = config.training
    statistics = dataset_statistics(splits["train"], config.scale_by_num_atoms)
    is_number = [name not in statistics.class_names for name in statistics.property_names]
    batches = Batches(
        splits["train"],
        statistics,
        training.batch_size,
        config.seed,
        training.steps_per_call,
        tail_oversampling(splits["train"].properties[:, is_number], training.tail_oversampling),
    )
    rows = -(-training.batch_size // mesh.size) * mesh.size  # a multiple of the devices
    validation = evaluation_batches(
        splits["val"], statistics, rows, mesh.size, devices.local_part(mesh)
    )
    return TrainingData(statistics, len(splits["train"]), batches, validation)


def _train(
    config: ExperimentConfig,
    data: TrainingData,
    denoiser: Denoiser,
    initial_model: TrainedModel | None,
    workdir: Path,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: Callable[[str], None],
) -> None:
    """Runs the steps after the last checkpoint."""
    training, part = config.training, devices.local_part(mesh)
    key_init, key_train, key_validation = jax.random.split(jax.random.key(config.seed), 3)

    # Initial state, or that of the last checkpoint.
    example = jax.tree.map(lambda array: array[0], data.batches.group(0, mesh.size, part))
    params, unflatten = initial_params(denoiser, key_init, example)
    if initial_model is not None:
        params = warm_start(params, unflatten, data.statistics, initial_model)
    optimizer = make_optimizer(training, unflatten)
    state = initial_state(params, optimizer)
    state, key_train, key_validation = devices.replicate((state, key_train, key_validation), mesh)
    resumed = checkpoints.restore(state)
    state = resumed.state
    if resumed.step:
        log(f"resuming from the checkpoint of step {resumed.step} in {checkpoints.folder}")

    schedule = noise_schedule(config.noise)
    train_steps = make_train_steps(
        denoiser, unflatten, schedule, config.loss, optimizer, training.ema_decay, mesh
    )
    evaluation_step = make_evaluation_step(denoiser, unflatten, schedule, config.loss, mesh)
    log(
        f"{state.params.size:,} parameters, {data.num_train:,} crystals in batches of "
        f"{data.batches.batch_sizes} padded to {data.batches.sizes} atoms, on "
        f"{devices.describe()}"
    )
    # After a preemption, logging and validation that were due at its step are still to be done.
    first = resumed.step + training.steps_per_call if resumed.validated else resumed.step
    pending = [resumed.losses] if resumed.losses else []  # of the steps since the last row
    with (
        RunLog(workdir, training, resumed.step, resumed.validated, log) as run_log,
        preemption.watch() as preempted,
    ):
        for step in range(first, training.num_steps + 1, training.steps_per_call):
            if step > resumed.step:
                group = data.batches.group(step // training.steps_per_call - 1, mesh.size, part)
                rows = devices.from_local_rows(group, mesh, axis=1)
                state, losses = devices.wait_on_cpu(train_steps(state, tuple(rows), key_train))
                # One call runs while the next is prepared; a longer queue would delay preemption.
                jax.block_until_ready(pending[-1:])
                pending.append(losses)
            last = step == training.num_steps
            log_due = last or step % training.log_every == 0
            # Asking all processes waits for their devices, as a row of the log does anyway.
            if (log_due or jax.process_count() == 1) and preempted():
                _stop(step, state, _fetch(pending, step, checkpoints), checkpoints)
            if not log_due:
                continue
            losses = _fetch(pending, step, checkpoints)
            means = {name: float(np.mean(row)) for name, row in losses.items()}
            run_log.training(step, means)
            pending = []
            if not last and step % training.checkpoint_every:
                continue

            scores = _validate(
                evaluation_step, state, data.validation, mesh, key_validation, preempted
            )
            if scores is None:
                _stop(step, state, losses, checkpoints)
            checkpoints.require_finite(scores, f"the validation after step {step}")
            checkpoints.require_finite_state(state, step)
            run_log.validation(step, scores)
            # Before the checkpoint, so that a finished run has its model.
            if processes.is_first():
                params = unflatten(jnp.asarray(jax.device_get(state.ema_params)))
                model = TrainedModel(params, config, data.statistics, {})
                export_model(model, workdir, step, means, scores, run_log.seconds)
            checkpoints.save(step, state, scores)
            if not last and preempted():
                checkpoints.wait()
                raise preemption.Preempted(step, workdir)


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


def _validate(
    evaluation_step: EvaluationStep,
    state: TrainState,
    validation: list[Batch],
    mesh: Mesh,
    key: jax.Array,
    preempted: Callable[[], bool],
) -> dict[str, float] | None:
    """Mean losses of the validation split, always with the same noise; None if preempted."""
    losses: list[dict[str, jax.Array]] = []
    weights = []
    for index, batch in enumerate(validation):
        rows = devices.from_local_rows(batch, mesh)
        for draw in range(VALIDATION_DRAWS):
            if preempted():
                return None
            fixed = jax.random.fold_in(jax.random.fold_in(key, index), draw)
            jax.block_until_ready(losses[-1:])  # a long queue would delay preemption
            losses.append(devices.wait_on_cpu(evaluation_step(state, tuple(rows), fixed)))
            weights.append(devices.wait_on_cpu(rows.weight.sum()))
    losses, weights = jax.device_get((losses, weights))
    return {n: float(np.average([row[n] for row in losses], weights=weights)) for n in losses[0]}
