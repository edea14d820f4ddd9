"""Prepares a data set: downloads what is missing, checks it, caches it and sums it up.

    python -m experiments.prepare --dataset=perov5 --oracle --potential
    python -m experiments.prepare --root=mine --properties=band_gap
    python -m experiments.prepare --dataset=carbon24 --unique=data/carbon24_unique

Known data are taken from --root, from `$CRYSTAL_DIFFUSION_DATA/<name>`, or else downloaded from
CDVAE's repository. Your own data (--root) are a csv table, a folder with train, val and perhaps
test tables (each in one file or in several, as in train-0.csv, train-1.csv), or a folder of CIFs,
POSCARs and other files of crystals with one csv. Training afterwards starts at once, reading the
prepared arrays from the cache. --unique writes crystals and properties once more, as csv tables
without copies: one of each group of crystals that are the same to pymatgen's StructureMatcher,
directly or through others. --oracle and --potential download the published networks, with a data
set or alone.
"""

import argparse
import keyword
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax import commands
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import few, locate
from crystal_diffusion_jax.data.arrays import CrystalDataset, known_values
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.data.tables import property_names
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.oracles import weights
from crystal_diffusion_jax.potentials import weights as potential_weights


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.prepare", description=__doc__)
    flags.add_argument("--dataset", choices=list(KNOWN_DATASETS), help="a known data set")
    flags.add_argument("--oracle", action="store_true", help="download the published networks")
    flags.add_argument(
        "--potential", action="store_true", help="download the interatomic potential"
    )
    flags.add_argument("--root", default="", help="where the data are, if not downloaded")
    flags.add_argument(
        "--properties",
        default="",
        help="property columns of your own data, separated by commas; several of which one has a "
        "comma in its name are quoted: --properties='\"gap, eV\",density'",
    )
    flags.add_argument(
        "--max_num_atoms", type=int, default=0, help="largest crystal of your own data; 0: no limit"
    )
    flags.add_argument(
        "--skip_bad_rows", action="store_true", help="go on without rows that cannot be used"
    )
    flags.add_argument(
        "--unique", type=Path, help="new folder for the data without copies of crystals"
    )
    return flags


def main() -> None:
    """Entry point."""
    args = parser().parse_args()
    if args.dataset is None and not (args.root or args.oracle or args.potential):
        raise UserError(
            "nothing to prepare: give --dataset=NAME, --root=YOUR_DATA, --oracle or --potential"
        )
    require_between("max_num_atoms", args.max_num_atoms, 0, math.inf)
    if args.dataset is not None and args.properties:
        raise UserError("--properties is for your own data: leave it out with --dataset")
    if args.unique:
        if args.dataset is None and not args.root:
            raise UserError("--unique needs data: give --dataset=NAME or --root=YOUR_DATA")
        from crystal_diffusion_jax.data.unique import require_new_folder, write_unique

        require_new_folder(args.unique)
    if args.oracle:
        for path in weights.prepare():
            print(f"network: {path}")
    if args.potential:
        print(f"potential: {potential_weights.prepare()}")
    if args.dataset is not None:
        splits = _prepare_known(KNOWN_DATASETS[args.dataset], args.root, args.skip_bad_rows)
    elif args.root:
        splits = _prepare_own(args)
    if args.unique:
        written = write_unique(splits, args.unique)
        counts = ", ".join(f"{split} {n} of {len(splits[split])}" for split, n in written.items())
        print(f"{args.unique} has them without copies: {counts}")


def _prepare_known(
    spec: DatasetSpec, root: str, skip_bad_rows: bool
) -> Mapping[str, CrystalDataset]:
    folder = locate.find_known(spec.name, root)
    # Compressed files that somebody put into the cache by hand are used unchecked.
    by_hand = folder is not None and next(folder.glob("*.csv.gz"), None) is not None
    if folder in (None, locate.download_folder(spec.name)) and not by_hand:
        for split, path in spec.download(locate.download_folder(spec.name)).items():
            print(f"{path}: sha256 {spec.sha256[split]}, as published")
    start = time.perf_counter()
    splits = load(DataConfig(name=spec.name, root=root, skip_bad_rows=skip_bad_rows))
    seconds = time.perf_counter() - start
    _print_summary(splits, [f"{spec.property_name} ({spec.unit})"])
    print(f"ready in {seconds:.1f} s, prepared arrays in {locate.cache_folder() / 'prepared'}")
    return splits


def _prepare_own(args: argparse.Namespace) -> Mapping[str, CrystalDataset]:
    """Reads the user's own data as training would."""
    config = DataConfig(
        root=args.root,
        properties=property_names(args.properties, args.root),
        max_num_atoms=args.max_num_atoms,
        skip_bad_rows=args.skip_bad_rows,
    )
    splits = load(config)
    _print_summary(splits, config.properties)
    print(f"train on them with: {_next_step(config, few.recipe(len(splits['train'])))}")
    return splits


def _next_step(config: DataConfig, recipe: str) -> str:
    """The command that trains on the same crystals, with a config for so many."""
    names = config.properties
    # The flag takes a plain name as it is, which needs fewer quotes than Python's tuple.
    plain = len(names) == 1 and names[0].isidentifier() and not keyword.iskeyword(names[0])
    changed: dict[str, object] = {"root": config.root}
    changed["properties"] = names[0] if plain else names
    if config.max_num_atoms:
        changed["max_num_atoms"] = config.max_num_atoms
    if config.skip_bad_rows:
        changed["skip_bad_rows"] = "True"
    settings = {f"config.data.{name}": value for name, value in changed.items()}
    given = {"config": recipe} | settings | {"workdir": "runs/mine"}
    return commands.next_command("train", commands.flags(given))


def _print_summary(splits: Mapping[str, CrystalDataset], titles: Sequence[str]) -> None:
    """Prints one line per split, with the properties that have a title."""
    line = "{:<6}{:>9}{:>20}{:>10}  {}".format
    classes = next(iter(splits.values())).class_names
    columns = "  ".join(title if title in classes else f"{title} min/mean/max" for title in titles)
    print(line("split", "crystals", "atoms min/mean/max", "elements", columns))
    for split, dataset in splits.items():
        atoms = dataset.num_atoms
        atoms_range = f"{atoms.min()} / {atoms.mean():.1f} / {atoms.max()}"
        num_elements = np.count_nonzero(np.bincount(dataset.atomic_numbers))
        values = "  ".join(
            _summed_up(known, dataset.class_names.get(name, ()))
            for known, name in zip(known_values(dataset), dataset.property_names, strict=True)
        )
        print(line(split, len(dataset), atoms_range, num_elements, values))


def _summed_up(known: np.ndarray, classes: Sequence[str]) -> str:
    """Range and mean of numbers, or how many crystals have each class."""
    if classes:
        counts = np.bincount(known.astype(int), minlength=len(classes))
        return ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    if not len(known):
        return "no value"
    return f"{known.min():.3f} / {known.mean():.3f} / {known.max():.3f}"
