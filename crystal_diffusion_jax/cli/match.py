"""Scores predicted crystals against the crystals of a data set with the same compositions.

    python -m experiments.match --structures=samples/csp --dataset=perov5 --k=1,20 --out=match.json
    python -m experiments.match --structures=predictions.csv --dataset=mp20 --out=match.json
    python -m experiments.match --dataset=mp20 --num=300 --k=1,20 --out=templates.json

The predictions are a folder of `sample`, or those of any program: a csv with columns material_id,
the reference that a row answers, and cif; several rows of one id are several predictions for it.
Without ids, crystals answer the references of their composition. The baseline in the same table
are training crystals of the same anonymous formula with their elements exchanged; without
--structures it stands alone. With --relaxed, a folder that `relax` made of the predictions, the
relaxed crystals are scored, too, those of the lowest energy first. The scores go into a JSON file
and, as a table, to stdout.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

if TYPE_CHECKING:
    from crystal_diffusion_jax.data.arrays import CrystalDataset

MAX_K = 1000


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.match", description=__doc__)
    program.add_structures(flags, required=False)
    flags.add_argument("--relaxed", type=Path, help="folder of `relax` with the same crystals")
    flags.add_argument(
        "--dataset", choices=list(KNOWN_DATASETS), help="with the references and training crystals"
    )
    flags.add_argument(
        "--split", default="test", choices=list(SPLITS), help="the references (default: test)"
    )
    flags.add_argument("--out", type=Path, required=True, help="JSON file for the scores")
    flags.add_argument("--root", default="", help="folder with train, val and test csv or csv.gz")
    flags.add_argument("--reference", type=Path, help="csv of references, instead of --split")
    flags.add_argument("--train", type=Path, help="csv of training crystals for the templates")
    flags.add_argument(
        "--skip_bad_rows", action="store_true", help="leave out rows that cannot be used"
    )
    flags.add_argument(
        "--num", type=int, default=0, help="only so many references, drawn once and for all"
    )
    flags.add_argument(
        "--k", default="1", help="scores of the best of so many predictions, e.g. 1,5,20"
    )
    return flags


def parse_ks(text: str) -> list[int]:
    """The numbers of --k, ascending.

    Raises:
      UserError: they are not whole numbers from 1 to `MAX_K`.
    """
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ks = [0]
    if not 1 <= ks[0] <= ks[-1] <= MAX_K:
        raise UserError(f"--k={text}: give whole numbers from 1 to {MAX_K}, e.g. --k=1,5,20")
    return ks


def datasets(
    flags: argparse.Namespace,
) -> "tuple[CrystalDataset, CrystalDataset | None, str]":
    """The references, the training crystals if there are any, and the place of the references.

    Raises:
      UserError: they cannot be read, or no references are given.
    """
    from crystal_diffusion_jax.data.load import load, load_table

    splits: dict[str, CrystalDataset] = {}
    if flags.dataset and not (flags.reference and flags.train):
        config = DataConfig(name=flags.dataset, root=flags.root, skip_bad_rows=flags.skip_bad_rows)
        splits = load(config)
    train = splits.get("train")
    if flags.train:
        train = load_table(flags.train, flags.skip_bad_rows)
    if flags.reference:
        return load_table(flags.reference, flags.skip_bad_rows), train, str(flags.reference)
    if not flags.dataset:
        raise UserError("there are no references: give --dataset, or --reference with a csv")
    if flags.split not in splits:
        raise UserError(f"{flags.dataset} has no {flags.split}.csv next to train and val")
    return splits[flags.split], train, f"{flags.dataset} {flags.split}"


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    from crystal_diffusion_jax.evaluation.judging import judge
    from crystal_diffusion_jax.evaluation.prediction_summary import to_json, to_table
    from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed
    from crystal_diffusion_jax.structures.reading import read_structures

    ks = parse_ks(flags.k)
    require_between("num", flags.num, 0, MAX_CRYSTALS)
    program.check_output(flags.out)
    if flags.relaxed and not flags.structures:
        raise UserError("--relaxed needs --structures: give the crystals that were relaxed")
    inputs = None if flags.structures is None else read_structures(flags.structures)
    relaxed = None
    if flags.relaxed:
        relaxed = [each.relaxation for each in read_relaxed(flags.relaxed, inputs)]
    dataset, train, place = datasets(flags)
    if inputs is None and train is None:
        raise UserError("there is nothing to score: give --structures, or --train for templates")
    outcome = judge(inputs, dataset, train, place, flags.num, ks, relaxed=relaxed)
    structures = None if flags.structures is None else str(flags.structures)
    content = to_json(outcome, structures)
    program.write_output(flags.out, json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(to_table(outcome))
    print(f"scores in {flags.out}")
