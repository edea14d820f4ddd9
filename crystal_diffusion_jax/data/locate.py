"""Finding data on this machine: known data sets and the user's own files."""

import dataclasses
import os
from pathlib import Path

from crystal_diffusion_jax import commands
from crystal_diffusion_jax.data.datasets import SPLITS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.user_cache import cache_folder
from crystal_diffusion_jax.structures.file_names import crystal_files, is_table, kind_of

# Key of a source that is not split yet, beside "train", "val" and "test".
UNSPLIT = "unsplit"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the crystals of one split are.

    Attributes:
      tables: csv or csv.gz files, one after the other.
      crystal_folder: the folder of the files of crystals that the rows name, each of which has to
        be named; None if the tables hold the crystals or paths.
    """

    tables: tuple[Path, ...]
    crystal_folder: Path | None = None

    @property
    def name(self) -> str:
        """For messages, e.g. "train.csv" or "train-0.csv ... train-7.csv"."""
        first, *others = (table.name for table in self.tables)
        return f"{first} ... {others[-1]}" if others else first

    def crystal_files(self) -> list[Path]:
        """The files of crystals that the rows have to name."""
        return [] if self.crystal_folder is None else crystal_files(self.crystal_folder)


def download_folder(name: str) -> Path:
    """The folder in the cache that the official files of a known data set are downloaded to."""
    return cache_folder() / "data" / name


def find_known(name: str, root: str = "") -> Path | None:
    """Folder of a known data set; None if it has to be downloaded.

    Searched in this order: `root`, `$CRYSTAL_DIFFUSION_DATA/<name>`, the cache.

    Raises:
      UserError: `root` is given and is not a folder. A wrong path never falls through to the next
        place, which would silently train on other data.
    """
    if root:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"root='{root}' is not a folder: for {name} give the folder that holds its "
                "train.csv, val.csv and test.csv (or .csv.gz)."
            )
        return folder
    return next((place for place in _places(name) if find_splits(place)), None)


def _places(name: str) -> list[Path]:
    base = os.environ.get("CRYSTAL_DIFFUSION_DATA")
    own = [Path(base).expanduser() / name] if base else []
    return [*own, download_folder(name)]


def known_sources(name: str, root: str = "") -> dict[str, Source]:
    """Sources of a known data set by split; "train" and "val" at least.

    Raises:
      UserError: nothing found, or a split is missing.
    """
    folder = find_known(name, root)
    if folder is None:
        download = commands.next_command("prepare", [f"--dataset={name}"])
        raise UserError(
            f"No data for {name} in {' or '.join(map(str, _places(name)))}: download them with "
            f"`{download}`, or give their folder by --root (training: --config.data.root) or "
            "CRYSTAL_DIFFUSION_DATA."
        )
    return _with_train_and_val(folder)


def own_sources(root: str) -> dict[str, Source]:
    """Sources of the user's own data: by split, or one under the key `UNSPLIT`.

    Args:
      root: (a) a folder with train, val and perhaps test as csv or csv.gz, with a crystal or the
        path of its file in each row; a split may come in several files, e.g. train-0.csv,
        train-1.csv; (b) one such table; or (c) a folder of files of crystals with one csv that
        names them.

    Raises:
      UserError: `root` is none of these.
    """
    path = Path(root).expanduser()
    if path.is_file():
        if is_table(path):
            return {UNSPLIT: Source((path,))}
        if kind_of(path.name):
            raise UserError(
                f"root='{root}' holds crystals without their properties: give the folder it is in, "
                "with one csv that names the files and their properties, or that csv."
            )
        raise UserError(f"root='{root}' is neither a folder nor a .csv or .csv.gz file.")
    if not path.is_dir():
        raise UserError(f"root='{root}' does not exist.")
    if not crystal_files(path) or {"train", "val"} <= find_splits(path).keys():
        return _with_train_and_val(path)
    csv_files = [file for file in sorted(path.iterdir()) if is_table(file) and file.is_file()]
    if len(csv_files) != 1:
        names = ", ".join(file.name for file in csv_files) or "none"
        raise UserError(
            f"{path} holds files of crystals and needs exactly one csv beside them that names the "
            f"files and their properties; found: {names}."
        )
    return {UNSPLIT: Source((csv_files[0],), crystal_folder=path)}


def find_splits(folder: Path) -> dict[str, Source]:
    """The splits in a folder: train.csv or train.csv.gz, or else all train*.csv[.gz], and so on."""
    splits = {}
    for split in SPLITS:
        for pattern in (f"{split}.csv", f"{split}*.csv"):
            # A plain file takes precedence over its compressed copy.
            found = [*folder.glob(f"{pattern}.gz"), *folder.glob(pattern)]
            tables = {path.name.removesuffix(".gz"): path for path in found if path.is_file()}
            if tables:
                splits[split] = Source(tuple(tables[name] for name in sorted(tables)))
                break
    return splits


def _with_train_and_val(folder: Path) -> dict[str, Source]:
    splits = find_splits(folder)
    for split in ("train", "val"):
        if split not in splits:
            raise UserError(
                f"{folder} has no {split}.csv or {split}.csv.gz; a folder of data needs at least "
                "train and val (to have one table split at random, give that file as root)."
            )
    return splits
