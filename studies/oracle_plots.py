"""Pictures and tables of `studies.oracle_curves`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.report.pictures import (
    GENERATED_COLOUR,
    THRESHOLD_COLOUR,
    panels,
)
from studies.judged import Curve, Point, Spread
from studies.plots import draw_rates

_TITLES = {"perov5": "Perov-5", "carbon24": "Carbon-24", "mp20": "MP-20"}
_AXES = {"strain": "change of the cell's lengths, %", "rattle": "rattled: sigma along each axis, Å"}
_AMOUNTS = {"strain": "lengths, %", "rattle": "sigma, Å"}


def pictures(curves: Sequence[Curve]) -> dict[str, Figure]:
    """The pictures by name: crystals of the data strained and rattled, generated ones strained."""
    of_data = [curve for curve in curves if curve.source == "data"]
    found = {
        "oracle_strain": [curve for curve in of_data if curve.perturbation == "strain"],
        "oracle_rattle": [curve for curve in of_data if curve.perturbation == "rattle"],
        "oracle_generated": [curve for curve in curves if curve.source != "data"],
    }
    return {name: picture(rows) for name, rows in found.items() if rows}


def picture(curves: Sequence[Curve]) -> Figure:
    """A row for each curve: shares of crystals, and how energies change.

    Args:
      curves: of the same perturbation.
    """
    figure, all_axes = panels(len(curves), 2, 0.9 + 2.2 * len(curves), width_ratios=(1.2, 1))
    for curve, shares, energies in zip(curves, all_axes[::2], all_axes[1::2], strict=True):
        amounts = [point.amount for point in curve.points]
        for name, colour, counts in (
            ("SR5", GENERATED_COLOUR, [point.success["SR5"] for point in curve.points]),
            ("SR15", "#e8a0a9", [point.success["SR15"] for point in curve.points]),
            (
                "below the training minimum",
                "#2f6690",
                [point.below_training for point in curve.points],
            ),
            ("outside its training", "0.35", [point.outside for point in curve.points]),
        ):
            rates = [Rate(k, point.num) for k, point in zip(counts, curve.points, strict=True)]
            draw_rates(shares, amounts, rates, colour, name)
        shares.axhline(5, color=THRESHOLD_COLOUR, linestyle=":", linewidth=1, label="SR5 by chance")
        shares.set(ylim=(-2, 102), ylabel="% of crystals")
        shares.set_title(title(curve), fontsize=9, loc="left")
        for name, colour, changes in (
            (
                "oracle: median, quartiles",
                GENERATED_COLOUR,
                [point.oracle_change for point in curve.points],
            ),
            (
                "potential: median, quartiles",
                "#1b7f3b",
                [point.potential_change for point in curve.points],
            ),
        ):
            _draw_changes(energies, amounts, changes, colour, name)
        if curve.perturbation == "rattle":
            # From a thousandth of an eV to several.
            energies.set_yscale("symlog", linthresh=0.01)
        energies.axhline(0, color="0.6", linewidth=1)
        energies.set(ylabel="energy change, eV/atom")
    for axes in all_axes[-2:]:
        axes.set_xlabel(_AXES[curves[0].perturbation])
    pairs = [axes.get_legend_handles_labels() for axes in all_axes[:2]]
    handles, labels = (first + second for first, second in zip(*pairs, strict=True))
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def title(curve: Curve) -> str:
    """Which crystals these are."""
    kind = "crystals within SR5" if curve.source == "data" else f"crystals of {curve.source}"
    return f"{_TITLES[curve.dataset]}, {curve.points[0].num} {kind}"


def _draw_changes(
    axes: Any, x: Sequence[float], changes: Sequence[Spread], colour: str, name: str
) -> None:
    """Draws medians and the range between the quartiles."""
    lower, median, upper = np.array([each.quartiles for each in changes], dtype=float).T
    axes.plot(x, median, "o-", color=colour, markersize=4, label=name)
    axes.fill_between(x, lower, upper, color=colour, alpha=0.2, linewidth=0)


def tables(curves: Sequence[Curve]) -> str:
    """A Markdown table for each curve, under its title."""
    return "\n\n".join(
        f"{title(curve)}, {curve.perturbation}:\n\n{table(curve)}" for curve in curves
    )


def table(curve: Curve) -> str:
    """One curve in Markdown: rates with their intervals, counts, means and medians."""
    cells = [
        _AMOUNTS[curve.perturbation],
        "SR5",
        "SR15",
        "below the training minimum, outside the training",
        "valid structure, same crystal",
        "mean predicted",
        "energy change by the oracle, meV/atom: mean, median",
        "by the potential",
    ]
    lines = [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]
    return "\n".join([*lines, *map(_line, curve.points)])


def _line(point: Point) -> str:
    cells = [
        f"{point.amount:g}",
        rate(Rate(point.success["SR5"], point.num)),
        rate(Rate(point.success["SR15"], point.num)),
        f"{point.below_training}, {point.outside}",
        f"{point.valid_structure}, {point.same}",
        "-" if point.prediction.mean is None else f"{point.prediction.mean:.3f}",
        _milli(point.oracle_change),
        _milli(point.potential_change),
    ]
    return f"| {' | '.join(cells)} |"


def rate(share: Rate) -> str:
    """The share with its interval, such as "0.95 (0.90-0.98)"."""
    low, high = share.interval or (0.0, 1.0)
    return f"{share.value or 0.0:.2f} ({low:.2f}-{high:.2f})"


def _milli(change: Spread) -> str:
    """Mean and median in thousandths and the number of crystals, such as "+12, +7 (100)"."""
    if change.mean is None or change.quartiles is None:
        return "-"
    values = ", ".join(f"{1000 * value:+.0f}" for value in (change.mean, change.quartiles[1]))
    return f"{values} ({change.num})"
