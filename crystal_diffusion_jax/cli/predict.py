"""Predicts the property of any crystals with one of CDVAE's published networks.

    python -m experiments.predict --oracle=perov5 --structures=samples/min --out=predictions.csv
    python -m experiments.predict --oracle=mp20 --structures=crystal.cif --out=predictions.csv

The csv has one row for each crystal, in order: name, prediction, failure.
"""

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.evaluation.checks import split_reason
from crystal_diffusion_jax.oracle.predict import ORACLES, Predictions, predict
from crystal_diffusion_jax.oracle.weights import ORACLES as CHECKPOINTS
from crystal_diffusion_jax.structures.reading import Inputs, read_structures


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.predict", description=__doc__)
    flags.add_argument("--oracle", required=True, choices=ORACLES, help="which network")
    flags.add_argument(
        "--structures",
        type=Path,
        required=True,
        help="folder of CIFs or of experiments.sample, .cif, .extxyz, or csv with a column cif",
    )
    flags.add_argument("--out", type=Path, required=True, help="csv to write")
    return flags


def predict_inputs(inputs: Inputs, oracle: str) -> Predictions:
    """Predictions for all S places, those without a structure included."""
    places = [i for i, structure in enumerate(inputs.structures) if structure is not None]
    readable = [structure for structure in inputs.structures if structure is not None]
    of_readable = predict(readable, oracle)
    values = np.full(len(inputs.structures), np.nan)
    values[places] = of_readable.values
    failures = {places[i]: reason for i, reason in of_readable.failures.items()}
    return Predictions(values, dict(sorted((inputs.failures | failures).items())))


def to_csv(inputs: Inputs, predictions: Predictions, unit: str) -> str:
    """The csv's text; a crystal without a prediction has an empty cell and a reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", f"prediction ({unit})", "failure"])
    for index, (name, value) in enumerate(zip(inputs.names, predictions.values, strict=True)):
        number = "" if np.isnan(value) else f"{value:.6f}"
        writer.writerow([name, number, predictions.failures.get(index, "")])
    return text.getvalue()


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    program.check_output(flags.out)
    unit = CHECKPOINTS[flags.oracle].unit
    inputs = read_structures(flags.structures)
    predictions = predict_inputs(inputs, flags.oracle)
    program.write_output(flags.out, to_csv(inputs, predictions, unit))
    known = predictions.values[~np.isnan(predictions.values)]
    print(f"{len(known)} of {len(predictions.values)} crystals predicted: {flags.out}")
    if len(known):
        summary = " / ".join(f"{value:.4f}" for value in (known.min(), known.mean(), known.max()))
        print(f"min / mean / max: {summary} {unit}")
    reasons = Counter(split_reason(text)[0] for text in predictions.failures.values())
    for reason, count in reasons.most_common():
        print(f"failed, {count}: {reason}")
