"""Pictures of how a model follows its requests: property histogram, conditioning, guidance.

    python -m studies.figures --model=perov5_cds --out=figures
    python -m studies.figures --model=runs/mine --out=figures --num=100 --solver=second_order

Crystals are sampled and scored at the minimum, median and maximum of the property, at --targets
values between its 1st and 99th percentile, and at the minimum with each --guidance. The numbers are
saved to OUT/figures.json as they come; an interrupted command does not measure them again.
"""

import dataclasses
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from crystal_diffusion_jax import api
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import add_request_flags
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.errors import require_between
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.request import NOISE, TEMPLATE
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.sampling.solver_settings import solver_settings
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


def make_requests(
    training: Training, weights: Sequence[float], targets: int, common: Arguments
) -> dict[str, dict[str, Arguments]]:
    """The requests to one model, by picture and label; one may be in two pictures.

    "property_histogram" has the minimum, the median and the maximum of the training set;
    "conditioning" each target, without guidance; "guidance" the minimum with each weight.

    Args:
      training: the property in its training set.
      weights: guidance weights.
      targets: number of requested values, which share `num` crystals.
      common: all other arguments, of which `num` crystals and `seed` are of one request.
    """

    def ask(target: float, guidance: float = 0.0, **others: Any) -> Arguments:
        return {"target": target, "guidance": guidance, **common, **others}

    low, high = training.ends
    median = training.quantiles[len(training.quantiles) // 2]
    # Hardly any crystals are beyond the 1st and 99th percentile.
    first, last = training.quantiles[1], training.quantiles[-2]
    step = (last - first) / (targets - 1)
    return {
        "property_histogram": {
            name: ask(value)
            for name, value in {"minimum": low, "median": median, "maximum": high}.items()
        },
        "guidance": {f"{weight:g}": ask(low, weight) for weight in weights},
        # Different noise for each target, so that their errors are independent.
        "conditioning": {
            str(i): ask(first + step * i, num=common["num"] // targets, seed=common["seed"] + i)
            for i in range(targets)
        },
    }


# Picture -> label of the request -> its crystals.
Results = Mapping[str, Mapping[str, Measurement]]


def summary(results: Results, training: Training) -> dict[str, Any]:
    """The numbers of the pictures, ready for JSON."""
    histogram = results["property_histogram"]
    across = list(results["conditioning"].values())
    return {
        "property_histogram": {name: each.summary for name, each in histogram.items()},
        "guidance": [each.summary for each in results["guidance"].values()],
        "conditioning": {
            **measurement.conditioning_errors(across, training),
            "targets": [each.summary for each in across],
        },
    }


def pictures(
    results: Results, training: Training, spec: DatasetSpec, about: str
) -> dict[str, Figure]:
    """The three pictures by name; `about` is model and sampler, for the titles."""
    across = list(results["conditioning"].values())
    return {
        "property_histogram": plots.property_histogram(
            results["property_histogram"], training, spec, f"{about}: three requests, guidance 0"
        ),
        "conditioning": plots.conditioning(
            across, training, spec, f"{about}: {len(across)} requests, guidance 0"
        ),
        "guidance": plots.guidance(
            list(results["guidance"].values()), f"{about}: minimum requested"
        ),
    }


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # Refuse mistakes before the minutes of work.
    weights = records.numbers("guidance", flags.guidance)
    require_between("targets", flags.targets, 2, MAX_CRYSTALS)
    require_between("num", flags.num, flags.targets, MAX_CRYSTALS)
    require_between("batch_size", flags.batch_size, 1, math.inf)
    require_between("seed", flags.seed, 0, 2**31 - flags.targets)
    model = api.load(flags.model)
    spec = measurement.dataset_of(model.trained, flags.model)
    training = measurement.training_of(model.trained.statistics, spec)
    settings = solver_settings(model.trained.config, False, solver=flags.solver)
    common = {name: getattr(flags, name) for name in ("num", "seed", "charge_balance")}
    # The model's own settings may change while its weights stay.
    names = ("solver", "num_steps", "renoising_steps", "averaging_rounds")
    common |= {name: getattr(settings, name) for name in names}
    common["start"] = f"{TEMPLATE}:{settings.start_time}" if settings.start_time else NOISE
    requests = make_requests(training, weights, flags.targets, common)
    record = flags.out / RECORD
    program.check_output(record)
    oracle = measurement.oracle_of(spec)
    head = {
        "model": flags.model,
        "dataset": spec.name,
        "property": {"name": spec.property_name, "unit": spec.unit},
        "thresholds": dict(zip(NAMES, spec.success_thresholds, strict=True)),
        "training": training,
        "command": f"python -m studies.figures {shlex.join(sys.argv[1:])}",
    }
    with exclusive(flags.out, "--out", records.log):
        stored = records.read(record, Record)
        done = stored.measurements if stored else []

        def measured(arguments: Arguments) -> Measurement:
            where = f"target {arguments['target']:.6g}, guidance {arguments['guidance']:g}"
            found = measurement.find(done, model.trained.weights_sha256, arguments)
            if found is not None:
                records.log(f"{where}: measured already")
                return found
            found = measurement.measure(model, spec, arguments, flags.batch_size, oracle, where)
            done.append(found)
            records.write(record, head | {"measurements": done})
            return found

        results = {
            picture: {label: measured(arguments) for label, arguments in labelled.items()}
            for picture, labelled in requests.items()
        }
        records.write(record, head | summary(results, training) | {"measurements": done})
        about = f"{Path(flags.model).name}, {settings.solver.replace('_', '-')} solver"
        about += ", balanced charges" if flags.charge_balance else ""
        for name, figure in pictures(results, training, spec, about).items():
            path = flags.out / f"{name}.png"
            program.write_output(path, plots.save(figure))
            print(f"picture: {path}")
    print(f"numbers in {record}")


if __name__ == "__main__":
    program.run(main)
