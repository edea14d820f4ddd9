"""The page's pictures, made with plotly: histogram, compositions, periodic table."""

from collections.abc import Mapping, Sequence
from typing import Any

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.report import distribution
from crystal_diffusion_jax.report.distribution import Distribution

_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "height": 380,
    "margin": {"l": 60, "r": 20, "t": 40, "b": 60},
    "font": {"family": "system-ui, sans-serif", "size": 13},
}
TRAINING_COLOUR = "#9aa5b1"
GENERATED_COLOUR = "#d1495b"
TARGET_COLOUR = "#1b7f3b"
THRESHOLD_COLOUR = "#555555"


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


def histogram(shown: Distribution) -> Any:
    """Predicted property of the generated crystals over that of the training set."""
    go = require_plotly()
    figure = go.Figure()
    centres = (shown.edges[:-1] + shown.edges[1:]) / 2
    for name, share, colour in (
        ("training set", shown.training, TRAINING_COLOUR),
        ("generated", shown.generated, GENERATED_COLOUR),
    ):
        if share is not None:
            figure.add_bar(x=centres, y=share, name=name, marker_color=colour, opacity=0.75)
    if shown.target is not None:
        low, high = shown.target
        label = {"text": "target", "font": {"color": TARGET_COLOUR}}
        if low < high:
            band = {"fillcolor": TARGET_COLOUR, "opacity": 0.18, "line_width": 0, "layer": "below"}
            place = {"annotation_position": "top left", "annotation": label}
            figure.add_vrect(x0=low, x1=high, **band, **place)
        else:
            figure.add_vline(x=low, line={"color": TARGET_COLOUR}, annotation=label)
    for rank, (name, value) in enumerate(shown.thresholds.items(), start=1):
        # One below the other, because the thresholds are close together.
        figure.add_vline(
            x=value,
            line={"dash": "dot", "color": THRESHOLD_COLOUR},
            annotation={"text": name, "yshift": -16 * rank},
        )
    figure.update_layout(
        **_LAYOUT,
        barmode="overlay",
        bargap=0,
        showlegend=True,
        xaxis={"title": shown.title, "range": [shown.edges[0], shown.edges[-1]]},
        yaxis_title="% of crystals",
    )
    return figure


def composition_bars(formulas: Sequence[str]) -> Any:
    """The most frequent compositions."""
    go = require_plotly()
    common = distribution.common_compositions(formulas)
    figure = go.Figure()
    names, counts = [name for name, _ in common], [count for _, count in common]
    figure.add_bar(x=names, y=counts, marker_color=GENERATED_COLOUR)
    figure.update_layout(**_LAYOUT, yaxis_title="crystals", xaxis_tickangle=-60)
    if max(counts, default=0) < 5:
        figure.update_yaxes(dtick=1)  # no halves of crystals
    return figure


def periodic_table(counts: Mapping[str, int], num: int) -> Any:
    """Share of the crystals that hold each element, on the periodic table.

    Args:
      counts: symbol -> crystals.
      num: crystals in all.
    """
    go = require_plotly()
    share, symbols = distribution.periodic_table(counts, num)
    figure = go.Figure()
    figure.add_heatmap(
        z=share,
        text=symbols,
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
