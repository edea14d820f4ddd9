"""Shows generated crystals as one HTML file: scores, pictures, every structure in 3-D, CIF files.

    python -m experiments.report --structures=samples/min --out=report.html --png=pictures
    python -m experiments.report --structures=FOLDER_OF_CIFS --dataset=mp20 --out=report.html

The file needs no network. Without the data set, without a judge for the property, or where the
judge's weights cannot be fetched, the page says what is missing and shows the rest.
"""

import functools
import math
import platform
import shlex
import sys
from pathlib import Path

import jax
import numpy as np

from crystal_diffusion_jax import __version__, trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError, require_between, shown
from crystal_diffusion_jax.evaluation.partial import PartialReport, evaluate_partly
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.oracle.predict import predict
from crystal_diffusion_jax.report import cards
from crystal_diffusion_jax.report.distribution import distribution
from crystal_diffusion_jax.report.document import Page, to_html
from crystal_diffusion_jax.report.entries import element_counts, entries
from crystal_diffusion_jax.report.figures import (
    composition_bars,
    histogram,
    periodic_table,
    require_plotly,
)
from crystal_diffusion_jax.report.pictures import prepare_folder, write_pictures
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures import store
from crystal_diffusion_jax.structures.reading import Inputs, read_structures


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.report", description=__doc__)
    flags.add_argument("--structures", type=Path, required=True, help="the generated crystals")
    flags.add_argument("--out", type=Path, required=True, help="HTML file")
    flags.add_argument("--png", type=Path, help="folder for the pictures as PNG files too")
    flags.add_argument(
        "--dataset", choices=list(KNOWN_DATASETS), help="judge by this one (default: the model's)"
    )
    flags.add_argument("--root", default="", help="folder with train, val and test csv or csv.gz")
    flags.add_argument(
        "--symprec", type=float, default=0.1, help="symmetry, Angstrom (default: %(default)s)"
    )
    return flags


def read_request(structures: Path, notes: list[str]) -> tuple[Request | None, str]:
    """The request in samples.db and, in words, the versions that answered it.

    Args:
      structures: the crystals, read already; None and "" for those from elsewhere.
      notes: takes a sentence if the request cannot be read.
    """
    try:
        stored = store.read_request(structures)
    except UserError as error:
        notes.append(str(error))
        return None, ""
    if stored is None:
        return None, ""
    versions = ", ".join(map(" ".join, stored.versions.items()))
    digest = shown(stored.request.model_sha256[:12])
    return stored.request, f"Sampled with {shown(versions, 300)}; weights {digest} (sha256). "


def find_model(settings: Request | None) -> trained_model.TrainedModel | None:
    """The model that made the crystals, if it is still there."""
    if settings is None:
        return None
    try:
        return trained_model.load(settings.model)
    except UserError:
        return None


def asked_for(settings: Request, spec: DatasetSpec | None) -> str:
    """The request in a sentence, with units where they are known."""
    parts = []
    for name, (low, high) in settings.target.items():
        unit = f" {spec.unit}" if spec is not None and name == spec.property_name else ""
        values = f"{low:.6g} to {high:.6g}" if low < high else f"{low:.6g}"
        parts.append(f"{name} = {values}{unit}")
    how = [f"guidance {settings.guidance:g}"] if settings.guidance else []
    how += ["balanced charges"] if settings.charge_balance else []
    return (
        f"Asked of {settings.model}: {', '.join(parts) or 'nothing in particular'}"
        f"{' with ' if how else ''}{' and '.join(how)}."
    )


