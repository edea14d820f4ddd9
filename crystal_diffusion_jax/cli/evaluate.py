"""Scores generated crystals from any source as CDVAE and its successors do.

    python -m experiments.evaluate --structures=samples/min --dataset=perov5 --out=metrics.json
    python -m experiments.evaluate --structures=FOLDER_OF_CIFS --dataset=mp20 --out=m.json

--structures takes a folder of `sample`, a folder or .zip of CIFs, a CIF, an extended XYZ file, or a
csv with a column `cif`. The scores go into a JSON file and, as a table, to stdout; crystals that
cannot be read or predicted count as failures and are listed by name. If --structures is a folder of
`sample`, predictions, validity, uniqueness and novelty of each crystal are also added
to its samples.db and samples.csv.
"""

import functools
import json
from pathlib import Path

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.fingerprints import (
    fingerprints,
    load_scaler,
    require_matminer,
)
from crystal_diffusion_jax.evaluation.report import evaluate
from crystal_diffusion_jax.evaluation.summary import to_json, to_table
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.structures.reading import read_structures


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.evaluate", description=__doc__)
    flags.add_argument("--structures", type=Path, required=True, help="the generated crystals")
    flags.add_argument(
        "--dataset", required=True, choices=list(KNOWN_DATASETS), help="to compare with"
    )
    flags.add_argument("--out", type=Path, required=True, help="JSON file for the scores")
    flags.add_argument("--root", default="", help="folder with train, val and test csv or csv.gz")
    flags.add_argument(
        "--skip_bad_rows", action="store_true", help="leave out rows that cannot be used"
    )
    flags.add_argument(
        "--coverage", action="store_true", help="also COV-R and COV-P; needs the extra `coverage`"
    )
    return flags


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    spec = KNOWN_DATASETS[flags.dataset]
    # Mistakes are found before minutes of work.
    program.check_output(flags.out)
    make_fingerprints = None
    if flags.coverage:
        require_matminer()
        means, stds = load_scaler()
        make_fingerprints = functools.partial(fingerprints, means=means, stds=stds)
    inputs = read_structures(flags.structures)
    config = DataConfig(name=spec.name, root=flags.root, skip_bad_rows=flags.skip_bad_rows)
    splits = load(config)
    if "test" not in splits:
        raise UserError(f"{spec.name} has no test.csv next to train and val, which scoring needs")
    report = evaluate(
        inputs,
        spec,
        splits["train"],
        splits["test"],
        predict=functools.partial(predict, oracle=spec.name),
        make_fingerprints=make_fingerprints,
    )
    content = to_json(report, str(flags.structures), spec)
    program.write_output(flags.out, json.dumps(content, indent=1, allow_nan=False) + "\n")
    columns = {
        f"predicted_{spec.property_name}": report.values.tolist(),
        "valid": report.valid.tolist(),
        "unique": report.unique.tolist(),
    }
    if report.novel is not None:
        columns["novel"] = report.novel.tolist()
    print(to_table(report, spec))
    print(f"scores in {flags.out}")
    program.add_to_samples(flags.structures, columns)
