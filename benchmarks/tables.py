"""Rows of reports as Markdown tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Title of a column, and its cell for a row; a dash if the row lacks the value.
Column = tuple[str, Callable[[dict[str, Any]], str]]


def table(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table; columns that no row has a value for are left out."""
    cells = [[_cell(show, row) for _, show in columns] for row in rows]
    kept = [i for i in range(len(columns)) if any(line[i] != "-" for line in cells)]
    titles = [columns[i][0] for i in kept]
    return [
        _line(titles),
        f"|{'---|' * len(kept)}",
        *(_line([line[i] for i in kept]) for line in cells),
    ]


def summary(columns: Sequence[Column], row: dict[str, Any]) -> str:
    """One line for a row, without its name in the first column."""
    cells = [(title, _cell(show, row)) for title, show in columns[1:]]
    return ", ".join(f"{title} {cell}" for title, cell in cells if cell != "-")


def missing(report: Mapping[str, Any]) -> list[str]:
    """Lists of what was skipped and what failed."""
    reasons = dict.fromkeys(report["skipped"], "budget used up")
    lines: list[str] = []
    for title, names in (("Not measured", reasons), ("Failed", report["failed"])):
        if names:
            lines += ["", f"{title}:", "", *(f"- {name} ({why})" for name, why in names.items())]
    return lines


def number(value: float) -> str:
    """Three digits at least, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median(spread: Mapping[str, float]) -> str:
    """The median of repeats."""
    return number(spread["median"])


def extent(spread: Mapping[str, float]) -> str:
    """The range of repeats."""
    return f"{number(spread['low'])} to {number(spread['high'])}"


def yes(value: bool) -> str:
    """Yes, or a no that is seen."""
    return "yes" if value else "**no**"


def _cell(show: Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    try:
        return show(row)
    except KeyError:
        return "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