def judge(
    inputs: Inputs, spec: DatasetSpec | None, root: str
) -> tuple[Report | PartialReport, CrystalDataset | None, list[str]]:
    """Scores, training set, and a sentence for each thing that is missing.

    Raises:
      UserError: `root` is given and holds no data.
    """
    if spec is None:
        note = "No published network judges this property: no predictions and no success rates."
        return evaluate_partly(inputs), None, [note]
    train, test, notes = None, None, []
    try:
        splits = load(DataConfig(name=spec.name, root=root))
        train, test = splits["train"], splits.get("test")
    except UserError as error:
        if root:
            raise
        notes.append(
            "Novelty, the nearest training crystals and the share of useful crystals are left out, "
            f"as they need the data set. {error}"
        )
    ask = functools.partial(predict, oracle=spec.name)
    try:
        if train is not None and test is not None:
            return evaluate(inputs, spec, train, test, ask), train, notes
        return evaluate_partly(inputs, spec, ask, train), train, notes
    except UserError as error:
        notes.append(f"No predictions and no success rates: {error}")
        return evaluate_partly(inputs, train=train), train, notes


def training_quantiles(
    spec: DatasetSpec, train: CrystalDataset | None, model: trained_model.TrainedModel | None
) -> np.ndarray | None:
    """Ascending values of the property in the training set, in equal steps of probability.

    They are the sorted labels, or else the quantiles that a model trained on the data set keeps.
    """
    if train is not None:
        return np.sort(train.properties[:, 0])
    if model is None or model.config.data.name != spec.name:
        return None
    names, rows = model.statistics.property_names, model.statistics.property_quantiles
    if spec.property_name not in names or not rows:
        return None
    return np.array(rows[names.index(spec.property_name)])


def unchecked(values: np.ndarray, training: np.ndarray | None) -> str:
    """What success rates are worth without a test split.

    Args:
      values: [n] predictions.
      training: ascending values of the training set, None where they are not known.
    """
    sentence = (
        "Without the test split the judge's error is not known, and crystals that fool it count as "
        "successes"
    )
    if training is None:
        return f"{sentence}."
    low = np.count_nonzero(values < training[0])  # NaN is not
    return f"{sentence}; {low} of {len(values)} are predicted below all training crystals."


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    require_plotly()
    require_between("symprec", flags.symprec, 0, math.inf)
    program.check_output(flags.out)
    if flags.png is not None:
        prepare_folder(flags.png)
    inputs = read_structures(flags.structures)
    unsaid: list[str] = []
    settings, made_with = read_request(flags.structures, unsaid)
    model = find_model(settings)
    spec = KNOWN_DATASETS.get(flags.dataset or (model.config.data.name if model else ""))
    scores, train, notes = judge(inputs, spec, flags.root)
    notes += unsaid
    if inputs.failures:
        notes.append(f"{len(inputs.failures)} crystals could not be read and are not shown.")
    title, caption, shown, target = "", "", None, None
    if spec is not None and scores.success:
        title, caption = f"{spec.property_name}, {spec.unit}", cards.caption(spec)
        target = settings.target.get(spec.property_name) if settings else None
        quantiles = training_quantiles(spec, train, model)
        if isinstance(scores, PartialReport):
            notes.append(unchecked(scores.values, quantiles))
        thresholds = dict(zip(NAMES, spec.success_thresholds, strict=True))
        shown = distribution(scores.values, quantiles, thresholds, target, title)
    listed = entries(inputs, train, flags.symprec, scores.values, scores.valid, scores.novel)
    formulas = [entry.formula for entry in listed]
    counts = element_counts(inputs.structures)
    made = f"crystals from {flags.structures}"
    page = Page(
        title=f"{len(listed)} generated crystals",
        subtitle=asked_for(settings, spec) if settings else "",
        notes=notes,
        rates=cards.headline(scores, target),
        caption=caption,
        entries=listed,
        histogram=None if shown is None else histogram(shown),
        bars=composition_bars(formulas),
        elements=periodic_table(counts, len(listed)),
        property_title=title,
        command=f"{settings.command(flags.structures) if settings else made}\n"
        f"python -m experiments.report {shlex.join(sys.argv[1:])}",
        versions=f"{made_with}Report by crystal_diffusion_jax {__version__}, "
        f"jax {jax.__version__}, numpy {np.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}",
    )
    program.write_output(flags.out, to_html(page))
    if flags.png is not None:
        for path in write_pictures(flags.png, shown, formulas, counts, len(listed)):
            print(f"picture: {path}")
    for note in notes:
        print(f"note: {note}")
    print(f"report in {flags.out.resolve()}")
