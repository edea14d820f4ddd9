"""Success rates against minutes of training, from the checkpoints that a run still holds.

    python -m experiments.curve --workdir=runs/perov5_cds --out=curve.png
    python -m experiments.curve --workdir=runs/mine --out=curve.png --guidance=0 --num=1000

Crystals are asked for the minimum of the property. All numbers go to the JSON file beside the
picture, which keeps those of checkpoints that the run has removed since: called now and then
beside a training, the command collects the whole curve.
"""

import dataclasses
import functools
import json
import math
import sys
from pathlib import Path

from crystal_diffusion_jax import api
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import add_request_flags
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.oracle.predict import predict
from crystal_diffusion_jax.report.pictures import require_matplotlib
from crystal_diffusion_jax.runtime.files import file_sha256
from crystal_diffusion_jax.sampling.resolve import resolve
from crystal_diffusion_jax.training.seal import DamagedError
from studies import plots
from studies.figure_requests import training_of
from studies.measurement import (
    Measurement,
    Request,
    find,
    judged_dataset,
    measure,
    read_measurements,
)
from studies.training_history import checkpoint_model, checkpoint_steps, read_log


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.curve", description=__doc__)
    flags.add_argument("--workdir", type=Path, required=True, help="of the training")
    flags.add_argument("--out", type=Path, required=True, help="PNG file")
    flags.add_argument("--num", type=int, default=200, help="crystals (default: %(default)s)")
    flags.add_argument("--guidance", type=float, default=1.0, help="weight (default: %(default)s)")
    add_request_flags(flags, "solver", "seed", "charge_balance")
    return flags


def read_points(record: Path, run: str) -> list[Measurement]:
    """What was measured before of the run, each with its "step" and "minutes".

    Raises:
      UserError: the file belongs to another run, or is none of this program.
    """
    points = read_measurements(record)
    if any(point.get("run_sha256") != run or "minutes" not in point for point in points):
        raise UserError(f"{record} belongs to another run: choose another --out, or remove it")
    return points


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # What may be refused comes before the minutes of work.
    require_matplotlib("experiments.curve")
    require_between("batch_size", flags.batch_size, 1, math.inf)
    minutes, losses = read_log(flags.workdir / "metrics.jsonl")
    last = api.load(flags.workdir)
    spec = judged_dataset(last.trained, str(flags.workdir))
    low = training_of(last.trained.statistics, spec).ends[0]
    names = ("guidance", "num", "seed", "solver", "charge_balance")
    asked = {name: getattr(flags, name) for name in names}
    resolve(last.trained, last.name, f"{spec.property_name}={float(low)!r}", **asked)
    record = flags.out.with_suffix(".json")
    if record == flags.out:
        raise UserError(f"--out={flags.out} is the name of the numbers' file: end it in .png")
    for path in (flags.out, record):
        program.check_output(path)
    try:
        run = file_sha256(flags.workdir / "config.json")
    except OSError as error:
        raise UserError(
            f"--workdir={flags.workdir} has no readable config.json, so it is no run's folder"
        ) from error
    points = read_points(record, run)
    judge = functools.partial(predict, oracle=spec.name, progress=False)
    judge([])  # fetches its weights
    steps = [step for step in checkpoint_steps(flags.workdir) if step in minutes]
    for number, step in enumerate(steps, 1):
        try:
            trained = checkpoint_model(flags.workdir, step, last.trained)
        except DamagedError as error:
            _say(f"step {step} is left out: {error}")
            continue
        request = Request(trained.weights_sha256, low, **asked)
        if find(points, request) is not None:
            continue

        def say(line: str, where: str = f"checkpoint {number}/{len(steps)}, step {step}") -> None:
            _say(f"{where}: {line}")

        model = api.Model(trained, last.name)
        point = measure(model, spec, request, flags.batch_size, judge, say)
        points.append(
            {"run_sha256": run, "step": step, "minutes": minutes[step]}
            | {"validation_loss": losses.get(step)}
            | point
        )
        text = json.dumps({"measurements": points}, indent=1, allow_nan=False)
        program.write_output(record, f"{text}\n")
    asked["target"] = low
    shown = [
        point
        for point in points
        if asked.items() <= dataclasses.asdict(Request(**point["request"])).items()
    ]
    if not shown:
        raise UserError(f"--workdir={flags.workdir} holds no checkpoint that can be judged")
    shown.sort(key=lambda point: point["step"])
    validation = [(minutes[step], loss) for step, loss in losses.items() if step in minutes]
    title = f"{flags.workdir.resolve().name}: asked for the minimum, guidance {flags.guidance:g}"
    title += ", balanced charges" if flags.charge_balance else ""
    figure = plots.learning_curve([p["minutes"] for p in shown], shown, validation, title)
    program.write_output(flags.out, plots.save(figure))
    print(f"picture: {flags.out}\nnumbers in {record}")


if __name__ == "__main__":
    program.run(main)
