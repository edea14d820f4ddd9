"""The report of `benchmarks.accelerator` as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tables import Column, extent, median, missing, table, yes
from benchmarks.training_speed import EFFICIENT


def _memory(row: Mapping[str, Any]) -> str:
    return f"{row['peak_memory_mb']:,} MB of the {row['memory_of']}"


COLUMNS: dict[str, Sequence[Column]] = {
    "loss": [
        ("precision", lambda row: row["name"]),
        ("loss", lambda row: f"{row['loss']:.1e}"),
        ("gradient", lambda row: f"{row['gradient']:.1e}"),
        ("within tolerance", lambda row: yes(row["within"])),
    ],
    "chain": [
        ("10 steps, 20 crystals", lambda row: row["name"]),
        ("other species", lambda row: f"{row['other_species']:.0%}"),
        ("lattice", lambda row: f"{row['lattice']:.1e}"),
        ("coordinates", lambda row: f"{row['frac_coords']:.1e}"),
        ("within tolerance", lambda row: yes(row["within"])),
    ],
    "whole chain": [
        ("means, in standard errors", lambda row: row["name"]),
        ("accepted", lambda row: f"{row['accepted']:.2f}"),
        ("volume", lambda row: f"{row['volume']:.2f}"),
        ("shortest distance", lambda row: f"{row['shortest distance']:.2f}"),
        ("mean atomic number", lambda row: f"{row['mean atomic number']:.2f}"),
        ("within 4", lambda row: yes(row["within"])),
    ],
    "sampling": [
        ("crystals", lambda row: row["name"]),
        ("crystals/s", lambda row: median(row["crystals_per_second"])),
        ("range", lambda row: extent(row["crystals_per_second"])),
        ("compilation", lambda row: f"{row['compile_seconds']:.1f} s"),
        ("peak memory", _memory),
    ],
    "peak": [
        ("products of matrices", lambda row: row["name"]),
        ("TFLOP/s", lambda row: median(row["tflops"])),
        ("range", lambda row: extent(row["tflops"])),
    ],
    "training": [
        ("network, crystals, precision", lambda row: row["name"]),
        ("batch", lambda row: f"{row['batch_size']:,}"),
        ("structures/s", lambda row: median(row["forms"][EFFICIENT]["structures_per_second"])),
        ("range", lambda row: extent(row["forms"][EFFICIENT]["structures_per_second"])),
        ("share of peak", lambda row: f"{row['share_of_peak']:.2f}"),
        ("compilation", lambda row: f"{row['forms'][EFFICIENT]['compile_seconds']:.1f} s"),
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
    for kind, columns in COLUMNS.items():
        if rows := report.get(kind):
            lines += ["", f"### {_TITLES[kind]}", "", *table(columns, rows)]
    return "\n".join([*lines, *missing(report)]) + "\n"
