"""The page's pictures, made with plotly: histogram, compositions, periodic table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymatgen.core import Element

from crystal_diffusion_jax.errors import UserError

_MOST_COMPOSITIONS = 30
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "height": 380,
    "margin": {"l": 60, "r": 20, "t": 40, "b": 60},
    "font": {"family": "system-ui, sans-serif", "size": 13},
}
TRAINING_COLOUR = "#9aa5b1"
GENERATED_COLOUR = "#d1495b"


def require_plotly() -> Any:
    """The module plotly.graph_objects.

    Raises:
      UserError: the extra `plots` is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise UserError("the report needs plotly: pip install '.[plots]'") from error
    return plotly.graph_objects


def histogram(
    values: np.ndarray,
    train_values: np.ndarray,
    thresholds: Mapping[str, float],
    target: float | None,
    title: str,
) -> Any:
    """Predicted property of the generated crystals over that of the training set.

    Args:
      values: [n] predictions; those that are not finite are left out.
      train_values: [m] labels.
      thresholds: name -> value, drawn as lines.
      target: what was asked for, drawn as a line.
      title: name and unit of the property.
    """
    go = require_plotly()
    shown = values[np.isfinite(values)]
    # Outliers of the judge, up to millions of eV, would hide all others: to the last bins.
    low, high = np.min(train_values), np.max(train_values)
    margin = 0.1 * max(high - low, 1e-6)
    edges = np.linspace(low - margin, high + margin, 61)
    shown = np.clip(shown, edges[0], np.nextafter(edges[-1], edges[0]))
    figure = go.Figure()
    for name, numbers, colour in (
        ("training set", train_values, TRAINING_COLOUR),
        ("generated", shown, GENERATED_COLOUR),
    ):
        counts, _ = np.histogram(numbers, edges)
        share = 100.0 * counts / max(len(numbers), 1)
        centres = (edges[:-1] + edges[1:]) / 2
        figure.add_bar(x=centres, y=share, name=name, marker_color=colour, opacity=0.75)
    marks = [(name, value, "#555", "dot") for name, value in thresholds.items()]
    if target is not None:
        marks.append(("target", target, "#1b7f3b", "solid"))
    for place, (name, value, colour, dash) in enumerate(marks):
        # One below the other, because the thresholds are close together.
        figure.add_vline(
            x=value,
            line={"dash": dash, "color": colour},
            annotation={"text": name, "yshift": -16 * place},
        )
    figure.update_layout(
        **_LAYOUT, barmode="overlay", bargap=0, xaxis_title=title, yaxis_title="% of crystals"
    )
    return figure


def composition_bars(formulas: Sequence[str]) -> Any:
    """The most frequent compositions."""
    go = require_plotly()
    common = Counter(formulas).most_common(_MOST_COMPOSITIONS)
    figure = go.Figure()
    names, counts = [name for name, _ in common], [count for _, count in common]
    figure.add_bar(x=names, y=counts, marker_color=GENERATED_COLOUR)
    figure.update_layout(**_LAYOUT, yaxis_title="crystals", xaxis_tickangle=-60)
    return figure


def periodic_table(counts: Mapping[str, int], num: int) -> Any:
    """Share of the crystals that hold each element, on the periodic table.

    Args:
      counts: symbol -> crystals.
      num: crystals in all.
    """
    go = require_plotly()
    share = np.full((9, 18), np.nan)  # drawn without colour
    text = np.full((9, 18), "", dtype=object)
    for number in range(1, 119):
        element = Element.from_Z(number)
        row, column = _place(element)
        text[row, column] = element.symbol
        if element.symbol in counts:
            share[row, column] = 100.0 * counts[element.symbol] / max(num, 1)
    figure = go.Figure()
    figure.add_heatmap(
        z=share,
        text=text,
        texttemplate="%{text}",
        colorscale=[[0, "#fde8e4"], [1, GENERATED_COLOUR]],
        hovertemplate="%{text}: %{z:.1f} % of crystals<extra></extra>",
        colorbar={"title": "%"},
        xgap=2,
        ygap=2,
    )
    axis = {"visible": False}
    figure.update_layout(**_LAYOUT, xaxis=axis, yaxis={**axis, "autorange": "reversed"})
    return figure


def _place(element: Element) -> tuple[int, int]:
    """Row and column; lanthanides and actinides below the others."""
    if element.is_lanthanoid or element.is_actinoid:
        first = 57 if element.is_lanthanoid else 89
        return (7 if element.is_lanthanoid else 8), 2 + element.Z - first
    return int(element.row) - 1, int(element.group) - 1
