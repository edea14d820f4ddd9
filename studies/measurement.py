"""One request to a model, sampled and judged: the scores that the pictures of a model show.

Measurements are kept in a JSON file and found again by their request, so that an interrupted
command does not repeat them.
"""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.api import Model
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.checks import check
from crystal_diffusion_jax.evaluation.report import Predict
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.request import Solver
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.reading import Inputs
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals
from crystal_diffusion_jax.trained_model import TrainedModel

# Ready for json: the request, "values" and counts; see `score`.
Measurement = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """What the crystals of a measurement follow from.

    Attributes:
      weights_sha256: of the model.
      target: requested value of the data set's own property, in its unit.
      guidance: weight.
      num: crystals.
      seed: of all randomness.
      solver: of the predictor; the number of steps and the corrector are its defaults.
      charge_balance: of the species; records from before there was a choice lack it.
    """

    weights_sha256: str
    target: float
    guidance: float
    num: int
    seed: int
    solver: Solver
    charge_balance: bool = False


def judged_dataset(trained: TrainedModel, name: str) -> DatasetSpec:
    """The data set whose judge speaks about a model's crystals.

    Raises:
      UserError: there is no judge for the model's data set, or the model takes no request for the
        property that it predicts.
    """
    dataset = trained.config.data.name
    spec = KNOWN_DATASETS.get(dataset)
    if spec is None or spec.property_name not in trained.statistics.property_names:
        raise UserError(
            f"--model={name} is of the data set {dataset!r}, which has no judge; those of "
            f"{', '.join(KNOWN_DATASETS)} have"
        )
    if trained.config.model.conditioning == "none":
        raise UserError(
            f"--model={name} was trained without a condition, so it takes no request; use another"
        )
    return spec


def measure(
    model: Model,
    spec: DatasetSpec,
    request: Request,
    batch_size: int,
    predict: Predict,
    say: Callable[[str], None],
) -> Measurement:
    """Samples and judges the crystals of one request.

    Args:
      model: whose weights the request names.
      spec: its data set.
      request: what to ask for.
      batch_size: most crystals at once.
      predict: the judge.
      say: takes lines of progress.

    Raises:
      UserError: a request that the model cannot meet.
    """
    crystals = model.sample(
        request.num,
        {spec.property_name: request.target},
        guidance=request.guidance,
        seed=request.seed,
        solver=request.solver,
        charge_balance=request.charge_balance,
        batch_size=batch_size,
        log=say,
    )
    low = model.properties[spec.property_name][0]
    return {
        "request": dataclasses.asdict(request),
        "num_steps": crystals.request.num_steps,
        "corrector_step_size": crystals.request.corrector_step_size,
        "renoising_steps": crystals.request.renoising_steps,
        **score(crystals, spec, predict, low),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"crystal_diffusion_jax": __version__, "jax": jax.__version__},
    }


def score(
    crystals: SampledCrystals, spec: DatasetSpec, predict: Predict, training_minimum: float
) -> Measurement:
    """Counts of one set of crystals; those that were rejected count as failures.

    Args:
      crystals: n were asked for.
      spec: the data set, for its thresholds.
      predict: the judge.
      training_minimum: of the property.

    Returns:
      values: [n] predictions, None where there is none; rejected: reason -> crystals;
      unpredictable: crystals that the judge has no value for; valid: in structure and composition;
      compositions: distinct ones; below_training_range: predicted below all training crystals;
      success: "single" and "single_valid" -> SR5, SR10, SR15, see `success_rates`.
    """
    num = crystals.request.num
    structures = dict(zip(crystals.indices, crystals, strict=True))
    checked = check(
        Inputs(
            structures=[structures.get(index) for index in range(num)],
            names=[str(index) for index in range(num)],
            failures=dict(crystals.rejected),
        )
    )
    values = checked.spread(predict(checked.crystals).values)
    rates = success_rates(values, checked.valid, spec.success_thresholds)
    found = np.isfinite(values)
    return {
        "values": [value if np.isfinite(value) else None for value in values.tolist()],
        "rejected": dict(Counter(crystals.rejected.values())),
        "unpredictable": len(crystals) - int(np.sum(found)),
        "valid": int(np.sum(checked.valid)),
        "compositions": len({reduced_composition(each.atomic_numbers) for each in crystals}),
        "below_training_range": int(np.sum(values[found] < training_minimum)),
        "success": {
            reading: {name: rate.k for name, rate in rates[reading].items()}
            for reading in ("single", "single_valid")
        },
    }


def values_of(measurement: Measurement) -> np.ndarray:
    """[n] predictions, NaN where there is none."""
    return np.array(measurement["values"], dtype=np.float64)


def find(measurements: Sequence[Measurement], request: Request) -> Measurement | None:
    """What was measured for a request, None if nothing was."""
    return next((each for each in measurements if Request(**each["request"]) == request), None)


def read_measurements(path: Path) -> list[Measurement]:
    """The list "measurements" of a file; empty where there is no file.

    Raises:
      UserError: the file holds something else.
    """
    if not path.exists():
        return []
    try:
        measurements = list(read_json(path, MAX_RECORD_BYTES)["measurements"])
        for each in measurements:
            Request(**each["request"])
            if (
                len(values_of(each)) != each["request"]["num"]
                or "SR5" not in (each["success"]["single_valid"])
            ):
                raise ValueError("a measurement is incomplete")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by this program: remove it, or choose another "
            "--out"
        ) from error
    return measurements
