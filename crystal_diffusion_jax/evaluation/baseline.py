"""What a data set gives away of its own held-out crystals: templates, and known compositions."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.data import formula_units
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.templates import Templates, anonymous_formula
from crystal_diffusion_jax.evaluation.diversity import rows_by_composition
from crystal_diffusion_jax.evaluation.intervals import Rate, rate
from crystal_diffusion_jax.evaluation.prediction import Judged, PredictionScores, score
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.conversion import restore_structure


@dataclasses.dataclass(frozen=True)
class Leakage:
    """Shares of the judged crystals of which the training crystals know something.

    Attributes:
      composition: a training crystal has the reduced composition.
      anonymous: one has the reduced anonymous formula, such as ABX3.
      template: one has the numbers of atoms in the cell, so that there is a template.
    """

    composition: Rate
    anonymous: Rate
    template: Rate


def leakage(known: Judged, train: CrystalDataset) -> Leakage:
    """Compares the formulas of the judged crystals with those of the training crystals."""
    compositions = set(rows_by_composition(train))
    anonymous = {formula_units.anonymous([count for _, count in each])[0] for each in compositions}
    cells = {
        anonymous_formula(numbers)
        for numbers in np.split(train.atomic_numbers, train.offsets[1:-1])
    }
    judged = [each.atomic_numbers for each in known.structures[: known.num]]
    formulas = [anonymous_formula(each) for each in judged]
    return Leakage(
        composition=rate([reduced_composition(each) in compositions for each in judged]),
        anonymous=rate([formula_units.anonymous(each)[0] in anonymous for each in formulas]),
        template=rate([each in cells for each in formulas]),
    )


def template_scores(
    known: Judged, train: CrystalDataset, ks: Sequence[int], progress: bool = True
) -> PredictionScores:
    """Scores of the best templates for each judged crystal (`data.templates`).

    Args:
      known: the references.
      train: the crystals that are templates.
      ks: numbers of templates of which the best counts.
      progress: show progress bars on stderr.
    """
    library = Templates(train)
    predicted: list[Structure | None] = []
    answers: list[list[int]] = []
    for each in tqdm(known.structures[: known.num], desc="templates", disable=not progress):
        found = library.find(each.atomic_numbers, max(ks))
        crystals = [restore_structure(*template.cell) for template in found]
        # Without a template there is one failure.
        answers.append(list(range(len(predicted), len(predicted) + max(len(crystals), 1))))
        predicted += crystals or [None]
    return score(predicted, answers, known, ks, ranked=True, progress=progress)
