"""The page's pictures, drawn with matplotlib: property histogram, compositions, periodic table."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from crystal_diffusion_jax.report.distribution import Distribution, periodic_table

HISTOGRAM, COMPOSITIONS, ELEMENTS = NAMES = ("histogram", "compositions", "elements")
TRAINING_COLOUR = "#9aa5b1"
GENERATED_COLOUR = "#d1495b"
TARGET_COLOUR = "#1b7f3b"
THRESHOLD_COLOUR = "#555555"
_THRESHOLD_STYLES = (":", "--", "-.")
_MOST_COMPOSITIONS = 30


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure 7 inches wide and its axes, [rows * columns].

    Figure alone draws with Agg: no display, no global state of pyplot.
    """
    figure = Figure(figsize=(7.0, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend_above(figure: Figure, axes: Any, columns: int, **options: Any) -> None:
    """Puts the legend of the axes above them, where it cannot hide data."""
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        **options,
    )


def pictures(
    property_shares: Distribution | None,
    formulas: Sequence[str],
    counts: Mapping[str, int],
) -> dict[str, Figure]:
    """The pictures by name, of `NAMES`; no histogram without predictions.

    Args:
      property_shares: distribution of the property, None without predictions.
      formulas: reduced formula of each crystal.
      counts: symbol -> number of crystals that contain the element.
    """
    drawn = {} if property_shares is None else {HISTOGRAM: _histogram(property_shares)}
    return drawn | {
        COMPOSITIONS: _compositions(formulas),
        ELEMENTS: _elements(counts, len(formulas)),
    }


def to_svg(figure: Figure) -> str:
    """The picture as an SVG element for HTML."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """The picture as a PNG file, 1050 pixels wide."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def draw_distribution(axes: Any, shown: Distribution) -> None:
    """Draws the training set and the generated crystals, with target and thresholds."""
    for name, share, colour in (
        ("training set", shown.training, TRAINING_COLOUR),
        ("generated", shown.generated, GENERATED_COLOUR),
    ):
        if share is not None:
            axes.stairs(share, shown.edges, fill=True, color=colour, alpha=0.75, label=name)
    if shown.target is not None:
        low, high = shown.target
        if low < high:
            axes.axvspan(low, high, color=TARGET_COLOUR, alpha=0.18, linewidth=0, label="target")
        else:
            axes.axvline(low, color=TARGET_COLOUR, label="target")
    for (name, value), style in zip(shown.thresholds.items(), _THRESHOLD_STYLES, strict=False):
        axes.axvline(value, color=THRESHOLD_COLOUR, linestyle=style, linewidth=1, label=name)
    axes.set(ylabel="% of crystals", xlim=(shown.edges[0], shown.edges[-1]))


def _histogram(shown: Distribution) -> Figure:
    figure, (axes,) = panels(1, 1, 3.4)
    draw_distribution(axes, shown)
    axes.set_xlabel(f"predicted {shown.title}; outliers are in the outermost bins")
    legend_above(figure, axes, 6)
    return figure


def _compositions(formulas: Sequence[str]) -> Figure:
    figure, (axes,) = panels(1, 1, 3.6)
    common = Counter(formulas).most_common(_MOST_COMPOSITIONS)
    bars = axes.bar(range(len(common)), [count for _, count in common], color=GENERATED_COLOUR)
    axes.bar_label(bars, fontsize=7)
    axes.set_xticks(range(len(common)), [name for name, _ in common], rotation=60, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("crystals")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return figure


def _elements(counts: Mapping[str, int], num: int) -> Figure:
    figure, (axes,) = panels(1, 1, 3.6)
    share, symbols = periodic_table(counts, num)
    colours = LinearSegmentedColormap.from_list("share", ["#fde8e4", GENERATED_COLOUR])
    image = axes.pcolormesh(
        np.ma.masked_invalid(share), cmap=colours, edgecolors="white", linewidth=2
    )
    for (row, column), symbol in np.ndenumerate(symbols):
        place = {"ha": "center", "va": "center"}
        if np.isnan(share[row, column]):
            axes.text(column + 0.5, row + 0.5, symbol, fontsize=8, **place)
        else:
            axes.text(column + 0.5, row + 0.35, symbol, fontsize=8, **place)
            axes.text(column + 0.5, row + 0.75, f"{share[row, column]:.3g}", fontsize=5, **place)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_axis_off()
    if np.isfinite(share).any():
        figure.colorbar(image, ax=axes, label="% of crystals", shrink=0.7)
    return figure
