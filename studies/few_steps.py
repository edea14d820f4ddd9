"""Quality of the crystals against the network calls per crystal, with and without corrector.

    python -m studies.few_steps --out=few_steps.json --plot=docs/images/few_steps.png

Every point is saved to --out when it is done; the same command measures what is missing, or only
draws the picture. All points use the same seed, and the oracle of `experiments.evaluate`. A step
with guidance evaluates the network twice, and both count.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, Solver
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.evaluation.validity import is_valid
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.report import pictures
from crystal_diffusion_jax.request import FEW_STEPS_CORRECTOR, NOISE
from crystal_diffusion_jax.runtime.files import replace_text
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.resolve import resolve
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.sampled_crystals import CrystalsInMemory
from crystal_diffusion_jax.trained_model import TrainedModel

MODEL = Path(trained_model.__file__).parent / "checkpoints" / "perov5_cds"
DATASET = KNOWN_DATASETS["perov5"]
# Calls per crystal without guidance, the decisive ones first.
CALLS = (100, 2000, 50, 20, 30, 200, 500, 1000)
DECISIVE = (100, 2000)
BATCH_SIZE = 200
SEED = 0
METRICS = ("SR5", "SR10", "valid")
PAPER = "ancestral, corrector"
# Solver, and step size of the corrector as a fraction of sigma^2; the first one is the paper's.
SAMPLERS: dict[str, tuple[Solver, float]] = {
    PAPER: (ANCESTRAL, 0.04),
    "ancestral": (ANCESTRAL, 0.0),
    "second order": (SECOND_ORDER, 0.0),
    "second order, strong corrector": (SECOND_ORDER, FEW_STEPS_CORRECTOR),
}


def sample(
    model: TrainedModel, sampler: str, num_steps: int, guidance: float, num: int
) -> list[Structure | None]:
    """Crystals at the lowest property of the training data; None if the cell has a defect."""
    solver, corrector = SAMPLERS[sampler]
    request = resolve(
        model,
        MODEL.name,
        "min",
        num=num,
        seed=SEED,
        guidance=guidance,
        solver=solver,
        num_steps=num_steps,
        corrector_step_size=corrector * model.config.noise.frac_sigma_min**2,
        averaging_rounds=0,
        start=NOISE,
    )
    memory = CrystalsInMemory(request)
    generate(model, request, memory, BATCH_SIZE, log=lambda line: None)
    crystals = memory.crystals()
    kept = dict(zip(crystals.indices, crystals, strict=True))
    return [kept.get(index) for index in range(num)]


def score(structures: list[Structure | None]) -> dict[str, Any]:
    """SR5, SR10, SR15 of single crystals, fraction of valid ones, number of compositions."""
    present = [i for i, structure in enumerate(structures) if structure is not None]
    crystals = [structure for structure in structures if structure is not None]
    valid = np.zeros(len(structures), bool)
    values = np.full(len(structures), np.nan)
    compositions = [reduced_composition(crystal.atomic_numbers) for crystal in crystals]
    valid[present] = [is_valid(crystal) for crystal in crystals]
    values[present] = predict(crystals, DATASET.name, progress=False).values
    single = success_rates(values, valid, DATASET.success_thresholds)["single"]
    return {
        **{name: rate.value for name, rate in single.items()},
        "valid": float(valid.mean()),
        "distinct_compositions": len(set(compositions)),
        "median": float(np.nanmedian(values)),
    }


def requests(guidances: list[float], num: int, num_decisive: int) -> list[dict[str, Any]]:
    """All points; a step with corrector takes two calls, and there are at most T = 1000 steps."""
    return [
        {
            "sampler": sampler,
            "calls": calls,
            "num_steps": calls // 2 if SAMPLERS[sampler][1] else calls,
            "guidance": guidance,
            "num": num_decisive if calls in DECISIVE else num,
        }
        for guidance in guidances
        for calls in CALLS
        for sampler in SAMPLERS
        if calls <= 1000 or sampler == PAPER
    ]


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """A row of panels per guidance weight, a panel per metric; bands are one standard error."""
    guidances = sorted({point["guidance"] for point in points})
    figure, panels = pictures.panels(
        len(guidances), len(METRICS), 0.6 + 2.6 * len(guidances), sharex=True
    )
    axes = panels.reshape(len(guidances), len(METRICS))
    for row, guidance in zip(axes, guidances, strict=True):
        for axis, metric in zip(row, METRICS, strict=True):
            for sampler in SAMPLERS:
                line = sorted(
                    (point["calls"], point[metric], point["num"])
                    for point in points
                    if (point["sampler"], point["guidance"]) == (sampler, guidance)
                )
                if not line:
                    continue
                calls, share, num = np.array(line).T
                calls *= 2 if guidance else 1
                error = np.sqrt(share * (1 - share) / num)
                axis.plot(calls, share, marker="o", markersize=3, label=sampler)
                axis.fill_between(calls, share - error, share + error, alpha=0.2)
                if sampler == PAPER:
                    axis.axhline(share[-1] - 0.02, color="grey", linestyle=":", linewidth=1)
            axis.set_xscale("log")
            axis.set_title(f"{metric}, guidance {guidance:g}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("calls per crystal")
    pictures.legend_above(figure, axes[0][0], len(SAMPLERS))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Entry point."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, required=True, help="JSON file for the points")
    flags.add_argument("--plot", type=Path, help="PNG file for the picture")
    flags.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0])
    flags.add_argument("--num", type=int, default=400, help="crystals per point")
    flags.add_argument("--num_decisive", type=int, default=1000, help=f"at {DECISIVE} calls")
    arguments = flags.parse_args()
    points = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    model = trained_model.load(MODEL)
    for request in requests(arguments.guidance, arguments.num, arguments.num_decisive):
        if any(request.items() <= point.items() for point in points):
            continue
        begin = time.monotonic()
        structures = sample(
            model, request["sampler"], request["num_steps"], request["guidance"], request["num"]
        )
        seconds = time.monotonic() - begin
        points.append(request | score(structures) | {"seconds": round(seconds, 1)})
        replace_text(arguments.out, json.dumps(points, indent=1) + "\n")
        print(json.dumps(points[-1]), flush=True)
    if arguments.plot:
        plot(points, arguments.plot)


if __name__ == "__main__":
    main()
