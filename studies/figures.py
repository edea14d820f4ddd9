"""Pictures of how a model follows its requests: property histogram, conditioning, guidance.

    python -m experiments.figures --model=perov5_cds --out=figures
    python -m experiments.figures --model=runs/mine --out=figures --num=100 --solver=second_order

Crystals are sampled and judged at the minimum, median and maximum of the property, at --targets
values between its 1st and 99th percentile, and at the minimum with each --guidance. All numbers go
to OUT/figures.json at once; an interrupted command does not measure them again.
"""

import dataclasses
import functools
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from crystal_diffusion_jax import api
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import add_request_flags
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.oracle.predict import predict
from crystal_diffusion_jax.report.pictures import require_matplotlib
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.sampling.resolve import resolve
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS
from studies import plots
from studies.figure_requests import (
    FigureRequests,
    Training,
    answers,
    figure_requests,
    summary,
    training_of,
)
from studies.measurement import (
    Measurement,
    Request,
    find,
    judged_dataset,
    measure,
    read_measurements,
)

RECORD = "figures.json"


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.figures", description=__doc__)
    flags.add_argument(
        "--model", required=True, help="model folder, workdir, or name of a shipped model"
    )
    flags.add_argument("--out", type=Path, required=True, help="folder for numbers and pictures")
    flags.add_argument(
        "--num", type=int, default=200, help="crystals of each set (default: %(default)s)"
    )
    flags.add_argument(
        "--targets",
        type=int,
        default=20,
        help="requested values, which share NUM crystals (default: %(default)s)",
    )
    flags.add_argument("--guidance", default="0,0.5,1,2", help="weights (default: %(default)s)")
    add_request_flags(flags, "solver", "seed", "charge_balance")
    return flags


def read_weights(text: str) -> list[float]:
    """The weights of --guidance, ascending, each once.

    Raises:
      UserError: one is no finite number.
    """
    try:
        weights = sorted({float(weight) for weight in text.split(",")})
    except ValueError as error:
        raise UserError(f"--guidance={text} must be numbers with commas between") from error
    for weight in weights:
        require_between("guidance", weight, -math.inf, math.inf)
    return weights


def measure_missing(
    requests: FigureRequests,
    done: list[Measurement],
    measure_one: Callable[[Request, Callable[[str], None]], Measurement],
    keep: Callable[[], None],
) -> None:
    """Adds what is missing to `done`, calls `keep` after each, and says how long it will take."""
    missing = [request for request in requests.all if find(done, request) is None]
    if len(missing) < len(requests.all):
        _say(f"{len(requests.all) - len(missing)} of {len(requests.all)} sets are there already")
    begin, todo = time.monotonic(), sum(request.num for request in missing)
    left = todo
    for number, request in enumerate(missing, 1):
        asked = (
            f"set {number}/{len(missing)} (target {request.target:.6g}, guidance "
            f"{request.guidance:g})"
        )
        done.append(measure_one(request, lambda line, asked=asked: _say(f"{asked}: {line}")))  # type: ignore[misc]
        keep()
        left -= request.num
        seconds = (time.monotonic() - begin) / (todo - left) * left
        _say(f"{asked}: judged; all sets: {duration(seconds)} left")


def draw(
    requests: FigureRequests,
    done: Sequence[Measurement],
    training: Training,
    spec: DatasetSpec,
    about: str,
) -> dict[str, bytes]:
    """The three pictures as PNG, by file name.

    Args:
      requests: all of them measured.
      done: the measurements.
      training: the property in the training set.
      spec: the data set.
      about: model and sampler, for the titles.
    """
    found = {request: each for request in requests.all if (each := find(done, request))}
    histogram = {name: found[request] for name, request in requests.histogram.items()}
    guided = [found[request] for request in requests.guided]
    across = [found[request] for request in requests.across]
    scores = summary(requests, done, training)["conditioning"]
    figures = {
        "property_histogram.png": plots.property_histogram(
            histogram, training, spec, f"{about}: three requests, guidance 0"
        ),
        "conditioning.png": plots.conditioning(
            answers(across),
            across,
            training,
            spec,
            f"{about}: {len(across)} requests, guidance 0",
            plots.error_text(scores, spec.unit),
        ),
        "guidance.png": plots.guidance(guided, f"{about}: asked for the minimum"),
    }
    return {name: plots.save(figure) for name, figure in figures.items()}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # What may be refused comes before the minutes of work.
    require_matplotlib("experiments.figures")
    weights = read_weights(flags.guidance)
    require_between("targets", flags.targets, 2, MAX_CRYSTALS)
    require_between("num", flags.num, flags.targets, MAX_CRYSTALS)
    require_between("batch_size", flags.batch_size, 1, math.inf)
    require_between("seed", flags.seed, 0, 2**31 - flags.targets)
    model = api.load(flags.model)
    spec = judged_dataset(model.trained, flags.model)
    training = training_of(model.trained.statistics, spec)
    requests = figure_requests(
        training,
        model.trained.weights_sha256,
        num=flags.num,
        targets=flags.targets,
        weights=weights,
        solver=flags.solver,
        seed=flags.seed,
        charge_balance=flags.charge_balance,
    )
    lowest = f"{spec.property_name}={float(training.ends[0])!r}"
    asked = {name: getattr(flags, name) for name in ("num", "seed", "solver", "charge_balance")}
    resolve(model.trained, flags.model, lowest, guidance=max(weights, key=abs), **asked)
    record = flags.out / RECORD
    program.check_output(record)
    judge = functools.partial(predict, oracle=spec.name, progress=False)
    judge([])  # fetches its weights
    head = {
        "model": flags.model,
        "dataset": spec.name,
        "property": {"name": spec.property_name, "unit": spec.unit},
        "thresholds": dict(zip(NAMES, spec.success_thresholds, strict=True)),
        "training": dataclasses.asdict(training),
        "command": f"python -m experiments.figures {shlex.join(sys.argv[1:])}",
    }
    with exclusive(flags.out, "--out", _say):
        done = read_measurements(record)

        def keep() -> None:
            content = head | summary(requests, done, training) | {"measurements": done}
            program.write_output(record, json.dumps(content, indent=1, allow_nan=False) + "\n")

        measure_missing(
            requests,
            done,
            lambda request, say: measure(model, spec, request, flags.batch_size, judge, say),
            keep,
        )
        keep()
        about = f"{Path(flags.model).name}, {flags.solver.replace('_', '-')} solver"
        about += ", balanced charges" if flags.charge_balance else ""
        for name, png in draw(requests, done, training, spec, about).items():
            program.write_output(flags.out / name, png)
            print(f"picture: {flags.out / name}")
    print(f"numbers in {record}")


if __name__ == "__main__":
    program.run(main)
