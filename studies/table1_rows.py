"""Rows of docs/table1.md: published figures, our measurements, controls, file and Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from studies import records
from studies.table1_columns import RATES, RELAXED, SCORES, Estimate, Spread

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


# What part of a data set the shipped models were trained on, where that is not a random one.
PART: Mapping[str, str] = {"mp20": "binary and ternary"}
TITLES: Mapping[str, str] = {
    "training_band": "training crystals that reach SR5",
    "substituted": "one-element substitutions in them",
    "held_out": "held-out test crystals",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row that can be measured.

    Attributes:
      model: name of a shipped model, or a model folder.
      dataset: data set whose oracle and thresholds apply.
      guidance: weight of classifier-free guidance.
      sampler: as in `sample`; None for the model's own.
      charge_balance: as in `sample`.
    """

    model: str
    dataset: Literal["perov5", "carbon24", "mp20"]
    guidance: float
    sampler: Literal["paper"] | None = None
    charge_balance: bool = False

    @property
    def flags(self) -> list[str]:
        """Flags of `sample` other than model, guidance, number and seed."""
        flags = []
        if self.sampler is not None:
            flags.append(f"--sampler={self.sampler}")
        if self.charge_balance:
            flags.append("--charge_balance")
        return flags

    @property
    def title(self) -> str:
        """Its name in the table."""
        # A model of one's own may be trained on all of MP-20.
        part = [PART[self.dataset]] if self.dataset in PART and "/" not in self.model else []
        return ", ".join([self.model, *part, f"guidance {self.guidance:g}", *self.flags])


# What docs/table1.md shows.
PAGE = (
    Row("perov5_cdi", "perov5", 0.0),
    Row("perov5_cdi", "perov5", 0.0, sampler="paper"),
    Row("perov5_cds", "perov5", 0.0),
    Row("perov5_cds", "perov5", 0.0, sampler="paper"),
    Row("perov5_cds", "perov5", 0.5),
    Row("carbon24_cdi", "carbon24", 0.0),
    Row("carbon24_cds", "carbon24", 0.0),
    Row("mp20_cdi", "mp20", 0.0, charge_balance=True),
    Row("mp20_cdi", "mp20", 0.0, sampler="paper", charge_balance=True),
    Row("mp20_cds", "mp20", 0.0, charge_balance=True),
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A row and its scores.

    Attributes:
      row: what was measured.
      num: crystals per seed.
      first_seed: the first of consecutive seeds.
      seeds: number of seeds.
      date: day of the measurement, e.g. 2026-11-23.
      made_with: machine and versions.
      weights_sha256: hash of the model's weights.
      trained_on: number of crystals the model was trained on.
      sampler: its settings, in words (`SolverSettings`).
      columns: see `spreads`.
      beside_controls: scores of the first crystals of the first seed, before and after relaxing;
        see `estimates`. Empty if none were relaxed.
    """

    row: Row
    num: int
    first_seed: int
    seeds: int
    date: str
    made_with: str
    weights_sha256: str
    trained_on: int
    sampler: str
    columns: dict[str, Spread]
    beside_controls: dict[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Control:
    """Scores of a control, see `evaluation.controls`.

    Attributes:
      dataset: its data set.
      name: of the control.
      columns: see `estimates`.
    """

    dataset: str
    name: str
    columns: dict[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Table:
    """What the file holds: rows and controls, each once."""

    rows: list[Measured]
    controls: list[Control]


def read(path: Path) -> Table:
    """The content of a file, empty if it does not exist.

    Raises:
      UserError: the file has other content.
    """
    table = records.read(path, Table) or Table([], [])
    if any(set(RATES) - set(each.columns) for each in table.rows) or any(
        {*SCORES, *RELAXED} - set(columns)
        for columns in (
            *(each.beside_controls for each in table.rows if each.beside_controls),
            *(each.columns for each in table.controls),
        )
    ):
        raise UserError(f"{path} lacks some columns: remove it, or choose another --out")
    return table


def merged(former: Table, rows: Sequence[Measured], controls: Sequence[Control]) -> Table:
    """All rows and controls once, new ones replacing former ones of the same request.

    The order of rows is that of docs/table1.md, then that of arrival.
    """
    by_row = {each.row: each for each in [*former.rows, *rows]}
    order = [row for row in PAGE if row in by_row] + [row for row in by_row if row not in PAGE]
    by_name = {(each.dataset, each.name): each for each in [*former.controls, *controls]}
    return Table([by_row[row] for row in order], list(by_name.values()))


def markdown(dataset: str, table: Table) -> str:
    """The tables of one data set: success rates next to the published ones, the rest, controls.

    Args:
      dataset: one of `PUBLISHED`.
      table: rows and controls, those of other data sets among them.
    """
    measured = [each for each in table.rows if each.row.dataset == dataset]
    below = "below training range"
    lines = [_line("", [*NAMES, below]), "|---|---|---|---|---|"]
    for title, rates in PUBLISHED[dataset].items():
        lines.append(_line(title, [*(f"{value:.2f}" for value in rates), "-"]))
    for each in measured:
        for definition in ("single", "single_valid", "best_of_10"):
            cells = [str(each.columns[f"{name} {definition}"]) for name in NAMES]
            cells.append(str(each.columns[below]))
            lines.append(_line(f"**{each.row.title}**, {definition}", cells))
    others = [column for column in RATES if not column.startswith("SR") and column != below]
    headers = [*others, "seeds x crystals, on", "sampler"]
    lines += ["", _line("", headers), "|---" * (len(headers) + 1) + "|"]
    for each in measured:
        cells = [str(each.columns[column]) for column in others]
        last = each.first_seed + each.seeds - 1
        seeds = f"{each.first_seed}-{last}" if each.seeds > 1 else str(last)
        cells += [f"{seeds} x {each.num:,}, {each.date}", each.sampler]
        lines.append(_line(each.row.title, cells))
    sets = {each.row.title: each.beside_controls for each in measured if each.beside_controls}
    sets |= {
        f"control: {TITLES[each.name]}": each.columns
        for each in table.controls
        if each.dataset == dataset
    }
    if sets:
        for columns in (SCORES, RELAXED):
            lines += ["", _line("", ["n", *columns]), "|---" * (len(columns) + 2) + "|"]
            for title, found in sets.items():
                number = str(found["valid"].n)
                lines.append(_line(title, [number, *(str(found[column]) for column in columns)]))
    return "\n".join(lines)


def _line(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"
