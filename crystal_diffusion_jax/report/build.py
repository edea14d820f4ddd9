"""Puts the report together: reads the crystals, scores them, collects notes on what is missing."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.data.load import load, load_table
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.goal import goal
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.oracles import domain
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.potentials.relaxed_samples import read_relaxed_samples
from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed, read_settings
from crystal_diffusion_jax.report import cards, credibility, phases, relaxed_cards
from crystal_diffusion_jax.report.columns import columns
from crystal_diffusion_jax.report.crystals import Known, crystals, element_counts
from crystal_diffusion_jax.report.distribution import distribution
from crystal_diffusion_jax.report.document import Page
from crystal_diffusion_jax.report.funnel import count_stages, read_funnel
from crystal_diffusion_jax.report.pictures import pictures
from crystal_diffusion_jax.report.shortlist import read_shortlist
from crystal_diffusion_jax.report.wording import asked_in_words, describe, versions
from crystal_diffusion_jax.structures.database import StoredRequest
from crystal_diffusion_jax.structures.reading import Inputs, read_structures
from crystal_diffusion_jax.structures.samples_reader import NOT_SAMPLED, REJECTED


def build(
    structures: Path,
    stored: StoredRequest | None,
    spec: DatasetSpec | None,
    statistics: DatasetStatistics | None,
    root: str,
    symprec: float,
    command: str,
    relaxed: Path | None = None,
    data: DataConfig | None = None,
    train: CrystalDataset | None = None,
) -> Page:
    """The content of the page.

    Args:
      structures: the crystals, see `read_structures`.
      stored: the request that they were sampled for, None if unknown.
      spec: the known data set to compare with; None without an oracle for the property.
      statistics: of its training split, as a model stores them; None if unknown.
      root: where the training crystals are, "" to look where `data` says.
      symprec: tolerance of symmetry in Angstrom.
      command: the command that makes the page.
      relaxed: folder of `relax` with these crystals; None to look for them in their samples.db.
      data: the training crystals to compare with, see `training_crystals`; None for those of
        `spec`, or without it for what `root` names.
      train: these crystals, if they came with the model; only used without a `root`.

    Raises:
      UserError: the crystals cannot be read, `root` is given and holds no data, `relaxed` holds
        other crystals, or their funnel.json is damaged.
    """
    inputs = read_structures(structures)
    funnel = read_funnel(structures)
    if relaxed is None:
        outcomes, settings = read_relaxed_samples(structures)
    else:
        outcomes, settings = read_relaxed(relaxed, inputs), read_settings(relaxed)
    request = stored.request if stored else None
    if data is None:
        data = DataConfig(name=spec.name if spec else "")
    notes: list[str] = []
    if train is None or root:
        train, notes = find_training(data, root, spec)
    scores, missing = score(inputs, spec, train)
    notes += missing
    wanted = goal(spec, request)
    rates = cards.headline(scores, wanted)
    remarks, title, caption, shares = [], "", "", None
    if spec is None:
        remarks.append("There is no oracle for this property, so no predictions and success rates.")
    remarks += _not_shown(inputs.failures.values())
    if spec is not None and scores.success_rate:
        title = f"{spec.property_name}, {spec.unit}"
        caption = cards.caption(spec, wanted, domain.load(spec.name).error)
        quantiles = training_quantiles(spec, train, statistics)
        thresholds = dict(zip(NAMES, spec.success_thresholds, strict=True))
        shares = distribution(
            scores.values,
            quantiles,
            thresholds,
            (wanted.low, wanted.high) if wanted else None,
            title,
        )
    num = len(inputs.structures)
    ranks, failed_checks = read_shortlist(structures)
    known = Known(
        scores=scores,
        asked=[wanted.asked] * num if wanted else asked_in_words(request, num),
        differences=wanted.differences(scores.values) if wanted else np.full(num, np.nan),
        relaxed_values=_relaxed_values(outcomes[:num], spec) if title else {},
        train=train,
        ranks=ranks,
        failed_checks=failed_checks,
    )
    shown = crystals(inputs, outcomes, known, symprec)
    num_relaxed = sum(crystal.relaxed is not None for crystal in shown)
    if settings and num_relaxed < len(shown):
        why = "not relaxed: they failed a check before" if funnel else "not relaxed yet"
        remarks.append(f"{len(shown) - num_relaxed} crystals are {why}.")
    if relaxed_cards.beside_elements_only(shown):
        remarks.append(relaxed_cards.BESIDE_ELEMENTS)
    rule = credibility.credibility(spec, train)
    flags = [rule.flags(crystal) for crystal in shown]
    table, history = columns(shown, flags, title, spec.property_name if spec else "")
    folder = structures.parent if structures.suffix == ".db" else structures
    made = request.command(folder) if request else f"# crystals from {structures}"
    if funnel and funnel.command:
        made = funnel.command
    stages = funnel.stages if funnel else count_stages(scores, wanted, outcomes if settings else ())
    return Page(
        title=f"{len(shown)} generated crystals",
        subtitle=describe(request, spec) if request else "",
        notes=notes,
        remarks=remarks,
        stages=stages,
        rates=rates | relaxed_cards.headline(shown, num_relaxed if funnel else num),
        captions=[caption, relaxed_cards.caption(settings, bool(funnel)) if settings else ""],
        meanings=cards.MEANINGS | relaxed_cards.MEANINGS,
        crystals=shown,
        flags=flags,
        flag_meanings=rule.meanings,
        columns=table,
        history=history,
        order=credibility.order(shown, flags),
        order_in_words=credibility.order_in_words(shown),
        diagrams=_phase_diagrams(outcomes[:num], train if data.name == phases.DATASET else None),
        pictures=pictures(
            shares, [crystal.formula for crystal in shown], element_counts(inputs.structures)
        ),
        command=f"{made}\n{command}",
        versions=versions(stored),
    )


def _not_shown(failures: Iterable[str]) -> list[str]:
    """How many crystals are missing, in a sentence for each kind of reason."""
    kinds: Counter[str] = Counter()
    for reason in failures:
        rejected, unsampled = reason.startswith(REJECTED), reason == NOT_SAMPLED
        kinds[reason if rejected else "not sampled yet" if unsampled else "unreadable"] += 1
    return [f"{count} crystals are not shown: {kind}." for kind, count in sorted(kinds.items())]


def training_crystals(data: DataConfig, root: str) -> CrystalDataset:
    """The training split of a data set, or a table of crystals.

    Args:
      data: the model's data, or a known data set; without name and properties, none of these.
      root: where the data are, "" to look in the usual places, or, for own data, where they were
        for training; without a data set, a csv of crystals.

    Raises:
      UserError: they are not there, or cannot be read.
    """
    if not data.name and not data.properties:
        return load_table(Path(root).expanduser())
    place = root or ("" if data.name else data.root)
    return load(dataclasses.replace(data, root=place), splits=("train",))["train"]


def find_training(
    data: DataConfig, root: str, spec: DatasetSpec | None
) -> tuple[CrystalDataset | None, list[str]]:
    """The training crystals, and a sentence if they are missing.

    Args:
      data: which.
      root: where they are, "" to look where `data` says.
      spec: the known data set that the crystals are compared with.

    Raises:
      UserError: `root` is given and holds no data.
    """
    if not (data.name or data.properties or root):
        return None, []
    try:
        return training_crystals(data, root), []
    except UserError as error:
        if root:
            raise
        return None, [
            f"It is not known which crystals are in the training set: that needs its data. {error}"
        ]


def score(
    inputs: Inputs, spec: DatasetSpec | None, train: CrystalDataset | None
) -> tuple[Report, list[str]]:
    """Scores, and a sentence if there are no predictions.

    Args:
      inputs: the crystals.
      spec: the data set whose oracle is asked; None without one for the property.
      train: the training crystals.
    """
    if spec is None:
        return evaluate(inputs, train=train), []
    ask = functools.partial(predict, oracle=spec.name)
    try:
        return evaluate(inputs, spec, train, predict=ask), []
    except UserError as error:
        note = f"No predictions and no success rates: {error}"
        return evaluate(inputs, train=train), [note]


def _relaxed_values(
    outcomes: Sequence[RelaxedCrystal], spec: DatasetSpec | None
) -> dict[int, float]:
    """Index -> prediction for each relaxed crystal, NaN where it is none."""
    found = {
        index: structure
        for index, outcome in enumerate(outcomes)
        if (structure := outcome.relaxation.structure) is not None
    }
    if spec is None or not found:
        return {}
    values = predict(list(found.values()), oracle=spec.name).values
    return dict(zip(found, values.tolist(), strict=True))


def _phase_diagrams(
    outcomes: Sequence[RelaxedCrystal], train: CrystalDataset | None
) -> list[phases.PhaseDiagramPicture]:
    """Those that can be drawn, with the given training crystals of MP-20 or those on this machine.

    No crystal has an energy above that hull if they are on neither.
    """
    found = phases.candidates(outcomes)
    if not found:
        return []
    if train is None or phases.LABEL not in train.property_names:
        train, _ = find_training(DataConfig(name=phases.DATASET), "", None)
    return [] if train is None else phases.phase_diagrams(found, train)


def training_quantiles(
    spec: DatasetSpec, train: CrystalDataset | None, statistics: DatasetStatistics | None
) -> np.ndarray | None:
    """Ascending values of the property in the training set, in equal steps of probability.

    These are the sorted labels, or else the stored quantiles.
    """
    if train is not None and spec.property_name in train.property_names:
        return np.sort(train.properties[:, train.property_names.index(spec.property_name)])
    if statistics is None:
        return None
    index = statistics.property_names.index(spec.property_name)
    return np.array(statistics.property_quantiles[index])
