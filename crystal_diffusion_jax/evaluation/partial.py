"""The scores that remain without a data set, without a judge, or without both."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.checks import check
from crystal_diffusion_jax.evaluation.diversity import diversity
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.report import Predict
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.structures.reading import Inputs


@dataclasses.dataclass(frozen=True)
class PartialReport:
    """Scores of n crystals; every rate is out of all of them. `report.Report` has the others.

    Attributes:
      success: reading -> SR5, SR10, SR15; empty without a judge. Without a test split the judge's
        error is not known, so a crystal that fools it counts as a success.
      validity: "structure", "composition", "both".
      diversity: "unique", "unique_compositions", with a training split "novel" and
        "novel_compositions" too.
      values: [n] predictions, NaN where there is none.
      valid: [n] bool.
      novel: [n] bool, no training crystal is the same; None without a training split.
    """

    success: Mapping[str, Mapping[str, Rate]]
    validity: Mapping[str, Rate]
    diversity: Mapping[str, Rate]
    values: np.ndarray
    valid: np.ndarray
    novel: np.ndarray | None


def evaluate_partly(
    inputs: Inputs,
    spec: DatasetSpec | None = None,
    predict: Predict | None = None,
    train: CrystalDataset | None = None,
    progress: bool = True,
) -> PartialReport:
    """Scores a set of crystals by what is there.

    Args:
      inputs: the crystals.
      spec: the known data set, for its thresholds; needed with a judge.
      predict: the judge of its property.
      train: its training split.
      progress: show progress bars on stderr.
    """
    checked = check(inputs)
    values = np.full(len(inputs.structures), np.nan)
    success: dict[str, dict[str, Rate]] = {}
    if predict is not None and spec is not None:
        values = checked.spread(predict(checked.crystals).values)
        success = success_rates(values, checked.valid, spec.success_thresholds)
    compared = diversity(inputs.structures, train, progress)
    known = {
        name: item
        for name, item in compared.rates.items()
        if train is not None or "novel" not in name
    }
    return PartialReport(
        success=success,
        validity=checked.rates,
        diversity=known,
        values=values,
        valid=checked.valid,
        novel=None if train is None else compared.novel,
    )
