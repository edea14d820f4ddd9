"""The page itself: one HTML file that needs no network and no other file."""

import dataclasses
import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import ase.data
import ase.data.colors

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.report import cards
from crystal_diffusion_jax.report.entries import Entry

_TEMPLATE = "template.html"


@dataclasses.dataclass(frozen=True)
class Page:
    """All that the file shows.

    Attributes:
      title: heading.
      subtitle: what the crystals were asked to be.
      notes: what is missing and why, one sentence each.
      rates: the scores by title.
      caption: explains them.
      entries: the crystals.
      histogram: plotly figure of the property, None without predictions.
      bars: plotly figure of the compositions.
      elements: plotly figure of the elements.
      property_title: heading of the column of predictions.
      command: what made the crystals, and what made the page.
      versions: one line.
    """

    title: str
    subtitle: str
    notes: Sequence[str]
    rates: dict[str, Rate]
    caption: str
    entries: Sequence[Entry]
    histogram: Any
    bars: Any
    elements: Any
    property_title: str
    command: str
    versions: str


def to_html(page: Page) -> str:
    """The whole file; plotly's script, 5 MB, is in it."""
    import plotly.offline

    symbols = sorted({symbol for entry in page.entries for symbol in entry.symbols})
    data = {
        "property": page.property_title,
        "entries": [dataclasses.asdict(entry) for entry in page.entries],
        "elements": {symbol: _element(symbol) for symbol in symbols},
    }
    parts = {
        "TITLE": html.escape(page.title),
        "SUBTITLE": html.escape(page.subtitle),
        "NOTES": "".join(f'<p class="note">{html.escape(note)}</p>' for note in page.notes),
        "CARDS": cards.to_html(page.rates),
        "CAPTION": html.escape(page.caption),
        "HISTOGRAM": "" if page.histogram is None else _figure(page.histogram, "histogram"),
        "BARS": _figure(page.bars, "bars"),
        "ELEMENTS": _figure(page.elements, "elements"),
        "COMMAND": html.escape(page.command),
        "VERSIONS": html.escape(page.versions),
        # A name in a foreign file must not end the script element.
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "PLOTLY": plotly.offline.get_plotlyjs(),
    }
    folder = importlib.resources.files(__package__ or "")
    pieces = (folder / _TEMPLATE).read_text(encoding="utf-8").split("@@")
    # Odd pieces are names; what is put in is never searched for names itself.
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _figure(figure: Any, name: str) -> str:
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_width="100%",
        config={"responsive": True, "displayModeBar": False},
    )
    return text


def _element(symbol: str) -> Mapping[str, Any]:
    number = ase.data.atomic_numbers[symbol]
    red, green, blue = (round(255 * float(x)) for x in ase.data.colors.jmol_colors[number])
    return {
        "radius": round(float(ase.data.covalent_radii[number]), 3),
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
    }
