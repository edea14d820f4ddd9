"""The scores of the page that are not counts of its funnel, and what their names mean."""

import dataclasses
import html
from collections.abc import Mapping

import numpy as np

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.goal import Goal
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.success_rate import NAMES

_DIFFERENCE = "|predicted - asked|"
_COMPOSITIONS = "unique compositions"
MEANINGS = {
    _DIFFERENCE: "distance of the prediction from what was asked, where there is a prediction",
    _COMPOSITIONS: "different reduced formulas, out of all crystals",
}


@dataclasses.dataclass(frozen=True)
class Median:
    """The median of a quantity that is known for k of n crystals.

    Attributes:
      value: in `unit`, None for k = 0.
      unit: of the value.
      decimals: to show.
      k: crystals with a value.
      n: crystals.
    """

    value: float | None
    unit: str
    decimals: int
    k: int
    n: int


def headline(scores: Report, goal: Goal | None) -> dict[str, Rate | Median]:
    """Title -> score, for everything that is known.

    A request for a value or a range is judged by the distance of the predictions from it; one for
    the lowest values, and crystals that nothing was asked of, by SR5, SR10 and SR15.

    Args:
      scores: of the crystals.
      goal: what was asked of the property.
    """
    found: dict[str, Rate | Median] = {}
    if scores.success_rate:
        if goal is None or goal.lowest:
            found |= scores.success_rate["single_valid"]
        else:
            known = goal.differences(scores.values)
            known = known[np.isfinite(known)]
            median = float(np.median(known)) if len(known) else None
            found[_DIFFERENCE] = Median(median, goal.unit, 3, len(known), len(scores.values))
    found[_COMPOSITIONS] = scores.diversity["unique_compositions"]
    return found


def caption(spec: DatasetSpec, goal: Goal | None, error: float) -> str:
    """What the scores of predictions mean; the funnel says how a requested value is judged.

    Args:
      spec: the data set.
      goal: what was asked of its property.
      error: mean absolute error of the oracle on test crystals.
    """
    judged = ""
    if goal is None or goal.lowest:
        limits = ", ".join(f"{threshold:.4g}" for threshold in spec.success_thresholds)
        judged = (
            f"{', '.join(NAMES)}: valid, and predicted among the lowest 5, 10, 15 % of "
            f"{spec.name}, i.e. {spec.property_name} of at most {limits} {spec.unit}. "
        )
    return (
        f"{judged}Predictions are those of the oracle, a published property network, not of a "
        f"calculation; on test crystals of {spec.name} its mean error is {error:.2g} {spec.unit}."
    )


def to_html(scores: Mapping[str, Rate | Median]) -> str:
    """A card for each score with its count."""
    return "".join(
        f'<div class="card"><b>{_value(score)}</b>{"median " * isinstance(score, Median)}'
        f"{html.escape(title)}<br><span>{score.k} of {score.n}</span></div>"
        for title, score in scores.items()
    )


def meanings_to_html(meanings: Mapping[str, str]) -> str:
    """Words and their meanings, as a list of definitions."""
    return "".join(
        f"<dt>{html.escape(title)}</dt><dd>{html.escape(meaning)}</dd>"
        for title, meaning in meanings.items()
    )


def _value(score: Rate | Median) -> str:
    if score.value is None:
        return "-"
    if isinstance(score, Rate):
        return f"{100 * score.value:.1f} %"
    return f"{score.value:.{score.decimals}f} {score.unit}".replace("-", "\u2212")
