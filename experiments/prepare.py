"""Gets a known data set ready: downloads what is missing, checks and caches it, says what is there.

    python -m experiments.prepare --dataset=perov5
    python -m experiments.prepare --oracle

Data come from --root, from `$CRYSTAL_DIFFUSION_DATA/<name>`, or else from CDVAE's repository, from
where they are downloaded into the cache. Training afterwards starts without parsing anything. With
--oracle the published property networks are fetched into the cache as well, or alone.
"""

import argparse
import time

import numpy as np

from crystal_diffusion_jax.data import locate
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.data.download import download
from crystal_diffusion_jax.data.load import DataConfig, load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracle import weights
from experiments import cli


def main() -> None:
    """Reads the command line and prepares the data set it names."""
    parser = cli.Parser(prog="python -m experiments.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dataset", choices=list(KNOWN_DATASETS))
    parser.add_argument("--oracle", action="store_true", help="fetch the published networks")
    parser.add_argument("--root", default="", help="folder with train, val and test csv or csv.gz")
    parser.add_argument(
        "--skip_bad_rows", action="store_true", help="go on without rows that cannot be used"
    )
    args = parser.parse_args()
    if args.dataset is None and not args.oracle:
        raise UserError("nothing to prepare: give --dataset=NAME, --oracle, or both")
    if args.oracle:
        for path in weights.prepare():
            print(f"network: {path}")
    if args.dataset is None:
        return
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
    print(_row("split", "crystals", "atoms min/mean/max", "elements", _property_title(spec)))
    for split, dataset in splits.items():
        print(_summary(split, dataset))
    print(f"ready in {seconds:.1f} s, prepared arrays in {locate.cache_folder() / 'prepared'}")


def _download(spec: DatasetSpec) -> None:
    files = download(spec, locate.download_folder(spec.name)).values()
    for file in files:
        state = "as published" if file.verified else "not known beforehand, note it down"
        print(f"{file.path}: {file.num_rows} rows, sha256 {file.sha256} ({state})")
    total = sum(file.num_rows for file in files)
    if total != spec.total_rows:
        print(f"{total} rows in all, where the data set's own description says {spec.total_rows}")


def _property_title(spec: DatasetSpec) -> str:
    return f"{spec.property_name} ({spec.unit}) min/mean/max"


def _summary(split: str, dataset: CrystalDataset) -> str:
    atoms, values = dataset.num_atoms, dataset.properties[:, 0]
    return _row(
        split,
        str(len(dataset)),
        f"{atoms.min()} / {atoms.mean():.1f} / {atoms.max()}",
        str(len(np.unique(dataset.atomic_numbers))),
        f"{values.min():.3f} / {values.mean():.3f} / {values.max():.3f}",
    )


def _row(split: str, crystals: str, atoms: str, elements: str, values: str) -> str:
    return f"{split:<6}{crystals:>9}{atoms:>20}{elements:>10}  {values}"


if __name__ == "__main__":
    cli.run(main)
