"""Scores generated crystals from any source as CDVAE and its successors do.

    python -m experiments.evaluate --structures=samples/min --dataset=perov5 --out=metrics.json
    python -m experiments.evaluate --structures=FOLDER_OF_CIFS --dataset=mp20 --out=m.json
    python -m experiments.evaluate --structures=samples/min --dataset=mp20 --relax --out=m.json

--structures takes a folder of `sample`, a file of crystals (CIF, POSCAR, JSON, extended XYZ ...), a
folder or .zip of any mix, or a csv with a column of CIFs, JSON or paths. The scores go into a JSON
file and, as a table, to stdout; crystals that cannot be read or predicted count as failures and are
listed by name. With --relax the crystals are relaxed into the folder m_relaxed beside m.json, as
`relax` does, and scored before and after, and so are controls: training crystals as good as
requested, substitutions in them, and test crystals. If --structures is a folder of `sample`,
predictions, validity, uniqueness, novelty and what relaxing gave of each crystal are also added to
its samples.db and samples.csv.
"""

from pathlib import Path

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

NUM_CONTROLS = 100


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.evaluate", description=__doc__)
    program.add_structures(flags)
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
    flags.add_argument(
        "--relax", action="store_true", help="also relax the crystals with an interatomic potential"
    )
    flags.add_argument(
        "--relaxed", type=Path, help="folder of `relax` with the same crystals, instead of --relax"
    )
    flags.add_argument(
        "--controls",
        type=int,
        help="largest number of crystals of each control "
        f"(default: {NUM_CONTROLS} if crystals are relaxed, else 0)",
    )
    return flags


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # Mistakes are found before minutes of work.
    if flags.relax and flags.relaxed is not None:
        raise UserError("--relax and --relaxed exclude each other: give one of them")
    if flags.controls is None:
        flags.controls = NUM_CONTROLS if flags.relax or flags.relaxed is not None else 0
    require_between("controls", flags.controls, 0, MAX_CRYSTALS)
    program.check_output(flags.out)
    from crystal_diffusion_jax.cli.scoring import score

    score(flags)
