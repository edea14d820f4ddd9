"""Measures every row of docs/table1.md: samples from the shipped models, judges, writes the page.

    python -m experiments.table1 --out=table1.md
    python -m experiments.table1 --out=row.md --models=perov5_cds --guidance=1 --seeds=1

Without a flag that chooses rows: those of that page. Each crystal set is made and scored by the
commands that a user has, which are printed. Rows are kept in a JSON file beside the page, which
shows them all; what it or --work holds is not done again.
"""

import datetime
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from crystal_diffusion_jax import __version__, trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError, shown
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json
from crystal_diffusion_jax.sampling.resolve import MAX_RENOISING_STEPS
from crystal_diffusion_jax.structures.store import read_request
from crystal_diffusion_jax.trained_model import TrainedModel
from studies import table1_file
from studies.table1_rows import PAGE, PUBLISHED, Measured, Row, markdown, spreads

_Number = TypeVar("_Number", int, float)

HEAD = """# Success rates at the lowest property, ours and published

Mean over the seeds, and range where they differ; no crystal sorted out. `single` counts every
crystal as one try, `single_valid` an invalid one as a failure, `best_of_10` asks for one success
among ten. A prediction below the training minimum less three times the judge's error is a failure.
Useful: valid, SR5, distinct and not in the training set, all at once. The published figures are for
models of the official training sets.

"""


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.table1", description=__doc__)
    flags.add_argument("--out", type=Path, required=True, help="Markdown file")
    flags.add_argument("--models", help="with commas between (default: all shipped)")
    flags.add_argument("--guidance", help="weights (default: 0)")
    flags.add_argument("--renoising_steps", help="numbers, as in sample (default: the model's)")
    flags.add_argument("--charge_balance", action="store_true", help="as in sample")
    flags.add_argument("--num", type=int, default=1000, help="crystals (default: %(default)s)")
    flags.add_argument("--seeds", type=int, default=3, help="repetitions (default: %(default)s)")
    flags.add_argument(
        "--work",
        type=Path,
        default=Path("samples/table1"),
        help="folder for the crystals and their scores (default: %(default)s)",
    )
    return flags


def rows(
    models: str | None,
    guidance: str | None,
    renoising_steps: str | None,
    charge_balance: bool = False,
) -> Sequence[Row]:
    """The rows that are asked for; those of the page if nothing is.

    Raises:
      UserError: a model that is not there or of another data set, or what should be numbers.
    """
    if models is guidance is renoising_steps is None and not charge_balance:
        return PAGE
    names = models.split(",") if models else trained_model.shipped_names()
    weights = _numbers("guidance", guidance, float) if guidance is not None else [0.0]
    steps: Sequence[int | None] = [None]
    if renoising_steps is not None:
        steps = _numbers("renoising_steps", renoising_steps, int)
    found = []
    for name in names:
        dataset = trained_model.load(name).config.data.name
        if dataset not in PUBLISHED:
            raise UserError(
                f"--models: {name} is of the data set {dataset!r}, which has no judge; those of "
                f"{', '.join(PUBLISHED)} have"
            )
        found += [
            Row(name, dataset, weight, number, charge_balance)
            for weight in weights
            for number in steps
        ]
    return found


