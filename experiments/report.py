"""Shows generated crystals as one HTML file: scores, pictures, every structure in 3-D, CIF files.

    python -m experiments.report --structures=samples/min --out=report.html
    python -m experiments.report --structures=FOLDER_OF_CIFS --dataset=mp20 --out=report.html

The file needs no network. Where there is no judge for the property, or its weights cannot be
fetched, the page says so and shows the rest.
"""

import functools
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crystal_diffusion_jax import __version__, model_folder
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import DataConfig, load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.inputs import Inputs, read_structures
from crystal_diffusion_jax.evaluation.page.document import Page, to_html
from crystal_diffusion_jax.evaluation.page.entries import element_counts, entries
from crystal_diffusion_jax.evaluation.page.figures import (
    composition_bars,
    histogram,
    periodic_table,
    require_plotly,
)
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.judge.predict import predict
from experiments import cli


def parser() -> cli.Parser:
    """The flags."""
    flags = cli.Parser(prog="python -m experiments.report", description=__doc__)
    flags.add_argument("--structures", type=Path, required=True, help="the generated crystals")
    flags.add_argument("--out", type=Path, required=True, help="HTML file")
    flags.add_argument(
        "--dataset", choices=list(KNOWN_DATASETS), help="judge by this one (default: the model's)"
    )
    flags.add_argument("--root", default="", help="folder with train, val and test csv or csv.gz")
    flags.add_argument(
        "--symprec", type=float, default=0.1, help="symmetry, Angstrom (default: %(default)s)"
    )
    return flags


def read_settings(structures: Path) -> dict[str, Any]:
    """What samples.json says of the request; empty for crystals from elsewhere."""
    path = structures / "samples.json" if structures.is_dir() else structures
    if path.suffix != ".json":
        return {}
    try:
        settings: dict[str, Any] = json.loads(path.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings


def find_dataset(flag: str | None, settings: dict[str, Any]) -> str | None:
    """The data set whose judge to ask: as the flag says, else that of the model."""
    if flag is None and "model" in settings:
        try:
            flag = model_folder.load(settings["model"]).config.data.name
        except UserError:
            return None
    return flag if flag in KNOWN_DATASETS else None


def sample_command(settings: dict[str, Any]) -> str:
    """The command that made the crystals, from their record."""
    target = ",".join(f"{name}={value:.10g}" for name, value in settings["conditions"].items())
    parts = [f"--model={settings['model']}", f"--target={target or 'none'}"]
    parts += [f"--{name}={settings[name]}" for name in ("num", "seed", "guidance", "num_steps")]
    parts += [f"--gamma={settings['gamma']}", f"--solver={settings.get('solver', 'ancestral')}"]
    if settings.get("elements"):
        parts.append(f"--elements={','.join(settings['elements'])}")
    if settings.get("num_atoms"):
        parts.append(f"--num_atoms={settings['num_atoms']}")
    return "python -m experiments.sample " + " ".join(parts)


def judge(
    inputs: Inputs, dataset: str | None, root: str
) -> tuple[Report | None, CrystalDataset | None, list[str]]:
    """Scores, training set, and a sentence for each thing that is missing."""
    if dataset is None:
        return None, None, ["No published network judges this property: no scores."]
    spec = KNOWN_DATASETS[dataset]
    try:
        splits = load(DataConfig(name=spec.name, root=root))
        if "test" not in splits:
            raise UserError(f"{spec.name} has no test.csv beside train and val")
    except UserError as error:
        return None, None, [f"No scores and no comparison with the training set: {error}"]
    ask = functools.partial(predict, oracle=spec.name)
    try:
        return evaluate(inputs, spec, splits["train"], splits["test"], ask), splits["train"], []
    except UserError as error:
        return None, splits["train"], [f"No scores: {error}"]


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    require_plotly()
    cli.check_output(flags.out)
    inputs = read_structures(flags.structures)
    settings = read_settings(flags.structures)
    dataset = find_dataset(flags.dataset, settings)
    report, train, notes = judge(inputs, dataset, flags.root)
    if inputs.failures:
        notes.append(f"{len(inputs.failures)} crystals could not be read and are not shown.")
    conditions = settings.get("conditions", {})
    title, figure = "", None
    if dataset is not None:
        spec = KNOWN_DATASETS[dataset]
        title = f"{spec.property_name}, {spec.unit}"
        if report is not None:
            thresholds = dict(zip(("SR5", "SR10", "SR15"), spec.success_thresholds, strict=True))
            target = conditions.get(spec.property_name)
            figure = histogram(report.values, report.train_values, thresholds, target, title)
    judged = () if report is None else (report.values, report.valid, report.novel)
    shown = entries(inputs, train, flags.symprec, *judged)
    asked = ", ".join(f"{name} = {value:.4g}" for name, value in conditions.items())
    made = sample_command(settings) if settings else f"crystals from {flags.structures}"
    page = Page(
        title=f"{len(shown)} generated crystals",
        subtitle=f"Asked for: {asked or 'nothing in particular'}." if settings else "",
        notes=notes,
        report=report,
        entries=shown,
        histogram=figure,
        bars=composition_bars([entry.formula for entry in shown]),
        elements=periodic_table(element_counts(inputs.structures), len(shown)),
        property_title=title,
        command=f"{made}\npython -m experiments.report {' '.join(sys.argv[1:])}",
        versions=f"crystal_diffusion_jax {__version__}, jax {jax.__version__}, numpy "
        f"{np.__version__}, Python {platform.python_version()}, {platform.machine()}",
    )
    cli.write_output(flags.out, to_html(page))
    for note in notes:
        print(f"note: {note}")
    print(f"report in {flags.out.resolve()}")


if __name__ == "__main__":
    cli.run(main)
