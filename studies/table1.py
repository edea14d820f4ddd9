"""Measures the rows of docs/table1.md: samples from the shipped models and evaluates.

    python -m studies.table1 --out=table1.md
    python -m studies.table1 --out=row.md --models=perov5_cds --guidance=1 --seeds=1

Without flags that select rows, those of docs/table1.md are measured. The commands that sample and
evaluate are printed. The rows are kept in a JSON file next to the page; what it or --work already
holds is not measured again.
"""

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from crystal_diffusion_jax import __version__, trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json
from studies import records, table1_rows
from studies.table1_rows import PAGE, PUBLISHED, Measured, Row, markdown, spreads

HEAD = """# Success rates at the lowest property, ours and published

Mean over the seeds, with the range where they differ; no crystal is filtered out. `single` counts
every crystal as one try, `single_valid` counts an invalid one as a failure, and `best_of_10` asks
for one success among ten. A prediction below the training minimum by more than three times the
oracle's error counts as a failure. Unique: different crystals. Novel: not in the training set.
Useful: valid, SR5, unique and novel at once. The published figures are for models trained on the
official training sets.

"""


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.table1", description=__doc__)
    flags.add_argument("--out", type=Path, required=True, help="Markdown file")
    flags.add_argument("--models", help="separated by commas (default: all shipped ones)")
    flags.add_argument("--guidance", help="weights, separated by commas (default: 0)")
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
    """The requested rows, those of the page by default.

    Raises:
      UserError: a model is missing or has no oracle, or a list of numbers has something else.
    """
    if models is guidance is renoising_steps is None and not charge_balance:
        return PAGE
    weights = records.numbers("guidance", guidance or "0", float)
    steps: list[int] | list[None] = [None]
    if renoising_steps is not None:
        steps = records.numbers("renoising_steps", renoising_steps, int)
    found = []
    for name in models.split(",") if models else trained_model.shipped_names():
        dataset: Any = trained_model.load(name).config.data.name
        if dataset not in PUBLISHED:
            raise UserError(
                f"--models: {name} was trained on {dataset!r}, for which there is no oracle; there "
                f"is one for {', '.join(PUBLISHED)}"
            )
        found += [
            Row(name, dataset, weight, number, charge_balance)
            for weight in weights
            for number in steps
        ]
    return found


def measure(row: Row, seed: int, num: int, work: Path) -> dict[str, Any]:
    """Scores of one row and seed, in a folder of `work`.

    Raises:
      UserError: the folder belongs to another request, or one of the commands fails.
    """
    special = "".join(flag.replace("--", "_").replace("=", "") for flag in row.flags)
    out = work / f"{Path(row.model).name}_guidance{row.guidance:g}{special}_seed{seed}"
    scores = out / "metrics.json"
    start = time.monotonic()
    # Does nothing if the crystals are there, and refuses those of another request.
    _run("sample", f"--model={row.model}", "--target=min", f"--guidance={row.guidance:g}",
         *row.flags, f"--num={num}", f"--seed={seed}", "--batch_size=200",
         f"--out={out}")  # fmt: skip
    if not scores.exists():
        _run("evaluate", f"--structures={out}", f"--dataset={row.dataset}", f"--out={scores}")
    print(f"{row.title}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    try:
        content: dict[str, Any] = read_json(scores, MAX_RECORD_BYTES)
        spreads([content])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{scores} is damaged ({error!r}): remove it, or use another --work"
        ) from error
    return content


def _run(name: str, *arguments: str) -> None:
    command = ["python", "-m", f"experiments.{name}", *arguments]
    print(" ".join(command), flush=True)
    done = subprocess.run([sys.executable, *command[1:]], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise UserError(f"experiments.{name} ended with status {done.returncode}, see above")


def about(table: Sequence[Measured]) -> str:
    """How many crystals the models of one data set were trained on, and how they renoise."""
    sizes = sorted({each.trained_on for each in table})
    text = f"Our models are trained on {' or '.join(f'{n:,}' for n in sizes)} crystals."
    defaults = {each.row.model: each.renoising_steps for each in table if each.renoising_steps}
    for number in sorted(set(defaults.values())):
        names = " and ".join(f"`{name}`" for name, steps in defaults.items() if steps == number)
        text += f" The default of {names} is `--renoising_steps={number}`."
    return text


def page(measured: Sequence[Measured]) -> str:
    """The whole page, in Markdown."""
    text = HEAD
    for dataset in PUBLISHED:
        if table := [each for each in measured if each.row.dataset == dataset]:
            text += f"## {dataset}\n\n{about(table)}\n\n{markdown(dataset, table)}\n\n"
    made_with = "; ".join(dict.fromkeys(each.made_with for each in measured))
    return text + f"Made by `python -m studies.table1` on {made_with}.\n"


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    for name in ("num", "seeds"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name}={getattr(flags, name)} must be at least 1")
    rows_file = records.file_beside(flags.out, ".md")
    requested = rows(flags.models, flags.guidance, flags.renoising_steps, flags.charge_balance)
    measured = table1_rows.read(rows_file)
    for row in requested:
        model = trained_model.load(row.model)
        if any(
            (each.row, each.weights_sha256) == (row, model.weights_sha256)
            and each.num >= flags.num
            and each.seeds >= flags.seeds
            for each in measured
        ):
            print(f"{row.title} is in {rows_file}")
            continue
        scores = [measure(row, seed, flags.num, flags.work) for seed in range(flags.seeds)]
        new = Measured(
            row=row,
            num=flags.num,
            seeds=flags.seeds,
            date=datetime.date.today().isoformat(),
            made_with=f"{os.cpu_count()} cores ({platform.machine()}), crystal_diffusion_jax "
            f"{__version__}, jax {jax.__version__}",
            weights_sha256=model.weights_sha256,
            # As stored in the model: the local data set may be another split of the same crystals.
            trained_on=sum(n for _, n in model.statistics.num_atoms_histogram),
            renoising_steps=model.config.sampling.renoising_steps,
            columns=spreads(scores),
        )
        # Read again, because another command may have added rows in the meantime.
        measured = table1_rows.merged(table1_rows.read(rows_file), [new])
        records.write(rows_file, measured)
    program.write_output(flags.out, page(measured))
    print(f"table in {flags.out}")


if __name__ == "__main__":
    program.run(main)
