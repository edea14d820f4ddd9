"""The training loop: resume, step, log, validate, checkpoint, export the model folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.runtime import devices, processes
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training import preemption
from crystal_diffusion_jax.training.bookkeeping import Bookkeeping
from crystal_diffusion_jax.training.checkpoint import Checkpoint, Checkpoints
from crystal_diffusion_jax.training.init_from import load_start, warm_params
from crystal_diffusion_jax.training.inputs import Inputs, prepare_inputs
from crystal_diffusion_jax.training.logbook import Clock, Logbook
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.resume import restore_last
from crystal_diffusion_jax.training.state import TrainState, initial_params, initial_state
from crystal_diffusion_jax.training.step import (
    EvaluationStep,
    make_evaluation_step,
    make_train_steps,
)
from crystal_diffusion_jax.training.workdir import claimed

# Draws of noise per validation crystal: four keep the noise of the loss below its trend.
VALIDATION_DRAWS = 4


def train(
    config: ExperimentConfig,
    splits: Mapping[str, CrystalDataset],
    workdir: Path,
    say: Callable[[str], None] = print,
    resume_from_previous: bool = False,
) -> Path:
    """Trains, or resumes from the last checkpoint in `workdir`; returns the model folder.

    A run that has reached its last step is left as it is. Several processes (processes.py) train
    as one: each calls this function, and the first one writes and speaks.

    Args:
      config: the experiment.
      splits: "train" and "val".
      workdir: takes config.json, metrics.jsonl, tensorboard/, checkpoints/ and model/.
      say: takes the progress lines.
      resume_from_previous: go back to an earlier checkpoint where the last one is damaged.

    Raises:
      UserError: another config or another process in `workdir`, a damaged checkpoint, a finished
        run without its model, a disk that cannot be written, or numbers that are not finite.
      Preempted: after SIGTERM and the checkpoint that it asks for (preemption.py).
    """
    mesh = devices.data_mesh()
    if not processes.is_first():
        say = _say_nothing
    # Before the folder is claimed: bad data must not claim it.
    inputs = processes.everywhere(lambda: prepare_inputs(config, splits, mesh))
    denoiser = processes.everywhere(lambda: denoising.build(config.model, inputs.statistics))
    start = None
    if config.training.init_from:
        # One decision for all processes, as a shared folder may not look the same to each of them.
        begun = (workdir / "checkpoints").exists()
        if not (processes.same_everywhere(str(begun)) and begun):
            start = _load_start(config)
    with (
        claimed(workdir, config, splits, say),
        Checkpoints(workdir / "checkpoints", config) as checkpoints,
    ):
        steps = config.training.num_steps
        end = Checkpoint(steps, validated=True)
        if checkpoints.latest() == end:
            processes.everywhere(lambda: _require_model(workdir, checkpoints, end))
            say(f"{workdir} is trained already: all {steps} steps are done")
        else:
            _train(
                config,
                inputs,
                denoiser,
                start,
                workdir,
                mesh,
                checkpoints,
                say,
                resume_from_previous,
            )
        say(
            f"{workdir / 'model'} is that of step {steps}; the lowest validation loss was at step "
            f"{checkpoints.best_step()}"
        )
    return workdir / "model"


def _require_model(workdir: Path, checkpoints: Checkpoints, end: Checkpoint) -> None:
    """Raises UserError where a finished run has lost what it made."""
    if all((workdir / "model" / name).is_file() for name in ("model.json", "weights.npz")):
        return
    earlier = checkpoints.before(end)
    raise UserError(
        f"all {end.step} steps of {workdir} are done, but its folder model is missing or "
        f"incomplete: copy it back, or remove {checkpoints.folder / end.name} and run this "
        f"again, which repeats the steps from {earlier.step if earlier else 0} on"
    )


def _load_start(config: ExperimentConfig) -> TrainedModel:
    """`load_start` in every process.

    Raises:
      UserError: the same, or copies of the model that differ.
    """
    model = processes.everywhere(lambda: load_start(config))
    if not processes.same_everywhere(model.weights_sha256):
        raise UserError(
            f"training.init_from={config.training.init_from} is not the same model in all "
            "processes; copy one of them to all machines"
        )
    return model


def _say_nothing(line: str) -> None:
    """The progress lines of all processes but the first."""


def _train(
    config: ExperimentConfig,
    inputs: Inputs,
    denoiser: Denoiser,
    start: TrainedModel | None,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
    resume_from_previous: bool,
) -> None:
    """The steps after the last checkpoint."""
    schedule = noise_schedule(config.noise)
    key_init, key_train, key_validation = jax.random.split(jax.random.key(config.seed), 3)
    part = devices.local_part(mesh)
    example = jax.tree.map(lambda array: array[0], inputs.batches.group(0, mesh.size, part))
    params, unflatten = initial_params(denoiser, key_init, example)
    if config.training.init_from and checkpoints.latest() is None:
        model = start or _load_start(config)  # the folder may hold a checkpoint cut short
        fresh = params
        params = processes.everywhere(
            lambda: warm_params(fresh, unflatten, inputs.statistics, model)
        )
    optimizer = make_optimizer(config.training, unflatten)
    state = initial_state(params, optimizer)
    state, key_train, key_validation = devices.replicate((state, key_train, key_validation), mesh)
    steps_fn = make_train_steps(
        denoiser, unflatten, schedule, config.loss, optimizer, config.training.ema_decay, mesh
    )
    evaluate_fn = make_evaluation_step(denoiser, unflatten, schedule, config.loss, mesh)
    last, state, unfinished = restore_last(checkpoints, state, resume_from_previous, say)
    say(
        f"{state.params.size:,} parameters, {inputs.num_train:,} crystals in batches of "
        f"{inputs.batches.batch_sizes} padded to {inputs.batches.sizes} atoms, on "
        f"{devices.describe()}"
    )

    def validate(state: TrainState, stop: Callable[[], bool]) -> dict[str, float] | None:
        return _validate(evaluate_fn, state, inputs.validation, mesh, key_validation, stop)

    # What was due at the step of a preemption, its line of the log too, is done anew.
    logged = last.step if last.validated else last.step - 1
    with (
        Logbook(workdir, logged, writes=processes.is_first()) as logbook,
        preemption.noticed() as preempted,
    ):
        clock = Clock(config.training, last.step, logbook.seconds, say)
        books = Bookkeeping(
            config,
            inputs.statistics,
            workdir,
            checkpoints,
            logbook,
            clock,
            unflatten,
            validate,
            preempted,
            say,
        )
        if not last.validated:
            books.pending.append(unfinished)
            books.account(last.step, state)
        per_call = config.training.steps_per_call
        for done in range(last.step + per_call, config.training.num_steps + 1, per_call):
            batches = inputs.batches.group(done // per_call - 1, mesh.size, part)
            rows = devices.from_local_rows(batches, mesh, axis=1)
            state, metrics = devices.in_turn(steps_fn(state, tuple(rows), key_train))
            # One call runs while the next is prepared; a longer queue would delay a preemption.
            jax.block_until_ready(books.pending[-1:])
            books.pending.append(metrics)
            books.account(done, state)


def _validate(
    evaluate_fn: EvaluationStep,
    state: TrainState,
    validation: list[Batch],
    mesh: jax.sharding.Mesh,
    key: jax.Array,
    stop: Callable[[], bool],
) -> dict[str, float] | None:
    """Mean over the validation split with the same noise every time; None if told to stop."""
    losses: list[dict[str, jax.Array]] = []
    weights = []
    for index, batch in enumerate(validation):
        rows = devices.from_local_rows(batch, mesh)
        for draw in range(VALIDATION_DRAWS):
            if stop():
                return None
            fixed = jax.random.fold_in(jax.random.fold_in(key, index), draw)
            jax.block_until_ready(losses[-1:])  # so that the queue is short when told to stop
            losses.append(devices.in_turn(evaluate_fn(state, tuple(rows), fixed)))
            weights.append(devices.in_turn(rows.weight.sum()))
    losses, weights = jax.device_get((losses, weights))
    return {
        name: float(np.average([one[name] for one in losses], weights=weights))
        for name in losses[0]
    }
