"""The scores at the top of the page, and what their names mean."""

import dataclasses
import html
from collections.abc import Mapping

import numpy as np

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.intervals import rate as rate_of
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.success_rate import NAMES

_IN_RANGE = "valid, in the requested range"
_USEFUL = "valid, SR5, unique, novel"
MEANINGS = {
    _IN_RANGE: "valid, and predicted within the requested range",
    "valid": "no atoms closer than 0.5 A, and a composition whose charges can balance (SMACT)",
    "unique": "different crystals (pymatgen's StructureMatcher), out of all",
    "novel": "not in the training set: no training crystal is the same",
    "unique compositions": "different reduced formulas, out of all crystals",
    _USEFUL: "different crystals that are valid, reach SR5 and are novel, out of all",
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


def headline(scores: Report, target: tuple[float, float] | None = None) -> dict[str, Rate]:
    """Title -> rate, for everything that is known.

    Args:
      scores: of the crystals.
      target: lowest and highest requested value.
    """
    rates = {}
    if scores.success_rate and target is not None and target[0] < target[1]:
        values = np.asarray(scores.values)
        inside = (values >= target[0]) & (values <= target[1])  # False for NaN
        rates[_IN_RANGE] = rate_of(inside & scores.valid)
    rates |= scores.success_rate.get("single_valid", {})
    rates["valid"] = scores.validity["both"]
    for title, name in (
        ("unique", "unique"),
        ("novel", "novel"),
        ("unique compositions", "unique_compositions"),
    ):
        if name in scores.diversity:
            rates[title] = scores.diversity[name]
    if scores.useful is not None:
        rates[_USEFUL] = scores.useful
    return rates


def caption(spec: DatasetSpec) -> str:
    """What SR5, SR10 and SR15 mean."""
    limits = ", ".join(f"{threshold:.4g}" for threshold in spec.success_thresholds)
    return (
        f"{', '.join(NAMES)}: valid, and predicted among the lowest 5, 10, 15 % of {spec.name}, "
        f"i.e. {spec.property_name} of at most {limits} {spec.unit}. Predictions are those of the "
        "oracle, a published property network, not of a calculation."
    )


def to_html(scores: Mapping[str, Rate | Median], meanings: Mapping[str, str]) -> str:
    """A card for each score with its count, and the meaning of its title as a tooltip."""
    return "".join(
        f'<div class="card" title="{html.escape(meanings.get(title, ""))}">'
        f"<b>{_value(score)}</b>{'median ' * isinstance(score, Median)}{html.escape(title)}<br>"
        f"<span>{score.k} of {score.n}</span></div>"
        for title, score in scores.items()
    )


def meanings_to_html(scores: Mapping[str, Rate | Median], meanings: Mapping[str, str]) -> str:
    """The meanings of all titles, as items of a list."""
    return "".join(
        f"<li><b>{html.escape(title)}</b>: {html.escape(meanings[title])}.</li>"
        for title in scores
        if title in meanings
    )


def _value(score: Rate | Median) -> str:
    if score.value is None:
        return "-"
    if isinstance(score, Rate):
        return f"{100 * score.value:.1f} %"
    return f"{score.value:.{score.decimals}f} {score.unit}".replace("-", "\u2212")
