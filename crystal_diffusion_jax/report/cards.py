"""The numbers at the top of the page."""

import html

import numpy as np

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.intervals import Rate, rate
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.success_rate import NAMES


def headline(scores: Report, target: tuple[float, float] | None = None) -> dict[str, Rate]:
    """Title -> rate, for all that is known.

    Args:
      scores: of the crystals.
      target: lowest and highest value that was asked for.
    """
    rates = {}
    if scores.success and target is not None and target[0] < target[1]:
        values = np.asarray(scores.values)
        inside = (values >= target[0]) & (values <= target[1])  # NaN is not
        rates["valid, in the range asked for"] = rate(inside & scores.valid)
    rates |= scores.success.get("single_valid", {})
    rates["valid"] = scores.validity["both"]
    for title, name in (
        ("unique", "unique"),
        ("novel", "novel"),
        ("distinct compositions", "unique_compositions"),
    ):
        if name in scores.diversity:
            rates[title] = scores.diversity[name]
    if scores.useful is not None:
        rates["valid, SR5, unique, novel"] = scores.useful
    return rates


def caption(spec: DatasetSpec) -> str:
    """What SR5, SR10 and SR15 mean."""
    limits = ", ".join(f"{threshold:.4g}" for threshold in spec.success_thresholds)
    return (
        f"{', '.join(NAMES)}: valid, and predicted among the lowest 5, 10, 15 % of {spec.name}, "
        f"which is {spec.property_name} of at most {limits} {spec.unit}."
    )


def to_html(rates: dict[str, Rate]) -> str:
    """A card for each rate, with its count."""
    return "".join(
        f'<div class="card"><b>{_percent(rate)}</b>{html.escape(title)}<br>'
        f"<span>{rate.k} of {rate.n}</span></div>"
        for title, rate in rates.items()
    )


def _percent(rate: Rate) -> str:
    return "-" if rate.value is None else f"{100 * rate.value:.1f} %"
