"""Puts the report together: reads the crystals, scores them, collects notes on what is missing."""

import functools
import platform
from pathlib import Path

import jax
import numpy as np

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.potentials.relaxed_samples import read_relaxed_samples
from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed, read_settings
from crystal_diffusion_jax.report import cards, relaxed_cards
from crystal_diffusion_jax.report.distribution import distribution
from crystal_diffusion_jax.report.document import Page
from crystal_diffusion_jax.report.entries import element_counts, entries
from crystal_diffusion_jax.report.pictures import pictures
from crystal_diffusion_jax.report.relaxed import relaxed_entries
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.reading import Inputs, read_structures
from crystal_diffusion_jax.structures.store import StoredRequest


def build(
    structures: Path,
    stored: StoredRequest | None,
    spec: DatasetSpec | None,
    statistics: DatasetStatistics | None,
    root: str,
    symprec: float,
    command: str,
    relaxed: Path | None = None,
) -> Page:
    """The content of the page.

    Args:
      structures: the crystals, see `read_structures`.
      stored: the request that they were sampled for, None if unknown.
      spec: the data set to compare with; None without an oracle for the property.
      statistics: of its training split, as a model stores them; None if unknown.
      root: folder of the data set, "" to look for it in the usual places.
      symprec: tolerance of symmetry in Angstrom.
      command: the command that makes the page.
      relaxed: folder of `relax` with these crystals; None to look for them in their samples.db.

    Raises:
      UserError: the crystals cannot be read, `root` is given and holds no data, or `relaxed` holds
        other crystals.
    """
    inputs = read_structures(structures)
    if relaxed is None:
        outcomes, settings = read_relaxed_samples(structures)
    else:
        outcomes, settings = read_relaxed(relaxed, inputs), read_settings(relaxed)
    request = stored.request if stored else None
    scores, train, notes = score(inputs, spec, root)
    if inputs.failures:
        notes.append(f"{len(inputs.failures)} crystals could not be read and are not shown.")
    title, caption, shares, target = "", "", None, None
    if spec is not None and scores.success_rate:
        title, caption = f"{spec.property_name}, {spec.unit}", cards.caption(spec)
        target = request.target.get(spec.property_name) if request else None
        quantiles = training_quantiles(spec, train, statistics)
        if outside := scores.counts["outside_training"]:
            notes.append(
                f"{outside} crystals are {OUTSIDE}: they have no prediction and count as failures. "
                "The table gives the reasons."
            )
        thresholds = dict(zip(NAMES, spec.success_thresholds, strict=True))
        shares = distribution(scores.values, quantiles, thresholds, target, title)
    shown = entries(
        inputs, train, symprec, scores.values, scores.valid, scores.novel, scores.failures
    )
    relaxed_shown = relaxed_entries(inputs, outcomes, symprec) if settings else []
    if not_relaxed := relaxed_shown.count(None):
        notes.append(f"{not_relaxed} crystals are not relaxed yet.")
    folder = structures.parent if structures.suffix == ".db" else structures
    made = request.command(folder) if request else f"# crystals from {structures}"
    return Page(
        title=f"{len(shown)} generated crystals",
        subtitle=describe(request, spec) if request else "",
        notes=notes,
        rates=cards.headline(scores, target),
        caption=caption,
        entries=shown,
        pictures=pictures(
            shares, [entry.formula for entry in shown], element_counts(inputs.structures)
        ),
        property_title=title,
        command=f"{made}\n{command}",
        versions=_versions(stored),
        relaxed=relaxed_shown,
        relaxed_scores=relaxed_cards.headline(relaxed_shown, len(inputs.structures)),
        relaxed_caption=relaxed_cards.caption(settings) if settings else "",
    )


def score(
    inputs: Inputs, spec: DatasetSpec | None, root: str
) -> tuple[Report, CrystalDataset | None, list[str]]:
    """Scores, training set, and a sentence for each thing that is missing.

    Args:
      inputs: the crystals.
      spec: the data set to compare with; None without an oracle for the property.
      root: folder of the data set, "" to look for it in the usual places.

    Raises:
      UserError: `root` is given and holds no data.
    """
    if spec is None:
        note = "There is no oracle for this property, so no predictions and no success rates."
        return evaluate(inputs), None, [note]
    train, test, notes = None, None, []
    try:
        splits = load(DataConfig(name=spec.name, root=root))
        train, test = splits["train"], splits.get("test")
    except UserError as error:
        if root:
            raise
        notes.append(
            "Novelty, the nearest training crystals and the share of useful crystals are missing, "
            f"because they need the data set. {error}"
        )
    ask = functools.partial(predict, oracle=spec.name)
    try:
        return evaluate(inputs, spec, train, test, ask), train, notes
    except UserError as error:
        notes.append(f"No predictions and no success rates: {error}")
        return evaluate(inputs, train=train), train, notes


def training_quantiles(
    spec: DatasetSpec, train: CrystalDataset | None, statistics: DatasetStatistics | None
) -> np.ndarray | None:
    """Ascending values of the property in the training set, in equal steps of probability.

    These are the sorted labels, or else the stored quantiles.
    """
    if train is not None:
        return np.sort(train.properties[:, 0])
    if statistics is None:
        return None
    index = statistics.property_names.index(spec.property_name)
    return np.array(statistics.property_quantiles[index])


def describe(request: Request, spec: DatasetSpec | None) -> str:
    """The request in a sentence, with units where they are known."""
    targets = []
    for name, (low, high) in request.target.items():
        unit = f" {spec.unit}" if spec is not None and name == spec.property_name else ""
        values = f"{low:.6g} to {high:.6g}" if low < high else f"{low:.6g}"
        values = request.classes.get(name, values)
        targets.append(f"{name} = {values}{unit}")
    options = [f"guidance {request.guidance:g}"] if request.guidance else []
    options += ["balanced charges"] if request.charge_balance else []
    return (
        f"Requested from {request.model}: {', '.join(targets) or 'no particular property'}"
        f"{' with ' if options else ''}{' and '.join(options)}."
    )


def _versions(stored: StoredRequest | None) -> str:
    sampled = ""
    if stored is not None:
        versions = ", ".join(f"{name} {version}" for name, version in stored.versions.items())
        digest = stored.request.model_sha256[:12]
        sampled = f"Sampled with {versions}; weights {digest} (sha256). "
    return (
        f"{sampled}Report by crystal_diffusion_jax {__version__}, jax {jax.__version__}, numpy "
        f"{np.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )
