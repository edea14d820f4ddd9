"""Pictures of how a model follows its requests: property histogram, conditioning, guidance.

    python -m studies.figures --model=perov5_cds --out=figures
    python -m studies.figures --model=runs/mine --out=figures --num=100 --solver=second_order

Crystals are sampled and scored at the minimum, median and maximum of the property, at --targets
values between its 1st and 99th percentile, and at the minimum with each --guidance. The numbers are
saved to OUT/figures.json as they come; an interrupted command does not measure them again.
"""

import dataclasses
import functools
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crystal_diffusion_jax import api
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import add_request_flags
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.errors import require_between
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.oracle.predict import predict
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS
from studies import measurement, plots, records
from studies.measurement import Arguments, Measurement, Training

RECORD = "figures.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """The part of figures.json that is read again."""

    measurements: list[Measurement]


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.figures", description=__doc__)
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


@dataclasses.dataclass(frozen=True)
class Requests:
    """The sets of crystals for the three pictures; some are in two of them.

    Attributes:
      histogram: "minimum", "median" (or "mean") and "maximum" of the training set -> arguments.
      guided: at the minimum, one for each guidance weight.
      across: one for each target, without guidance.
    """

    histogram: Mapping[str, Arguments]
    guided: Sequence[Arguments]
    across: Sequence[Arguments]

    @property
    def all(self) -> list[Arguments]:
        """Each one once."""
        found: list[Arguments] = []
        for each in [*self.histogram.values(), *self.guided, *self.across]:
            if each not in found:
                found.append(each)
        return found


def make_requests(
    training: Training, weights: Sequence[float], targets: int, common: Arguments
) -> Requests:
    """The requests to one model.

    Args:
      training: the property in its training set.
      weights: guidance weights.
      targets: number of requested values, which share `num` crystals.
      common: num, seed, solver and charge_balance.
    """

    def ask(target: float, guidance: float = 0.0, **others: Any) -> Arguments:
        return {"target": target, "guidance": guidance, **common, **others}

    low, high = training.ends
    first, last = low, high
    middle = {"mean": training.mean}
    if training.quantiles is not None:
        middle = {"median": training.quantiles[len(training.quantiles) // 2]}
        # Hardly any crystals are beyond the 1st and 99th percentile.
        first, last = training.quantiles[1], training.quantiles[-2]
    step = (last - first) / (targets - 1)
    return Requests(
        histogram={
            name: ask(value) for name, value in {"minimum": low, **middle, "maximum": high}.items()
        },
        guided=[ask(low, weight) for weight in weights],
        # Different noise for each target, so that their errors are independent.
        across=[
            ask(first + step * i, num=common["num"] // targets, seed=common["seed"] + i)
            for i in range(targets)
        ],
    )


Find = Callable[[Arguments], Measurement | None]


def summary(requests: Requests, find: Find, training: Training) -> dict[str, Any]:
    """The numbers of the pictures, as far as they are measured.

    Args:
      requests: all requests.
      find: the measurement of a request, None if it is missing.
      training: the property in the training set.

    Returns:
      property_histogram: name -> summary; guidance: summary for each weight; conditioning, once
      all targets are measured: errors over all crystals, and the summary for each target.
    """
    across = [each for request in requests.across if (each := find(request))]
    content: dict[str, Any] = {
        "property_histogram": {
            name: each.summary
            for name, request in requests.histogram.items()
            if (each := find(request))
        },
        "guidance": [each.summary for request in requests.guided if (each := find(request))],
    }
    if len(across) == len(requests.across):
        content["conditioning"] = measurement.conditioning_errors(across, training)
        content["conditioning"]["targets"] = [each.summary for each in across]
    return content


def draw(
    requests: Requests, find: Find, training: Training, spec: DatasetSpec, about: str
) -> dict[str, bytes]:
    """The three pictures as PNG, by file name.

    Args:
      requests: all of them measured.
      find: the measurement of a request.
      training: the property in the training set.
      spec: the data set.
      about: model and sampler, for the titles.
    """
    sets = {name: found for name, request in requests.histogram.items() if (found := find(request))}
    guided = [found for request in requests.guided if (found := find(request))]
    across = [found for request in requests.across if (found := find(request))]
    scores = summary(requests, find, training)["conditioning"]
    title = f"{about}: {len(across)} requests, guidance 0"
    figures = {
        "property_histogram.png": plots.property_histogram(
            sets, training, spec, f"{about}: three requests, guidance 0"
        ),
        "conditioning.png": plots.conditioning(across, training, spec, title, scores),
        "guidance.png": plots.guidance(guided, f"{about}: minimum requested"),
    }
    return {name: plots.save(figure) for name, figure in figures.items()}


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # Refuse mistakes before the minutes of work.
    weights = records.numbers("guidance", flags.guidance, float)
    require_between("targets", flags.targets, 2, MAX_CRYSTALS)
    require_between("num", flags.num, flags.targets, MAX_CRYSTALS)
    require_between("batch_size", flags.batch_size, 1, math.inf)
    require_between("seed", flags.seed, 0, 2**31 - flags.targets)
    model = api.load(flags.model)
    spec = measurement.dataset_of(model.trained, flags.model)
    training = measurement.training_of(model.trained.statistics, spec)
    names = ("num", "seed", "solver", "charge_balance")
    common = {name: getattr(flags, name) for name in names}
    requests = make_requests(training, weights, flags.targets, common)
    record = flags.out / RECORD
    program.check_output(record)
    oracle = functools.partial(predict, oracle=spec.name, progress=False)
    oracle([])  # fetches its weights
    head = {
        "model": flags.model,
        "dataset": spec.name,
        "property": {"name": spec.property_name, "unit": spec.unit},
        "thresholds": dict(zip(NAMES, spec.success_thresholds, strict=True)),
        "training": training,
        "command": f"python -m studies.figures {shlex.join(sys.argv[1:])}",
    }
    with exclusive(flags.out, "--out", _log):
        stored = records.read(record, Record)
        done = stored.measurements if stored else []

        def find(arguments: Arguments) -> Measurement | None:
            return measurement.find(done, model.trained.weights_sha256, arguments)

        missing = [arguments for arguments in requests.all if find(arguments) is None]
        if len(missing) < len(requests.all):
            _log(f"{len(requests.all) - len(missing)} of {len(requests.all)} sets are measured")
        begin, todo = time.monotonic(), sum(arguments["num"] for arguments in missing)
        left = todo
        for number, arguments in enumerate(missing, 1):
            where = (
                f"set {number}/{len(missing)} (target {arguments['target']:.6g}, guidance "
                f"{arguments['guidance']:g})"
            )

            def log(line: str, where: str = where) -> None:
                _log(f"{where}: {line}")

            done.append(measurement.measure(model, spec, arguments, flags.batch_size, oracle, log))
            content = head | summary(requests, find, training) | {"measurements": done}
            records.write(record, content)
            left -= arguments["num"]
            seconds = (time.monotonic() - begin) / (todo - left) * left
            log(f"scored; all sets: {duration(seconds)} left")
        about = f"{Path(flags.model).name}, {flags.solver.replace('_', '-')} solver"
        about += ", balanced charges" if flags.charge_balance else ""
        for name, png in draw(requests, find, training, spec, about).items():
            program.write_output(flags.out / name, png)
            print(f"picture: {flags.out / name}")
    print(f"numbers in {record}")


if __name__ == "__main__":
    program.run(main)
