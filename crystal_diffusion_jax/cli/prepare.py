"""Gets a known data set ready: downloads what is missing, checks and caches it, says what is there.

    python -m experiments.prepare --dataset=perov5 --oracle
    python -m experiments.prepare --root=mine --properties=band_gap
    python -m experiments.prepare --parts=FOLDER --properties=band_gap --shards=1024 --out=shards

Data come from --root, from `$CRYSTAL_DIFFUSION_DATA/<name>`, or else from CDVAE's repository, from
where they are downloaded into the cache. Training afterwards starts without parsing anything. With
--oracle the published property networks are fetched into the cache as well, or alone.

With --shards the data are written to --out as that many files of training crystals and one file
each for val and test, for training without ever holding all (docs/scaling.md). Instead of a known
data set, --parts names a folder with any number of files `train*`, `val*` and `test*` (csv, csv.gz
or npz), which are read one by one.
"""

import argparse
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import locate
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.data.download import download
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.data.shards.parts import find_parts, read_parts
from crystal_diffusion_jax.data.shards.writer import write_shards
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracle import weights


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.prepare", description=__doc__)
    flags.add_argument("--dataset", choices=list(KNOWN_DATASETS), help="a known data set")
    flags.add_argument("--oracle", action="store_true", help="fetch the published networks")
    flags.add_argument("--root", default="", help="folder with train, val and test csv or csv.gz")
    flags.add_argument(
        "--skip_bad_rows", action="store_true", help="go on without rows that cannot be used"
    )
    flags.add_argument("--parts", type=Path, help="folder with files train*, val* and test*")
    flags.add_argument(
        "--properties", default="", help="columns of --root or --parts, with commas between"
    )
    flags.add_argument(
        "--max_num_atoms", type=int, default=0, help="of a crystal of --root or --parts"
    )
    flags.add_argument("--shards", type=int, help="number of files to write the training split to")
    flags.add_argument(
        "--slices",
        type=int,
        help="most devices to train on, a divisor of --shards; default: its largest power of two "
        "up to 64",
    )
    flags.add_argument("--out", type=Path, help="folder for the shards")
    return flags


def main() -> None:
    """Reads the command line and prepares the data set it names."""
    args = parser().parse_args()
    _check(args)
    if args.oracle:
        for path in weights.prepare():
            print(f"network: {path}")
    if args.dataset is not None:
        splits = _prepare(args)
        if args.shards is not None:
            _write_shards(args, {split: [dataset] for split, dataset in splits.items()})
    elif args.parts is None and args.root:
        _check_own(args)
    if args.parts is not None:
        names = tuple(args.properties.split(","))
        parts = {
            split: read_parts(paths, names, args.max_num_atoms, args.skip_bad_rows)
            for split, paths in find_parts(args.parts).items()
        }
        _write_shards(args, parts)


def _check(args: argparse.Namespace) -> None:
    """Raises UserError where flags do not go together."""
    if args.dataset is None and args.parts is None and not (args.root or args.oracle):
        raise UserError(
            "nothing to prepare: give --dataset=NAME, --root=YOUR_DATA, --parts=FOLDER or --oracle"
        )
    if args.dataset is None and args.parts is None and args.root and not args.properties:
        raise UserError("--root of your own data needs --properties=NAME,NAME")
    if args.dataset is not None and args.parts is not None:
        raise UserError("--dataset and --parts exclude one another")
    if (args.shards is None) != (args.out is None):
        raise UserError("--shards and --out need one another")
    if args.parts is not None and (args.shards is None or not args.properties):
        raise UserError("--parts needs --properties=NAME,NAME, --shards and --out")
    names = args.properties.split(",")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--properties={args.properties} names {', '.join(twice)} more than once")
    if args.max_num_atoms < 0:
        raise UserError(f"--max_num_atoms={args.max_num_atoms} is negative; 0 means no limit")
    for name in ("shards", "slices"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value} must be at least 1")
    if args.slices is not None and args.shards is None:
        raise UserError("--slices needs --shards")


def _write_shards(args: argparse.Namespace, parts: Mapping[str, Iterable[CrystalDataset]]) -> None:
    for split, some in parts.items():
        # All processes read val whole.
        num_shards = args.shards if split == "train" else 1
        slices = math.gcd(num_shards, 64) if args.slices is None else args.slices
        written = write_shards(
            some, args.out / split, num_shards, slices if split == "train" else 1
        )
        print(
            f"{split}: {len(written)} crystals of {written.sizes[0]} to {written.sizes[-1]} atoms "
            f"in {num_shards} shards of {written.num_slices} slices"
        )
    print(f"train from them with --config.data.root={args.out}")


def _prepare(args: argparse.Namespace) -> dict[str, CrystalDataset]:
    """Gets a known data set and sums it up."""
    spec = KNOWN_DATASETS[args.dataset]
    folder = locate.find_known(spec.name, args.root)
    # Files that somebody packed and put into the cache by hand are taken as they are.
    by_hand = folder is not None and next(folder.glob("*.csv.gz"), None) is not None
    if folder in (None, locate.download_folder(spec.name)) and not by_hand:
        _download(spec)
    start = time.perf_counter()
    config = DataConfig(name=spec.name, root=args.root, skip_bad_rows=args.skip_bad_rows)
    splits = load(config)
    seconds = time.perf_counter() - start
    _print_summary(splits, [f"{spec.property_name} ({spec.unit})"])
    print(f"ready in {seconds:.1f} s, prepared arrays in {locate.cache_folder() / 'prepared'}")
    return splits


def _download(spec: DatasetSpec) -> None:
    for split, path in download(spec, locate.download_folder(spec.name)).items():
        print(f"{path}: sha256 {spec.sha256[split]}, as pinned")


def _check_own(args: argparse.Namespace) -> None:
    """Reads the user's own data as training would, and sums them up."""
    names = tuple(args.properties.split(","))
    splits = load(
        DataConfig(
            name="",
            root=args.root,
            properties=names,
            max_num_atoms=args.max_num_atoms,
            skip_bad_rows=args.skip_bad_rows,
        )
    )
    _print_summary(splits, names)
    print(
        "train on them with python -m experiments.train --config=configs/own_data.py "
        f'--config.data.root={args.root} --config.data.properties="{names}" --workdir=runs/mine'
    )


def _print_summary(splits: Mapping[str, CrystalDataset], titles: Sequence[str]) -> None:
    """One line a split; of the properties those that have a title."""
    columns = "  ".join(f"{title} min/mean/max" for title in titles)
    print(_row("split", "crystals", "atoms min/mean/max", "elements", columns))
    for split, dataset in splits.items():
        atoms = dataset.num_atoms
        values = "  ".join(
            f"{column.min():.3f} / {column.mean():.3f} / {column.max():.3f}"
            for column in dataset.properties.T[: len(titles)]
        )
        print(
            _row(
                split,
                str(len(dataset)),
                f"{atoms.min()} / {atoms.mean():.1f} / {atoms.max()}",
                str(len(np.unique(dataset.atomic_numbers))),
                values,
            )
        )


def _row(split: str, crystals: str, atoms: str, elements: str, values: str) -> str:
    return f"{split:<6}{crystals:>9}{atoms:>20}{elements:>10}  {values}"
