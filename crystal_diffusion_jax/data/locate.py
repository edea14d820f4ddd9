"""Where data are on this machine: the user's cache, the known data sets, the user's own files."""

import os
from pathlib import Path

from crystal_diffusion_jax.data.datasets import SPLITS
from crystal_diffusion_jax.data.tables import Source
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.user_cache import cache_folder

# Key of a table that is not split yet, beside "train", "val" and "test".
UNSPLIT = "unsplit"


def download_folder(name: str) -> Path:
    """The folder in the cache that the official files of a known data set are downloaded to."""
    return cache_folder() / "data" / name


def find_known(name: str, root: str = "") -> Path | None:
    """Folder of a known data set, or None where it has to be downloaded.

    The places, in this order: `root`, `$CRYSTAL_DIFFUSION_DATA/<name>`, the cache.

    Raises:
      UserError: `root` is given and is no folder. A wrong path never falls through to the next
        place, as the training would then silently run on other data.
    """
    if root:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"root='{root}' is not a folder: for {name} give the folder that holds its "
                "train.csv, val.csv and test.csv (or .csv.gz)."
            )
        return folder
    places = [download_folder(name)]
    if base := os.environ.get("CRYSTAL_DIFFUSION_DATA"):
        places.insert(0, Path(base).expanduser() / name)
    return next((place for place in places if split_tables(place)), None)


def known_sources(name: str, root: str = "") -> dict[str, Source]:
    """Tables of a known data set by split; "train" and "val" at least.

    Raises:
      UserError: nothing found, or a split is missing.
    """
    folder = find_known(name, root)
    if folder is None:
        base = os.environ.get("CRYSTAL_DIFFUSION_DATA")
        from_variable = str(Path(base) / name) if base else "$CRYSTAL_DIFFUSION_DATA (not set)"
        raise UserError(
            f"No data for {name} in {from_variable} or {download_folder(name)}: download them "
            f"with `python -m experiments.prepare --dataset={name}`, or give their folder as root."
        )
    return _require_train_and_val(folder, split_tables(folder))


def own_sources(root: str) -> dict[str, Source]:
    """Tables of the user's own data: by split, or one under the key `UNSPLIT`.

    Args:
      root: (a) a folder with train, val and perhaps test as csv or csv.gz with inline CIFs,
        (b) one such table, or (c) a folder of *.cif files with one csv that names them.

    Raises:
      UserError: `root` is none of these.
    """
    path = Path(root).expanduser()
    if path.is_file():
        if not path.name.endswith((".csv", ".csv.gz")):
            raise UserError(f"root='{root}' is neither a folder nor a .csv or .csv.gz file.")
        return {UNSPLIT: Source(path)}
    if not path.is_dir():
        raise UserError(f"root='{root}' does not exist.")
    tables = split_tables(path)
    if "train" in tables and "val" in tables:
        return tables
    if next(path.glob("*.cif"), None) is None:
        return _require_train_and_val(path, tables)
    csv_files = sorted([*path.glob("*.csv"), *path.glob("*.csv.gz")])
    if len(csv_files) != 1:
        names = ", ".join(file.name for file in csv_files) or "none"
        raise UserError(
            f"{path} holds *.cif files and needs exactly one csv beside them that names the files "
            f"and their properties; found: {names}."
        )
    return {UNSPLIT: Source(csv_files[0], cif_folder=path)}


def split_tables(folder: Path) -> dict[str, Source]:
    """The tables train, val and test that are in a folder; a plain csv goes before a csv.gz."""
    tables = {}
    for split in SPLITS:
        candidates = [folder / f"{split}.csv", folder / f"{split}.csv.gz"]
        table = next((path for path in candidates if path.is_file()), None)
        if table is not None:
            tables[split] = Source(table)
    return tables


def _require_train_and_val(folder: Path, tables: dict[str, Source]) -> dict[str, Source]:
    for split in ("train", "val"):
        if split not in tables:
            raise UserError(
                f"{folder} has no {split}.csv or {split}.csv.gz; a folder of data needs at least "
                "train and val (to have one table split at random, give that file as root)."
            )
    return tables
