"""Success rates against minutes of training, from the checkpoints that a run still holds.

    python -m studies.curve --workdir=runs/perov5_cds --out=curve.png --guidance=1
    python -m studies.curve --workdir=runs/mine --out=curve.png --num=1000

The minimum of the property is requested. All numbers go to the JSON file next to the picture, which
keeps those of checkpoints that the run has deleted since: run the command now and then during a
training to collect the whole curve.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from crystal_diffusion_jax import api
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import add_request_flags
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, file_sha256, read_text
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training import checkpoint_files
from crystal_diffusion_jax.training.checkpoint_files import DamagedError
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import initial_state
from studies import measurement, plots, records
from studies.measurement import Measurement


@dataclasses.dataclass(frozen=True)
class Point:
    """The scores of one checkpoint.

    Attributes:
      run_sha256: hash of the run's config.
      step: training step.
      minutes: minutes of training.
      validation_loss: None if the run did not validate at this step.
      measurement: the scores.
    """

    run_sha256: str
    step: int
    minutes: float
    validation_loss: float | None
    measurement: Measurement


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.curve", description=__doc__)
    flags.add_argument("--workdir", type=Path, required=True, help="folder of the training")
    flags.add_argument("--out", type=Path, required=True, help="PNG file")
    add_request_flags(flags, "num", "guidance", "solver", "seed", "charge_balance")
    return flags


def checkpoint_model(workdir: Path, step: int, last: TrainedModel) -> TrainedModel:
    """The averaged weights of a checkpoint as a model, even while the training is running.

    Args:
      workdir: folder of the run.
      step: step of the checkpoint.
      last: the run's exported model, which has the layout of the weights.

    Raises:
      DamagedError: the checkpoint is damaged, or has been deleted meanwhile.
    """
    params, unflatten = ravel_pytree(jax.tree.map(jnp.asarray, last.params))
    like = initial_state(params, make_optimizer(last.config.training, unflatten))
    folder = workdir / "checkpoints" / str(step)
    checkpoint_files.verify(folder)
    try:
        state = checkpoint_files.read_state(folder, like)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder} cannot be read: {error}") from error
    digest = hashlib.sha256(np.asarray(state.ema_params).tobytes()).hexdigest()
    # numpy, as from a model folder: restored arrays are tied to one device, a sampler may use all.
    params = jax.device_get(unflatten(state.ema_params))
    return dataclasses.replace(last, params=params, weights_sha256=digest)


def read_log(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Minutes of training, and validation loss, by step.

    Args:
      path: metrics.jsonl; a last line that is still being written is ignored.

    Raises:
      UserError: there is no such log.
    """
    minutes, losses = {}, {}
    try:
        for line in read_text(path, MAX_RECORD_BYTES).splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            row = json.loads(line)
            if row["kind"] == "train":
                minutes[int(row["step"])] = float(row["seconds"]) / 60
            else:
                losses[int(row["step"])] = float(row["loss"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} is missing or damaged: give the folder of a training as --workdir"
        ) from error
    return minutes, losses


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # Refuse mistakes before the minutes of work.
    require_between("batch_size", flags.batch_size, 1, math.inf)
    require_between("guidance", flags.guidance, -math.inf, math.inf)
    minutes, losses = read_log(flags.workdir / "metrics.jsonl")
    last = api.load(flags.workdir)
    spec = measurement.dataset_of(last.trained, str(flags.workdir))
    low = measurement.training_of(last.trained.statistics, spec).ends[0]
    names = ("guidance", "num", "seed", "solver", "charge_balance")
    arguments = {name: getattr(flags, name) for name in names}
    arguments["target"] = low
    record = records.file_beside(flags.out, ".png")
    try:
        run = file_sha256(flags.workdir / "config.json")
    except OSError as error:
        raise UserError(
            f"--workdir={flags.workdir} has no readable config.json, so it is not a run's folder"
        ) from error
    points = records.read(record, list[Point]) or []
    if any(point.run_sha256 != run for point in points):
        raise UserError(f"{record} belongs to another run: choose another --out, or remove it")
    oracle = measurement.oracle_of(spec)
    held = checkpoint_files.complete_checkpoints(flags.workdir / "checkpoints")
    steps = [each.step for each in held if each.validated and each.step in minutes]
    for number, step in enumerate(steps, 1):
        try:
            trained = checkpoint_model(flags.workdir, step, last.trained)
        except DamagedError as error:
            records.log(f"step {step} is skipped: {error}")
            continue
        measured = [point.measurement for point in points]
        if measurement.find(measured, trained.weights_sha256, arguments) is not None:
            continue
        where = f"checkpoint {number}/{len(steps)}, step {step}"
        model = api.Model(trained, last.name)
        found = measurement.measure(model, spec, arguments, flags.batch_size, oracle, where)
        points.append(Point(run, step, minutes[step], losses.get(step), found))
        records.write(record, points)
    shown = [point for point in points if point.measurement.arguments == arguments]
    if not shown:
        raise UserError(f"--workdir={flags.workdir} holds no checkpoint that can be scored")
    shown.sort(key=lambda point: point.step)
    validation = [(minutes[step], loss) for step, loss in losses.items() if step in minutes]
    title = f"{flags.workdir.resolve().name}: minimum requested, guidance {flags.guidance:g}"
    title += ", balanced charges" if flags.charge_balance else ""
    figure = plots.learning_curve(
        [point.minutes for point in shown],
        [point.measurement for point in shown],
        validation,
        title,
    )
    program.write_output(flags.out, plots.save(figure))
    print(f"picture: {flags.out}\nnumbers in {record}")


if __name__ == "__main__":
    program.run(main)
