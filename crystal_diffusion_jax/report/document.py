"""The page itself: one HTML file that needs neither a network nor other files."""

import dataclasses
import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import ase.data
import ase.data.colors
from matplotlib.figure import Figure

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.report import cards, relaxed_cards
from crystal_diffusion_jax.report.cards import Median
from crystal_diffusion_jax.report.entries import Entry
from crystal_diffusion_jax.report.pictures import COMPOSITIONS, ELEMENTS, HISTOGRAM, to_svg
from crystal_diffusion_jax.report.relaxed import RelaxedEntry


@dataclasses.dataclass(frozen=True)
class Page:
    """The content of the page.

    Attributes:
      title: heading.
      subtitle: the request in words.
      notes: what is missing and why, a sentence each.
      rates: title -> score.
      caption: explanation of the scores.
      entries: the crystals.
      pictures: see `pictures.pictures`.
      property_title: heading of the column of predictions.
      command: how the crystals and the page were made.
      versions: of the packages, in one line.
      banner: what a reader has to know first, "" for nothing.
      relaxed: what relaxing each entry gave, None where it was not tried; empty without.
      relaxed_scores: title -> score of the relaxed crystals.
      relaxed_caption: how they were relaxed.
    """

    title: str
    subtitle: str
    notes: Sequence[str]
    rates: dict[str, Rate]
    caption: str
    entries: Sequence[Entry]
    pictures: Mapping[str, Figure]
    property_title: str
    command: str
    versions: str
    banner: str = ""
    relaxed: Sequence[RelaxedEntry | None] = ()
    relaxed_scores: Mapping[str, Rate | Median] = dataclasses.field(default_factory=dict)
    relaxed_caption: str = ""


def to_html(page: Page) -> str:
    """The HTML file, including 5 MB of plotly's script for the 3-D structures."""
    import plotly.offline

    symbols = sorted({symbol for entry in page.entries for symbol in entry.symbols})
    data: dict[str, Any] = {
        "property": page.property_title,
        "entries": [dataclasses.asdict(entry) for entry in page.entries],
        "elements": {symbol: _element(symbol) for symbol in symbols},
        "meanings": cards.MEANINGS,
    }
    if page.relaxed:
        data["relaxed"] = [crystal and dataclasses.asdict(crystal) for crystal in page.relaxed]
        data["meanings"] = cards.MEANINGS | relaxed_cards.MEANINGS
    folder = importlib.resources.files(__package__ or "")
    svg = {name: to_svg(figure) for name, figure in page.pictures.items()}
    parts = {
        "TITLE": html.escape(page.title),
        "SUBTITLE": html.escape(page.subtitle),
        "BANNER": f'<p class="banner">{html.escape(page.banner)}</p>' if page.banner else "",
        "NOTES": "".join(f'<p class="note">{html.escape(note)}</p>' for note in page.notes),
        "CARDS": cards.to_html(page.rates, cards.MEANINGS),
        "CAPTION": html.escape(page.caption),
        "RELAXED_CARDS": cards.to_html(page.relaxed_scores, relaxed_cards.MEANINGS),
        "RELAXED_CAPTION": html.escape(page.relaxed_caption),
        "MEANINGS": cards.meanings_to_html(page.rates, cards.MEANINGS)
        + cards.meanings_to_html(page.relaxed_scores, relaxed_cards.MEANINGS),
        "HISTOGRAM": svg.get(HISTOGRAM, ""),
        "BARS": svg[COMPOSITIONS],
        "ELEMENTS": svg[ELEMENTS],
        "COMMAND": html.escape(page.command),
        "VERSIONS": html.escape(page.versions),
        # A "</script>" in a file name must not end the script element.
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "PLOTLY": plotly.offline.get_plotlyjs(),
        "RELAXED_SCRIPT": (folder / "relaxed.js").read_text(encoding="utf-8"),
    }
    pieces = (folder / "template.html").read_text(encoding="utf-8").split("@@")
    # Odd pieces are names. Inserted text is not searched for names.
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _element(symbol: str) -> Mapping[str, Any]:
    number = ase.data.atomic_numbers[symbol]
    red, green, blue = (round(255 * float(x)) for x in ase.data.colors.jmol_colors[number])
    return {
        "radius": round(float(ase.data.covalent_radii[number]), 3),
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
    }
