"""Predicts the property of any crystals with one of CDVAE's published networks.

    python -m experiments.predict --oracle=perov5 --structures=samples/min --out=predictions.csv
    python -m experiments.predict --oracle=mp20 --structures=crystal.cif --out=predictions.csv

The csv has one row per crystal, in order: name, prediction, failure. A crystal that the network was
never trained on has a reason instead of a prediction. If --structures is a folder of `sample`, both
are also added to its samples.db and samples.csv.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS

if TYPE_CHECKING:
    from crystal_diffusion_jax.oracles.predict import Predictions
    from crystal_diffusion_jax.structures.reading import Inputs


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.predict", description=__doc__)
    flags.add_argument("--oracle", required=True, choices=list(KNOWN_DATASETS), help="the network")
    program.add_structures(flags)
    flags.add_argument("--out", type=Path, required=True, help="csv file for the predictions")
    return flags


def to_csv(inputs: "Inputs", predictions: "Predictions", unit: str) -> str:
    """The csv's text; a crystal without a prediction has an empty cell and a reason."""
    from crystal_diffusion_jax.structures.export import csv_line

    lines = [csv_line(["name", f"prediction ({unit})", "failure"])]
    for index, (name, value) in enumerate(zip(inputs.names, predictions.values, strict=True)):
        number = "" if np.isnan(value) else f"{value:.6f}"
        lines.append(csv_line([name, number, predictions.failures.get(index, "")]))
    return "".join(lines)


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    program.check_output(flags.out)
    from crystal_diffusion_jax.evaluation.checks import split_reason
    from crystal_diffusion_jax.evaluation.predictions import predict_inputs, prediction_columns
    from crystal_diffusion_jax.structures.reading import read_structures

    spec = KNOWN_DATASETS[flags.oracle]
    inputs = read_structures(flags.structures)
    predictions = predict_inputs(inputs, flags.oracle)
    program.write_output(flags.out, to_csv(inputs, predictions, spec.unit))
    columns = prediction_columns(spec, predictions.values, predictions.failures)
    program.add_to_samples(flags.structures, columns)
    known = predictions.values[~np.isnan(predictions.values)]
    print(f"{len(known)} of {len(predictions.values)} crystals predicted: {flags.out}")
    if len(known):
        summary = " / ".join(f"{value:.4f}" for value in (known.min(), known.mean(), known.max()))
        print(f"min / mean / max: {summary} {spec.unit}")
    reasons = Counter(split_reason(text)[0] for text in predictions.failures.values())
    for reason, count in reasons.most_common():
        print(f"failed, {count}: {reason}")
