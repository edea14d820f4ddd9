"""Rows of docs/table1.md: published figures, our measurements, their file, and the Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from studies import records

# SR5 / SR10 / SR15 as published, by data set; one sample per try unless noted otherwise.
# Papers: CDVAE arXiv:2110.06197, SyMat arXiv:2307.02707, DiffCSP arXiv:2309.04475 (its Table 12),
# Takahara et al. arXiv:2406.09263.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "perov5": {
        "CDVAE, best of 10": (0.52, 0.65, 0.79),
        "SyMat, best of 10": (0.73, 0.80, 0.87),
        "DiffCSP, best of 10": (1.00, 1.00, 1.00),
        "paper, CDI": (0.93, 0.97, 0.98),
        "paper, CDS": (0.97, 0.99, 1.00),
    },
    "carbon24": {
        "CDVAE, best of 10": (0.00, 0.06, 0.06),
        "SyMat, best of 10": (0.06, 0.13, 0.13),
        "DiffCSP, best of 10": (0.50, 0.69, 0.69),
        "paper, CDI": (0.43, 0.56, 0.57),
        "paper, CDS": (0.56, 0.64, 0.64),
    },
    "mp20": {
        "CDVAE, best of 10": (0.78, 0.86, 0.90),
        "SyMat, best of 10": (0.92, 0.97, 0.97),
        "DiffCSP, best of 10": (0.82, 0.98, 1.00),
        "paper, CDI": (0.91, 0.93, 0.95),
        "paper, CDS": (0.63, 0.75, 0.84),
    },
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row that can be measured.

    Attributes:
      model: name of a shipped model, or a model folder.
      dataset: data set whose oracle and thresholds apply.
      guidance: weight of classifier-free guidance.
      renoising_steps: as in `sample`; None for the model's default.
      charge_balance: as in `sample`.
    """

    model: str
    dataset: Literal["perov5", "carbon24", "mp20"]
    guidance: float
    renoising_steps: int | None = None
    charge_balance: bool = False

    @property
    def flags(self) -> list[str]:
        """Flags of `sample` other than model, guidance, number and seed."""
        flags = []
        if self.renoising_steps is not None:
            flags.append(f"--renoising_steps={self.renoising_steps}")
        if self.charge_balance:
            flags.append("--charge_balance")
        return flags

    @property
    def title(self) -> str:
        """Its name in the table."""
        return ", ".join([self.model, f"guidance {self.guidance:g}", *self.flags])


# What docs/table1.md shows.
PAGE = (
    Row("perov5_cdi", "perov5", 0.0),
    Row("perov5_cds", "perov5", 0.0),
    Row("perov5_cds", "perov5", 0.0, renoising_steps=5),
    Row("perov5_cds", "perov5", 0.5),
    Row("carbon24_cdi", "carbon24", 0.0),
    Row("carbon24_cds", "carbon24", 0.0),
    Row("mp20_cdi", "mp20", 0.0, charge_balance=True),
    Row("mp20_cds", "mp20", 0.0, charge_balance=True),
)


class Spread(NamedTuple):
    """Mean and range over the seeds, to six digits; None where a rate is undefined."""

    mean: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        mean, low, high = (f"{value:.3f}" for value in self)
        return mean if low == high else f"{mean} ({low}-{high})"


@dataclasses.dataclass(frozen=True)
class Measured:
    """A row and its scores.

    Attributes:
      row: what was measured.
      num: crystals per seed.
      seeds: number of seeds, 0 .. seeds - 1.
      date: day of the measurement, e.g. 2026-11-23.
      made_with: machine and versions.
      weights_sha256: hash of the model's weights.
      trained_on: number of crystals the model was trained on.
      renoising_steps: the model's default.
      columns: see `spreads`.
    """

    row: Row
    num: int
    seeds: int
    date: str
    made_with: str
    weights_sha256: str
    trained_on: int
    renoising_steps: int
    columns: dict[str, Spread]


# Column -> place of its rate in the files of `experiments.evaluate`.
RATES: Mapping[str, tuple[str, ...]] = {
    **{
        f"{name} {definition}": ("success_rate", definition, name)
        for definition in ("single", "single_valid", "best_of_10")
        for name in NAMES
    },
    "valid": ("validity", "both"),
    "valid structure": ("validity", "structure"),
    "unique": ("diversity", "unique"),
    "novel": ("diversity", "novel"),
    "unique compositions": ("diversity", "unique_compositions"),
    "useful": ("useful",),
    "implausibly low": ("predictions", "implausibly_low"),
}


def spreads(scores: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """The rates over several seeds, by column of `RATES`.

    Args:
      scores: content of the file of `experiments.evaluate` for each seed.
    """
    found = {}
    for column, path in RATES.items():
        values = []
        for score in scores:
            entry: Any = score
            for key in path:
                entry = entry[key]
            values.append(entry["rate"])
        if None in values:
            found[column] = Spread(None, None, None)
        else:
            mean = sum(values) / len(values)
            found[column] = Spread(*(round(x, 6) for x in (mean, min(values), max(values))))
    return found


def read(path: Path) -> list[Measured]:
    """The rows in a file, none if it does not exist.

    Raises:
      UserError: the file has other content.
    """
    measured = records.read(path, list[Measured]) or []
    if any(set(RATES) - set(each.columns) for each in measured):
        raise UserError(f"{path} lacks some columns: remove it, or choose another --out")
    return measured


def merged(former: Sequence[Measured], new: Sequence[Measured]) -> list[Measured]:
    """All rows once, new ones replacing former ones of the same request.

    The order is that of docs/table1.md, then that of arrival.
    """
    rows = {each.row: each for each in [*former, *new]}
    order = [row for row in PAGE if row in rows] + [row for row in rows if row not in PAGE]
    return [rows[row] for row in order]


def markdown(dataset: str, measured: Sequence[Measured]) -> str:
    """Both tables of one data set: success rates next to the published ones, and the rest.

    Args:
      dataset: one of `PUBLISHED`.
      measured: its rows.
    """
    lines = ["| | SR5 | SR10 | SR15 |", "|---|---|---|---|"]
    for title, rates in PUBLISHED[dataset].items():
        lines.append(_line(title, [f"{value:.2f}" for value in rates]))
    for each in measured:
        for definition in ("single", "single_valid", "best_of_10"):
            cells = [str(each.columns[f"{name} {definition}"]) for name in NAMES]
            lines.append(_line(f"**{each.row.title}**, {definition}", cells))
    others = [column for column in RATES if not column.startswith("SR")]
    lines += ["", _line("", [*others, "seeds x crystals, on"]), "|---" * (len(others) + 2) + "|"]
    for each in measured:
        cells = [str(each.columns[column]) for column in others]
        cells.append(f"{each.seeds} x {each.num:,}, {each.date}")
        lines.append(_line(each.row.title, cells))
    return "\n".join(lines)


def _line(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"
