"""Predictions against a data set, next to templates: from crystals to all scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.chosen_rows import chosen_rows
from crystal_diffusion_jax.evaluation.answers import Answers, assign
from crystal_diffusion_jax.evaluation.baseline import Leakage, leakage, template_scores
from crystal_diffusion_jax.evaluation.prediction import (
    Judged,
    PredictionScores,
    references,
    score,
)
from crystal_diffusion_jax.potentials.relaxation import Relaxation
from crystal_diffusion_jax.structures.compositions import reduced_composition
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
        predictions = score(inputs.structures, answers.indices, known, ks, False, progress)
        if relaxed is not None:
            of_relaxed = _of_relaxed(relaxed, answers, known, ks, progress)
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


def _of_relaxed(
    relaxed: Sequence[Relaxation],
    answers: Answers,
    known: Judged,
    ks: Sequence[int],
    progress: bool,
) -> PredictionScores:
    """Scores of the relaxed predictions, ranked by energy.

    Energies per atom compare within a composition: others than the reference's come last, as do
    predictions that could not be relaxed.
    """

    def by_energy(row: int, indices: Sequence[int]) -> list[int]:
        wanted = reduced_composition(known.structures[row].atomic_numbers)

        def rank(index: int) -> tuple[bool, float]:
            structure = relaxed[index].structure
            if structure is None or reduced_composition(structure.atomic_numbers) != wanted:
                return True, 0.0
            return False, relaxed[index].energy_per_atom

        return sorted(indices, key=rank)

    ranked = [by_energy(row, indices) for row, indices in enumerate(answers.indices)]
    structures = [each.structure for each in relaxed]
    scored = score(structures, ranked, known, ks, True, progress)
    counted = sorted({index for each in ranked for index in each})
    missing = {index: why for index in counted if (why := relaxed[index].failure)}
    return dataclasses.replace(scored, failures=missing | dict(scored.failures))
