"""The reports of `benchmarks.processor` as Markdown, and the part of README.md that holds them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import Column, extent, median, missing, table
from benchmarks.training_speed import EFFICIENT, FORMS, share_of_peak

REPORTS = Path(__file__).parent / "processors"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- tables of processors/*.json: begin -->", "<!-- end -->"

NAIVE = "naive"


def _structures(row: Mapping[str, Any], form: str) -> Mapping[str, float]:
    rates: Mapping[str, float] = row["forms"][form]["structures_per_second"]
    return rates


def ratio(row: Mapping[str, Any]) -> float:
    """Structures per second of the efficient form over those of the naive one."""
    return _structures(row, EFFICIENT)["median"] / _structures(row, NAIVE)["median"]


COLUMNS: dict[str, Sequence[Column]] = {
    "peak": [
        ("matrix products", lambda row: row["name"]),
        ("TFLOP/s", lambda row: median(row["tflops"])),
        ("range", lambda row: extent(row["tflops"])),
    ],
    "training": [
        ("", lambda row: row["name"]),
        ("batch", lambda row: str(row["batch_size"])),
        *((form, lambda row, form=form: median(_structures(row, form))) for form in FORMS),
        ("range (efficient)", lambda row: extent(_structures(row, EFFICIENT))),
        ("times naive", lambda row: f"{ratio(row):.2f}"),
        ("share of peak", lambda row: f"{row['share_of_peak'][EFFICIENT]:.2f}"),
        ("naive's", lambda row: f"{row['share_of_peak'][NAIVE]:.2f}"),
        ("compilation", lambda row: f"{row['forms'][EFFICIENT]['compile_seconds']:.1f} s"),
    ],
    "PyTorch": [
        ("DiffCSP-like", lambda row: row["name"]),
        ("structures/s", lambda row: median(row["structures_per_second"])),
        ("range", lambda row: extent(row["structures_per_second"])),
        ("weights", lambda row: f"{row['parameters']:,}"),
    ],
    "sampling": [
        ("", lambda row: row["name"]),
        ("calls/s", lambda row: median(row["calls_per_second"])),
        ("range", lambda row: extent(row["calls_per_second"])),
        ("crystals/s of 2,000 calls", lambda row: median(row["crystals_per_second"])),
    ],
    "start": [
        ("", lambda row: row["name"]),
        ("first time", lambda row: _seconds(row["cold"])),
        ("with cached programs", lambda row: _seconds(row["cached"])),
        ("always", lambda row: _seconds(row["seconds"])),
    ],
    "scoring": [
        ("", lambda row: row["name"]),
        ("crystals/s", lambda row: median(row["crystals_per_second"])),
        ("range", lambda row: extent(row["crystals_per_second"])),
        ("core-ms per atom", lambda row: median(row["core_ms_per_atom"])),
        ("its range", lambda row: extent(row["core_ms_per_atom"])),
    ],
}
_TITLES = {
    "peak": "Products of 2048 x 2048 matrices in float32",
    "training": "Training, structures/s",
    "PyTorch": "The same with PyTorch, a DiffCSP-like network",
    "sampling": "Sampling",
    "start": "From the start of a command",
    "scoring": "Scoring",
}


def _seconds(spread: Mapping[str, float]) -> str:
    return f"{median(spread)} s ({extent(spread)})"


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Width -> p of the cost of a structure, N^p, by least squares of its logarithm."""
    found = {}
    for width in sorted({row["width"] for row in rows}):
        same = [row for row in rows if row["width"] == width]
        sizes = np.log([row["num_atoms"] for row in same])
        costs = -np.log([_structures(row, EFFICIENT)["median"] for row in same])
        if len(set(sizes.tolist())) > 1:
            found[width] = float(np.polyfit(sizes, costs, 1)[0])
    return found


def page(report: Mapping[str, Any]) -> str:
    """All tables of a report, and a list of what is missing."""
    machine = report["machine"]
    versions = [f"{name} {version}" for name, version in machine["versions"].items()]
    memory = f", {machine['memory_gb']} GiB" if machine["memory_gb"] else ""
    lines = [
        f"{machine['processor']} (family, model, stepping {machine['family']}; "
        f"{', '.join(machine['instructions'])}), cores: {machine['cores']}, "
        f"{', '.join(machine['caches']) or 'caches unknown'}{memory}; {machine['system']}, Python "
        f"{machine['python']}, {', '.join(versions)}; {machine['date']}, commit "
        f"{machine['commit']}; {report.get('seconds', 0.0):.0f} s"
        f"{', small sizes (--quick)' if report['quick'] else ''}."
    ]
    peaks = [row["tflops"]["median"] for row in report.get("peak", [])]
    for kind, columns in COLUMNS.items():
        rows = report.get(kind, [])
        if not rows:
            continue
        if kind == "training" and peaks:
            peak = float(np.median(peaks))
            rows = [
                row
                | {
                    "share_of_peak": {
                        form: share_of_peak(row, form, peak)
                        for form in FORMS
                        if form in row["forms"]
                    }
                }
                for row in rows
            ]
        lines += ["", f"#### {_TITLES[kind]}", "", *table(columns, rows)]
        if kind == "training" and (found := exponents(rows)):
            growth = ", ".join(f"N^{power:.2f} at width {width}" for width, power in found.items())
            lines += ["", f"The cost of a structure of N atoms grows as {growth}."]
    return "\n".join([*lines, *missing(report)]) + "\n"


def section(folder: Path = REPORTS) -> str:
    """The tables of all reports in a folder, under the names of their files."""
    reports = [(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return "\n".join(f"### {name}\n\n{page(report)}" for name, report in reports)


def with_section(readme: str, tables: str) -> str:
    """The text of README.md with these tables."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"
