"""Judges crystals sampled from a model of the built-in perovskites: a table and a picture.

    python -m experiments.quickstart --samples samples/t080 --out=t080.png
    python -m experiments.quickstart --samples samples/t080 samples/t095 --out=quickstart.png

The tolerance factor of an ABX3 crystal follows from its composition alone, so no network is
needed to say how well the requested value was met.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.limits import MAX_PROPERTY, MAX_RECORD_BYTES, read_json, shown
from crystal_diffusion_jax.data.perovskites import (
    abx3_dataset,
    cell_constant,
    goldschmidt_tolerance_factor,
    identify_abx3,
)
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation import plots
from crystal_diffusion_jax.evaluation.page.pictures import require_matplotlib
from crystal_diffusion_jax.evaluation.sampled import restore
from crystal_diffusion_jax.sampling.record import RECORD
from experiments import cli

# Edges of a good cell may differ from the radii's cell constant by this fraction.
_CELL_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Score:
    """How one set of samples did.

    Attributes:
      target: the requested tolerance factor; None for unconditional samples.
      num_structures: crystals judged.
      num_abx3: those with five atoms, 1:1:3.
      tolerance_factors: of the ABX3 crystals that have charge-neutral ions.
      num_good_cells: of the crystals in `tolerance_factors`, those with all three cell edges
        within 5 % of the cell constant from the radii.
    """

    target: float | None
    num_structures: int
    num_abx3: int
    tolerance_factors: tuple[float, ...]
    num_good_cells: int

    @property
    def mean_absolute_error(self) -> float | None:
        """Mean |t - target|; None without a target or without any neutral ABX3."""
        if self.target is None or not self.tolerance_factors:
            return None
        return float(np.mean(np.abs(np.array(self.tolerance_factors) - self.target)))

    @property
    def share_of_good_cells(self) -> float | None:
        """Share of the neutral ABX3 crystals whose cell fits; None if there are none."""
        if not self.tolerance_factors:
            return None
        return self.num_good_cells / len(self.tolerance_factors)


def score_samples(structures: Sequence[dict[str, Any]], target: float | None) -> Score:
    """Judges crystals by their composition and cell.

    Args:
      structures: each with "lattice" [3, 3] in Angstrom, "frac_coords" [N, 3] and
        "atomic_numbers" [N].
      target: the requested tolerance factor, None if none was.
    """
    num_abx3 = num_good_cells = 0
    tolerance_factors = []
    for structure in structures:
        lattice = np.array(structure["lattice"], dtype=float)
        abx = identify_abx3(
            lattice,
            np.array(structure["frac_coords"], dtype=float),
            np.array(structure["atomic_numbers"], dtype=int),
        )
        if abx is None:
            continue
        num_abx3 += 1
        t, constant = goldschmidt_tolerance_factor(*abx), cell_constant(*abx)
        if t is None or constant is None:
            continue
        tolerance_factors.append(t)
        edges = np.linalg.norm(lattice, axis=-1)
        num_good_cells += int((np.abs(edges / constant - 1) <= _CELL_TOLERANCE).all())
    return Score(target, len(structures), num_abx3, tuple(tolerance_factors), num_good_cells)


def table(scores: Sequence[Score], dataset_t: np.ndarray) -> str:
    """The scores as text, one line per set of samples.

    Args:
      scores: one per set of samples.
      dataset_t: [M] tolerance factors of the built-in data set. Its mean |t - target| is what
        a model that ignores the target would get; it stands in the last column.
    """
    lines = [
        f"{'target':>8} {'crystals':>9} {'ABX3':>5} {'neutral':>8} {'cell within 5 %':>16}"
        f" {'mean t':>7} {'mean |t - target|':>18} {'if ignored':>11}"
    ]
    for score in scores:
        t = score.tolerance_factors
        ignored = None if score.target is None else np.mean(np.abs(dataset_t - score.target))
        lines.append(
            f"{_number(score.target, '.3f'):>8} {score.num_structures:>9} {score.num_abx3:>5}"
            f" {len(t):>8} {_number(score.share_of_good_cells, '.0%'):>16}"
            f" {_number(np.mean(t) if t else None, '.3f'):>7}"
            f" {_number(score.mean_absolute_error, '.3f'):>18} {_number(ignored, '.3f'):>11}"
        )
    return "\n".join(lines)


def plot(scores: Sequence[Score], dataset_t: np.ndarray, path: Path) -> None:
    """Writes a PNG: the tolerance factors of the built-in data set, below them each set of samples.

    Args:
      scores: one panel each, with a line at the target.
      dataset_t: [M] tolerance factors of the built-in data set.
      path: the file to write; missing folders are made.

    Raises:
      UserError: matplotlib is not installed, or the file cannot be written.
    """
    figure_class = require_matplotlib("the picture")
    values = np.concatenate([dataset_t, *(score.tolerance_factors for score in scores)])
    bins = np.linspace(values.min(), values.max(), 41)
    figure = figure_class(figsize=(6.4, 1.6 * (1 + len(scores)) + 0.6), layout="constrained")
    panels = figure.subplots(1 + len(scores), 1, sharex=True, squeeze=False)[:, 0]
    panels[0].hist(dataset_t, bins=bins, color="0.6", label=f"data set ({len(dataset_t)})")
    for panel, score in zip(panels[1:], scores, strict=True):
        count = len(score.tolerance_factors)
        panel.hist(score.tolerance_factors, bins=bins, color="tab:blue", label=f"samples ({count})")
        if score.target is not None:
            label = f"target {score.target:.3f}"
            panel.axvline(score.target, color="tab:red", linestyle="--", label=label)
    for panel in panels:
        panel.legend(loc="upper right", frameon=False)
        panel.set_ylabel("crystals")
    panels[-1].set_xlabel("tolerance factor")
    cli.check_output(path)
    cli.write_output(path, plots.save(figure))


def read_samples(folder: Path) -> tuple[list[dict[str, Any]], float | None]:
    """The structures and the target in a folder's samples.json.

    Raises:
      UserError: the file is missing or is not what experiments.sample writes.
    """
    path = folder / RECORD
    try:
        content = read_json(path, MAX_RECORD_BYTES)
        target = content["target"]
        if target is not None and not abs(target) <= MAX_PROPERTY:
            raise ValueError(f"target is {target!r}")
        structures = []
        for entry in content["structures"]:
            structure = restore(entry, RECORD)
            if isinstance(structure, str):
                raise ValueError(structure)
            structures.append(entry)
        return structures, target
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: give folders that experiments.sample wrote to --samples"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what experiments.sample writes ({shown(repr(error), 300)}): sample "
            "again"
        ) from error


def _number(value: float | np.floating | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def parser() -> cli.Parser:
    """The flags."""
    flags = cli.Parser(prog="python -m experiments.quickstart", description=__doc__)
    flags.add_argument(
        "--samples",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR",
        help="folders written by experiments.sample",
    )
    flags.add_argument("--out", type=Path, required=True, metavar="PNG", help="picture to write")
    return flags


def main() -> None:
    """Prints the table, writes the picture and prints its path."""
    flags = parser().parse_args()
    cli.check_output(flags.out)
    scores = [score_samples(*read_samples(folder)) for folder in flags.samples]
    dataset_t = abx3_dataset().properties[:, 0]
    print(table(scores, dataset_t))
    plot(scores, dataset_t, flags.out)
    print(f"picture: {flags.out}")


if __name__ == "__main__":
    cli.run(main)