def _numbers(flag: str, text: str, kind: type[_Number]) -> list[_Number]:
    try:
        numbers = [kind(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    low, high = (0, MAX_RENOISING_STEPS) if kind is int else (-math.inf, math.inf)
    if not numbers or not all(low <= each <= high and math.isfinite(each) for each in numbers):
        what = f"whole numbers from {low} to {high}" if kind is int else "numbers"
        raise UserError(f"--{flag}={text} must be {what} with commas between")
    return numbers


def measure(row: Row, weights_sha256: str, seed: int, num: int, work: Path) -> dict[str, Any]:
    """Scores of one row and seed; made unless they are there.

    Raises:
      UserError: the folder holds crystals of other weights, or another number of them.
    """
    special = "".join(flag.replace("--", "_").replace("=", "") for flag in row.flags)
    out = work / f"{Path(row.model).name}_guidance{row.guidance:g}{special}_seed{seed}"
    scores = out / "metrics.json"
    if scores.exists() and _made_by(out) != weights_sha256:
        raise UserError(
            f"{out} holds crystals of other weights than those of {row.model}: use another --work"
        )
    if not scores.exists():
        start = time.monotonic()
        _run("sample", f"--model={row.model}", "--target=min", f"--guidance={row.guidance:g}",
             *row.flags, f"--num={num}", f"--seed={seed}", "--batch_size=200",
             f"--out={out}")  # fmt: skip
        _run("evaluate", f"--structures={out}", f"--dataset={row.dataset}", f"--out={scores}")
        print(f"{row.title}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    try:
        content: dict[str, Any] = read_json(scores, MAX_RECORD_BYTES)
        asked_for = content["counts"]["asked_for"]
        spreads([content])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{scores} is damaged ({shown(repr(error), 300)}): remove it, or use another --work"
        ) from error
    if asked_for != num:
        raise UserError(f"{out} holds {asked_for} crystals, not {num}: use another --work")
    return content


def _made_by(samples: Path) -> str | None:
    """Hash of the weights that made the crystals, None if it is not recorded."""
    stored = read_request(samples)
    return stored.request.model_sha256 if stored else None


def _run(program: str, *arguments: str) -> None:
    command = ["python", "-m", f"experiments.{program}", *arguments]
    print(" ".join(command), flush=True)
    done = subprocess.run([sys.executable, *command[1:]], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise UserError(f"experiments.{program} ended with status {done.returncode}, see above")


def about(table: Sequence[Measured]) -> str:
    """On how many crystals the models of one data set were trained, and how they sample."""
    sizes = sorted({each.trained_on for each in table})
    text = f"Our models are trained on {' or '.join(f'{n:,}' for n in sizes)} crystals."
    relaxed = {each.row.model: each.renoising_steps for each in table if each.renoising_steps}
    for number in sorted(set(relaxed.values())):
        names = [f"`{name}`" for name, steps in relaxed.items() if steps == number]
        verb = "relaxes" if len(names) == 1 else "relax"
        text += (
            f" {' and '.join(names)} {verb} with {number} steps where a row has no other number."
        )
    return text


def page(measured: Sequence[Measured]) -> str:
    """The whole page, in Markdown."""
    text = HEAD
    for dataset in PUBLISHED:
        if table := [each for each in measured if each.row.dataset == dataset]:
            text += f"## {dataset}\n\n{about(table)}\n\n{markdown(dataset, table)}\n\n"
    made_with = "; ".join(dict.fromkeys(each.made_with for each in measured))
    return text + f"Made by `python -m experiments.table1` on {made_with}.\n"


def missing_rows(
    asked: Sequence[Row], num: int, seeds: int, measured: Sequence[Measured], rows_file: Path
) -> list[tuple[Row, TrainedModel]]:
    """The rows that are still to be measured, and their models.

    Args:
      asked: rows.
      num: crystals for each seed.
      seeds: how many.
      measured: what the file holds.
      rows_file: the file.

    Raises:
      UserError: a model is not there, or the file's row of the same weights has more crystals.
    """
    former = {each.row: each for each in measured}
    missing = []
    for row in asked:
        model, there = trained_model.load(row.model), former.get(row)
        if there is None or there.weights_sha256 != model.weights_sha256:
            missing.append((row, model))
        elif (there.num, there.seeds) == (num, seeds):
            print(f"{row.title} is in {rows_file}")
        elif there.num * there.seeds > num * seeds:
            raise UserError(
                f"{rows_file} holds {row.title} with {there.seeds} x {there.num} crystals, and "
                f"{seeds} x {num} would replace them: name another --out"
            )
        else:
            missing.append((row, model))
    return missing


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    for name in ("num", "seeds"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name}={getattr(flags, name)} must be at least 1")
    rows_file = flags.out.with_suffix(".json")
    if rows_file == flags.out:
        raise UserError(f"--out={flags.out} is the name of the rows' file: end it in .md")
    for path in (flags.out, rows_file):
        program.check_output(path)
    asked = rows(flags.models, flags.guidance, flags.renoising_steps, flags.charge_balance)
    measured = table1_file.read(rows_file)
    made_with = (
        f"{os.cpu_count()} cores ({platform.machine()}), crystal_diffusion_jax {__version__}, "
        f"jax {jax.__version__}"
    )
    for row, model in missing_rows(asked, flags.num, flags.seeds, measured, rows_file):
        scores = [
            measure(row, model.weights_sha256, seed, flags.num, flags.work)
            for seed in range(flags.seeds)
        ]
        new = Measured(
            row=row,
            num=flags.num,
            seeds=flags.seeds,
            date=datetime.date.today().isoformat(),
            made_with=made_with,
            weights_sha256=model.weights_sha256,
            # The model's own: the data set at hand may be another split of the same crystals.
            trained_on=sum(n for _, n in model.statistics.num_atoms_histogram),
            renoising_steps=model.config.sampling.renoising_steps,
            columns=spreads(scores),
        )
        # Read again, because another command may have added rows in the meantime.
        measured = table1_file.merged(table1_file.read(rows_file), [new])
        program.write_output(rows_file, table1_file.to_text(measured))
    # From the file, whose digits are rounded: the same rows give the same page ever after.
    program.write_output(flags.out, page(table1_file.read(rows_file)))
    print(f"table in {flags.out}")


if __name__ == "__main__":
    program.run(main)
