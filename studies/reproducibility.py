"""Do the shipped models behave alike on this processor and with these versions?

    python -m studies.reproducibility --out=here.json
    XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 python -m studies.reproducibility --out=sse.json
    python -m studies.reproducibility --compare here.json sse.json

Samples crystals from every model at the lowest property with one seed, scores them, and writes a
JSON file. `--compare` prints a table of several such files, with the probability that equal rates
would differ at least this much by chance (the exact test of Fisher, Freeman and Halton), and how
many crystals have the same species and number of atoms as in the first file.
"""

import argparse
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError

RATES = ("SR5", "SR10", "SR15")
ISA = r"--xla_cpu_max_isa=(\w+)"


def measure(num: int, seed: int) -> dict[str, Any]:
    """Rates and compositions of `num` crystals from each model, and what computed them."""
    rows = {}
    for name in trained_model.shipped_names():
        dataset = name.partition("_")[0]
        crystals = cdj.load(name).sample(
            num, "min", seed=seed, charge_balance=dataset == "mp20", batch_size=num
        )
        rates = cdj.success_rate(crystals, dataset)
        rows[name] = {
            "num": num,
            "written": len(crystals),
            **{rate: rates[rate].k for rate in RATES},
            "species": {
                str(index): sorted(map(int, crystal.atomic_numbers))
                for index, crystal in zip(crystals.indices, crystals, strict=True)
            },
        }
        print(name, {key: value for key, value in rows[name].items() if key != "species"})
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "instructions": (isa[1] if (isa := re.search(ISA, flags)) else "all"),
        "cores": jax.device_count(),
        "models": rows,
    }


def p_value(counts: list[int], num: int) -> float:
    """Probability that equal rates give these counts out of `num` each, or less probable ones."""
    if sum(counts) in (0, num * len(counts)):
        return 1.0  # all counts are equal
    table = [counts, [num - count for count in counts]]
    method = stats.MonteCarloMethod(n_resamples=9999, rng=np.random.default_rng(0))
    return float(stats.fisher_exact(table, method=method).pvalue)


def comparison(files: list[dict[str, Any]]) -> str:
    """A Markdown table with a row for each model and rate."""
    heads = [
        f"jax {file['jax']}, Python {file['python']}, instructions: {file['instructions']}, "
        f"cores: {file['cores']}"
        for file in files
    ]
    lines = [
        f"| {' | '.join(['model', 'rate', *heads, 'p'])} |",
        f"|{'---|' * (len(files) + 3)}",
    ]
    for name in files[0]["models"]:
        rows = [file["models"][name] for file in files]
        num = rows[0]["num"]
        for rate in RATES:
            counts = [row[rate] for row in rows]
            p = p_value(counts, num)
            cells = [name, rate, *(f"{count}/{num}" for count in counts), f"{p:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        first = rows[0]["species"]
        same = [
            sum(first.get(key) == value for key, value in row["species"].items()) for row in rows
        ]
        cells = [name, "same species", *(f"{count}/{num}" for count in same), ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"--compare={path} was not written by this program ({error})") from error


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.reproducibility", description=__doc__ or "")
    what = flags.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="JSON file to write")
    what.add_argument("--compare", type=Path, nargs="+", help="JSON files to compare")
    flags.add_argument(
        "--num", type=int, default=40, help="crystals per model (default: %(default)s)"
    )
    flags.add_argument(
        "--seed", type=int, default=0, help="seed of all noise (default: %(default)s)"
    )
    return flags


def main() -> None:
    """Entry point."""
    flags: argparse.Namespace = parser().parse_args()
    if flags.compare:
        print(comparison([_read(path) for path in flags.compare]))
    else:
        program.check_output(flags.out)
        program.write_output(flags.out, json.dumps(measure(flags.num, flags.seed), indent=1) + "\n")


if __name__ == "__main__":
    program.run(main)
