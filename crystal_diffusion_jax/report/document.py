"""The page itself: one HTML file that needs neither a network nor other files."""

import dataclasses
import html
import importlib.resources
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ase.data
import ase.data.colors
from matplotlib.figure import Figure
from pymatgen.core import Element

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.report import cards
from crystal_diffusion_jax.report.cards import Median
from crystal_diffusion_jax.report.columns import History, TableColumn
from crystal_diffusion_jax.report.crystals import Crystal
from crystal_diffusion_jax.report.distribution import place
from crystal_diffusion_jax.report.funnel import Stage
from crystal_diffusion_jax.report.phases import PhaseDiagramPicture
from crystal_diffusion_jax.report.pictures import HISTOGRAM, to_svg
from crystal_diffusion_jax.report.states import State

# In the order in which the page reads them.
_SCRIPTS = ("data.js", "files.js", "viewer.js", "crystal.js", "filters.js", "table.js", "start.js")
_OPERATIONS = "_symmetry_equiv_pos_as_xyz\n"


@dataclasses.dataclass(frozen=True)
class Page:
    """The content of the page.

    Attributes:
      title: heading.
      subtitle: the request in words.
      notes: what is missing and how to get it, a sentence each.
      remarks: what else a reader has to know, a sentence each.
      stages: of the funnel.
      rates: title -> score.
      captions: explanations of the scores, "" for none.
      meanings: title -> what the score is.
      crystals: of the table.
      flags: of each.
      flag_meanings: flag -> what raises it.
      columns: of the table.
      history: lines of a crystal's history.
      order: the crystals' places in the order in which they are shown first.
      order_in_words: the same in a sentence.
      diagrams: phase diagrams.
      pictures: see `pictures.pictures`.
      command: how the crystals and the page were made.
      versions: of the packages, in one line.
      banner: what a reader has to know before all else, "" for nothing.
    """

    title: str
    subtitle: str
    notes: Sequence[str]
    remarks: Sequence[str]
    stages: Sequence[Stage]
    rates: Mapping[str, Rate | Median]
    captions: Sequence[str]
    meanings: Mapping[str, str]
    crystals: Sequence[Crystal]
    flags: Sequence[Sequence[str]]
    flag_meanings: Mapping[str, str]
    columns: Sequence[TableColumn]
    history: Sequence[History]
    order: Sequence[int]
    order_in_words: str
    diagrams: Sequence[PhaseDiagramPicture]
    pictures: Mapping[str, Figure]
    command: str
    versions: str
    banner: str = ""


def to_html(page: Page) -> str:
    """The HTML file."""
    folder = importlib.resources.files(__package__ or "") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    meanings = {title: page.meanings[title] for title in page.rates if title in page.meanings}
    histogram = page.pictures.get(HISTOGRAM)
    parts = {
        "TITLE": html.escape(page.title),
        "SUBTITLE": html.escape(page.subtitle),
        "BANNER": _paragraphs("banner", [page.banner]),
        "NOTES": _paragraphs("note", page.notes),
        "REMARKS": _paragraphs("remark", page.remarks),
        "FUNNEL": _funnel(page.stages),
        "CARDS": cards.to_html(page.rates),
        "CAPTIONS": _paragraphs("caption", page.captions),
        "MEANINGS": cards.meanings_to_html(meanings),
        "FLAGS": cards.meanings_to_html(page.flag_meanings),
        "ORDER": html.escape(page.order_in_words),
        "HISTOGRAM": "" if histogram is None else to_svg(histogram),
        "COMMAND": html.escape(page.command),
        "VERSIONS": html.escape(page.versions),
        # A "</script>" in a file name must not end the script element.
        "DATA": json.dumps(_data(page), allow_nan=False, separators=(",", ":"))
        .replace("<", "\\u003c"),
        "STYLE": read("page.css"),
        "SCRIPT": "\n".join(map(read, _SCRIPTS)),
    }  # fmt: skip
    pieces = read("page.html").split("@@")
    # Odd pieces are names. Inserted text is not searched for names.
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _paragraphs(kind: str, texts: Sequence[str]) -> str:
    return "".join(f'<p class="{kind}">{html.escape(text)}</p>' for text in texts if text)


def _funnel(stages: Sequence[Stage]) -> str:
    """A list of stages, with bars as long as the shares of the first one."""
    first = max((stage.count for stage in stages), default=0) or 1
    return "".join(
        f'<li><span class="stage">{html.escape(stage.name)}</span>'
        f'<span class="bar" style="width: {100 * stage.count / first:.1f}%"></span>'
        f'<span class="count">{stage.count:,}</span></li>'
        for stage in stages
    )


def _data(page: Page) -> dict[str, Any]:
    """Everything that the script needs, as compact as is simple."""
    operations: dict[str, int] = {}
    counts: Counter[str] = Counter()
    listed = []
    for crystal in page.crystals:
        symbols = crystal.generated.symbols
        counts.update(set(symbols))
        states = {"generated": _drawn(crystal.generated, operations)}
        if crystal.relaxed is not None and crystal.relaxed.state is not None:
            states["relaxed"] = _drawn(crystal.relaxed.state, operations)
        listed.append({"symbols": symbols, **states})
    return {
        "columns": [dataclasses.asdict(column) for column in page.columns],
        "history": [dataclasses.asdict(line) for line in page.history],
        "crystals": listed,
        "flags": page.flags,
        "order": page.order,
        "operations": list(operations),
        "elements": {symbol: _element(symbol, counts) for symbol in ase.data.chemical_symbols[1:]},
        "diagrams": [dataclasses.asdict(diagram) for diagram in page.diagrams],
    }


def _drawn(state: State, operations: dict[str, int]) -> dict[str, Any]:
    """A structure and its CIF, whose symmetry operations are listed once for all crystals."""
    start = state.cif.index(_OPERATIONS) + len(_OPERATIONS)
    end = state.cif.index("loop_", start)
    number = operations.setdefault(state.cif[start:end], len(operations))
    return {
        "lattice": state.lattice,
        "frac_coords": state.frac_coords,
        "cif": [state.cif[:start], number, state.cif[end:]],
    }


def _element(symbol: str, counts: Mapping[str, int]) -> Mapping[str, Any]:
    number = ase.data.atomic_numbers[symbol]
    row, column = place(Element(symbol))
    found = {"name": ase.data.atomic_names[number], "row": row, "column": column}
    if symbol not in counts:
        return found
    red, green, blue = (round(255 * float(x)) for x in ase.data.colors.jmol_colors[number])
    return found | {
        "count": counts[symbol],
        "radius": round(float(ase.data.covalent_radii[number]), 3),
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
    }
