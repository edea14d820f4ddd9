"""The report of `benchmarks.accelerator` as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Title of a column, and its cell for a row; a dash if the row lacks the value.
Column = tuple[str, Callable[[dict[str, Any]], str]]


def _memory(row: Mapping[str, Any]) -> str:
    return f"{row['peak_memory_mb']:,} MB of the {row['memory_of']}"


_COLUMNS: dict[str, Sequence[Column]] = {
    "loss": [
        ("precision", lambda row: row["name"]),
        ("loss", lambda row: f"{row['loss']:.1e}"),
        ("gradient", lambda row: f"{row['gradient']:.1e}"),
        ("within tolerance", lambda row: _yes(row["within"])),
    ],
    "chain": [
        ("10 steps, 20 crystals", lambda row: row["name"]),
        ("other species", lambda row: f"{row['other_species']:.0%}"),
        ("lattice", lambda row: f"{row['lattice']:.1e}"),
        ("coordinates", lambda row: f"{row['frac_coords']:.1e}"),
        ("within tolerance", lambda row: _yes(row["within"])),
    ],
    "whole chain": [
        ("means, in standard errors", lambda row: row["name"]),
        ("accepted", lambda row: f"{row['accepted']:.2f}"),
        ("volume", lambda row: f"{row['volume']:.2f}"),
        ("shortest distance", lambda row: f"{row['shortest distance']:.2f}"),
        ("mean atomic number", lambda row: f"{row['mean atomic number']:.2f}"),
        ("within 4", lambda row: _yes(row["within"])),
    ],
    "sampling": [
        ("crystals", lambda row: row["name"]),
        ("crystals/s", lambda row: f"{row['structures_per_second']:,.1f}"),
        ("compilation", lambda row: f"{row['compile_seconds']:.1f} s"),
        ("peak memory", _memory),
    ],
    "peak": [
        ("products of matrices", lambda row: row["name"]),
        ("TFLOP/s", lambda row: f"{row['tflops']:,.1f}"),
    ],
    "training": [
        ("network, crystals, precision", lambda row: row["name"]),
        ("batch", lambda row: f"{row['batch_size']:,}"),
        ("structures/s", lambda row: f"{row['structures_per_second']:,.0f}"),
        ("share of peak", lambda row: f"{row['share_of_peak']:.2f}"),
        ("compilation", lambda row: f"{row['compile_seconds']:.1f} s"),
        ("peak memory", _memory),
    ],
}
_TITLES = {
    "loss": "Loss and gradient: relative difference from the CPU in float32",
    "chain": "Crystals of the same noise: difference from the CPU in float32",
    "whole chain": "Whole chains: difference from the CPU",
    "sampling": "Sampling, 1000 predictor-corrector steps, scaled up from 50",
    "peak": "Peak",
    "training": "Training",
}


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def agrees(report: Mapping[str, Any]) -> bool:
    """Whether every comparison so far is within its tolerance."""
    return all(
        row["within"] for kind in ("loss", "chain", "whole chain") for row in report.get(kind, [])
    )


def page(report: Mapping[str, Any]) -> str:
    """All tables, and a list of what is missing."""
    lines = [
        f"{report['devices']}, jax {report['jax']}, {report.get('seconds', 0.0):.0f} s"
        f"{', small sizes (--quick)' if report['quick'] else ''}. Peak memory is "
        "measured since the program started."
    ]
    for kind, columns in _COLUMNS.items():
        if rows := report.get(kind):
            lines += ["", f"### {_TITLES[kind]}", ""]
            lines += [_line([title for title, _ in columns]), _line(["---"] * len(columns))]
            lines += [_line([_cell(show, row) for _, show in columns]) for row in rows]
    for kind, names in (("Not measured", report["skipped"]), ("Failed", report["failed"])):
        if names:
            lines += ["", f"{kind}:", ""]
            lines += [f"- {name}{_reason(names, name)}" for name in names]
    return "\n".join(lines) + "\n"


def _cell(show: Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    try:
        return show(row)
    except KeyError:
        return "-"


def _reason(names: Sequence[str] | Mapping[str, str], name: str) -> str:
    return f": {names[name]}" if isinstance(names, Mapping) else " (budget used up)"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
