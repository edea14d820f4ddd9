"""Predictions against a data set, next to templates: from crystals to all scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.chosen_rows import chosen_rows
from crystal_diffusion_jax.evaluation.answers import assign
from crystal_diffusion_jax.evaluation.baseline import Leakage, leakage, template_scores
from crystal_diffusion_jax.evaluation.matching import TIME_LIMIT
from crystal_diffusion_jax.evaluation.prediction import PredictionScores, references, score
from crystal_diffusion_jax.potentials.relaxation import Relaxation
from crystal_diffusion_jax.structures.reading import Inputs


@dataclasses.dataclass(frozen=True)
class Judgement:
    """All that was found.

    Attributes:
      references: what was to be predicted, in words.
      answers: how predictions were assigned to references, see `answers`; "" without predictions.
      counts: "references" that are judged, "unanswered" ones that are left out as no prediction
        answers them, "polymorphs" (other references with the compositions of the judged ones),
        "predictions", and "left_out": why -> how many predictions.
      names: of the predictions.
      predictions: their scores; None without predictions.
      relaxed: scores of the relaxed predictions, those of the lowest energy first; None without
        relaxations.
      templates: scores of the templates, the best first; None without training crystals.
      leakage: what the training crystals know; None without them.
    """

    references: str
    answers: str
    counts: Mapping[str, Any]
    names: Sequence[str]
    predictions: PredictionScores | None
    relaxed: PredictionScores | None
    templates: PredictionScores | None
    leakage: Leakage | None


def judge(
    inputs: Inputs | None,
    dataset: CrystalDataset,
    train: CrystalDataset | None,
    place: str,
    num: int = 0,
    ks: Sequence[int] = (1,),
    progress: bool = True,
    time_limit: float = TIME_LIMIT,
    relaxed: Sequence[Relaxation] | None = None,
) -> Judgement:
    """Scores predictions and templates for the same references.

    Args:
      inputs: the predictions; None for the templates alone.
      dataset: the references.
      train: crystals for templates; None for none.
      place: of the references, for messages.
      num: how many of the references, in a fixed random order; 0 for all.
      ks: numbers of predictions of which the best counts.
      progress: show progress bars on stderr.
      time_limit: seconds for each comparison.
      relaxed: outcome of every prediction.

    Raises:
      UserError: predictions cannot be assigned to references (`answers.assign`).
    """
    rows = chosen_rows(len(dataset), num)
    counts: dict[str, Any] = {"unanswered": 0, "predictions": 0, "left_out": {}}
    answers = None
    if inputs is not None:
        answers = assign(inputs, dataset, rows, place)
        counts["unanswered"] = len(rows) - len(answers.rows)
        counts["predictions"] = len({i for indices in answers.indices for i in indices})
        counts["left_out"] = answers.left_out
        rows = answers.rows
    known = references(dataset, rows)
    counts |= {"references": known.num, "polymorphs": len(known.structures) - known.num}
    predictions = of_relaxed = None
    if inputs is not None and answers is not None:
        predictions = score(
            inputs.structures, answers.indices, known, ks, False, progress, time_limit
        )
        if relaxed is not None:
            # Without an energy, those that could not be relaxed come last.
            energies = np.nan_to_num([each.energy_per_atom for each in relaxed], nan=np.inf)
            ranked = [sorted(each, key=energies.item) for each in answers.indices]
            structures = [each.structure for each in relaxed]
            of_relaxed = score(structures, ranked, known, ks, True, progress, time_limit)
    return Judgement(
        references=place,
        answers=answers.by if answers else "",
        counts=counts,
        names=inputs.names if inputs else [],
        predictions=predictions,
        relaxed=of_relaxed,
        templates=template_scores(known, train, ks, progress) if train is not None else None,
        leakage=leakage(known, train) if train is not None else None,
    )
