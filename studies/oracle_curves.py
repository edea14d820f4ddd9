"""What the oracles see of wrong structures: crystals that are stretched, compressed or rattled.

    python -m studies.oracle_curves --out=curves
    python -m studies.oracle_curves --out=curves --generated carbon24=samples/carbon24_min

Crystals of each data set whose label is within SR5, and generated ones if given, are perturbed by
known amounts and judged by the oracle and by the interatomic potential. OUT gets the numbers,
oracle_curves.json, and the pictures; the tables of docs/what_scores_mean.md are printed. Curves
that the file holds already are not measured again.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.evaluation.diversity import dataset_structures
from crystal_diffusion_jax.oracles.predict import answers, predict
from crystal_diffusion_jax.potentials.energies import evaluate_all
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS
from crystal_diffusion_jax.structures.reading import read_structures
from studies import oracle_plots, plots, records
from studies.judged import Curve, measure
from studies.perturbations import perturbed

RECORD = "oracle_curves.json"


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.oracle_curves", description=__doc__)
    flags.add_argument("--out", type=Path, required=True, help="folder for numbers and pictures")
    flags.add_argument(
        "--root", default="", help="folder with a folder for each data set (default: the cache)"
    )
    flags.add_argument(
        "--datasets",
        nargs="+",
        choices=tuple(KNOWN_DATASETS),
        default=list(KNOWN_DATASETS),
        help="names (default: all)",
    )
    flags.add_argument(
        "--generated",
        nargs="+",
        default=[],
        metavar="DATASET=PATH",
        help="generated crystals, in the files that evaluate takes; only strained",
    )
    flags.add_argument(
        "--num", type=int, default=120, help="crystals of each set (default: %(default)s)"
    )
    flags.add_argument(
        "--energies",
        type=int,
        default=100,
        help="of how many of them the potential computes the energy (default: %(default)s)",
    )
    flags.add_argument(
        "--seed", type=int, default=0, help="of choice and displacements (default: %(default)s)"
    )
    flags.add_argument(
        "--strain",
        default="-4,-3,-2,-1,-0.5,0.5,1,2,3,4",
        help="changes of the cell's lengths in %%, besides 0 (default: %(default)s)",
    )
    flags.add_argument(
        "--rattle",
        default="0.02,0.05,0.1,0.2,0.3,0.5",
        help="displacements along each axis in Angstrom, besides 0 (default: %(default)s)",
    )
    return flags


def choose(
    splits: Mapping[str, CrystalDataset], threshold: float, num: int, seed: int
) -> list[Structure]:
    """Different crystals of a data set at or below a threshold, at random.

    Args:
      splits: the data set; its first property counts.
      threshold: of the property.
      num: how many; all, if there are fewer.
      seed: of the choice.
    """
    low: list[Structure] = []
    for split in splits.values():
        low += dataset_structures(split.take(np.flatnonzero(split.properties[:, 0] <= threshold)))
    order = np.random.default_rng(seed).permutation(len(low))[:num]
    return [low[index] for index in order]


def amounts_of(flag: str, text: str, lowest: float) -> list[float]:
    """The numbers of a flag and 0, ascending.

    Raises:
      UserError: one is not a number, or below the lowest that makes sense.
    """
    found = records.numbers(flag, text)
    require_between(flag, found[0], lowest, math.inf)
    return sorted({0.0, *found})


def read_generated(text: str, names: Sequence[str], num: int) -> tuple[str, str, list[Structure]]:
    """Data set, name and first crystals of one value of --generated.

    Args:
      text: DATASET=PATH.
      names: the data sets that are measured.
      num: most crystals.

    Raises:
      UserError: another text, or a path without crystals.
    """
    name, _, place = text.partition("=")
    if name not in names or not place:
        raise UserError(
            f"--generated {text} must be DATASET=PATH with one of --datasets {' '.join(names)}"
        )
    path = Path(place)
    found = [each for each in read_structures(path).structures if each is not None][:num]
    if not found:
        raise UserError(f"--generated {text} holds no crystal that can be read")
    return name, path.name, found


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    # Refuse mistakes before the minutes of work.
    require_between("num", flags.num, 1, MAX_CRYSTALS)
    require_between("energies", flags.energies, 1, MAX_CRYSTALS)
    require_between("seed", flags.seed, 0, 2**31)
    amounts = {
        "strain": amounts_of("strain", flags.strain, -50),
        "rattle": amounts_of("rattle", flags.rattle, 0),
    }
    generated = [read_generated(text, flags.datasets, flags.num) for text in flags.generated]
    record = flags.out / RECORD
    program.check_output(record)
    curves = records.read(record, list[Curve]) or []

    def is_requested(curve: Curve) -> bool:
        asked = (flags.num, flags.seed, amounts[curve.perturbation])
        return (curve.num, curve.seed, [point.amount for point in curve.points]) == asked

    for name in flags.datasets:
        spec = KNOWN_DATASETS[name]
        splits = load(DataConfig(name=name, root=str(Path(flags.root, name)) if flags.root else ""))
        real = choose(splits, spec.success_thresholds[0], flags.num, flags.seed)
        requests = [((name, "data", kind), real) for kind in amounts]
        requests += [
            ((name, source, "strain"), crystals)
            for dataset, source, crystals in generated
            if dataset == name
        ]
        done = {each.key for each in curves if is_requested(each)}
        missing = [(key, crystals) for key, crystals in requests if key not in done]
        if not missing:
            records.log(f"{name}: measured already")
            continue
        lowest = float(splits["train"].properties[:, 0].min())
        for key, crystals in missing:
            records.log(f"{', '.join(key)}: {len(crystals)} crystals")
            variants = perturbed(crystals, key[-1], amounts[key[-1]], flags.seed)
            points = measure(variants, spec, lowest, answers, predict, evaluate_all, flags.energies)
            new = Curve(*key, flags.num, flags.seed, lowest, *records.stamp(), points)
            curves = [*(each for each in curves if each.key != key), new]
            records.write(record, curves)
    order = list(KNOWN_DATASETS)
    shown = [curve for curve in curves if is_requested(curve)]
    shown.sort(key=lambda each: (order.index(each.dataset), each.source != "data"))
    for name, figure in oracle_plots.pictures(shown).items():
        path = flags.out / f"{name}.png"
        program.write_output(path, plots.save(figure))
        print(f"picture: {path}")
    print(f"numbers in {record}\n\n{oracle_plots.tables(shown)}")


if __name__ == "__main__":
    program.run(main)
