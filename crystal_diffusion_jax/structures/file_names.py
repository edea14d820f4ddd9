"""Which files hold crystals, by their names. `structures.crystal_files` reads them."""

import re
from collections.abc import Mapping
from pathlib import Path

from crystal_diffusion_jax.errors import UserError

# Kinds of text files, each with its suffixes; also with .gz behind.
TEXT_KINDS: Mapping[str, tuple[str, ...]] = {
    "CIF": (".cif", ".mcif"),
    "POSCAR": (".vasp", ".poscar", ".contcar"),
    "JSON": (".json",),
    "XSF": (".xsf",),
    "CSSR": (".cssr",),
    "RES": (".res",),
}
# And of files that are read piece by piece.
OTHER_KINDS: Mapping[str, tuple[str, ...]] = {
    "extended XYZ": (".extxyz", ".xyz"),
    "ASE trajectory": (".traj",),
    "ASE database": (".db",),
}
SUFFIXES = tuple(
    suffix for kinds in (TEXT_KINDS, OTHER_KINDS) for each in kinds.values() for suffix in each
)
_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


def kind_of(name: str) -> str | None:
    """The kind of a file by its name, None if it is not a file of crystals."""
    lower = name.lower()
    for kind, suffixes in (TEXT_KINDS | OTHER_KINDS).items():  # type: ignore[operator]
        compressed = tuple(f"{suffix}.gz" for suffix in suffixes) if kind in TEXT_KINDS else ()
        if lower.endswith(suffixes + compressed):
            return kind
    # As VASP names them, with anything before or behind.
    return "POSCAR" if re.search("POSCAR|CONTCAR", Path(name).name) else None


def crystal_files(folder: Path) -> list[Path]:
    """The files of crystals in a folder, 2.cif before 10.cif; hidden files are left out."""
    files = [
        file
        for file in folder.iterdir()
        if kind_of(file.name) and not file.name.startswith(".") and not file.is_dir()
    ]
    return sorted(files, key=lambda file: natural_order(file.name))


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorts 2.cif before 10.cif."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def is_table(path: Path) -> bool:
    """Whether a file is a csv table.

    Raises:
      UserError: it is a spreadsheet.
    """
    if path.name.lower().endswith(_SPREADSHEETS):
        raise UserError(f"{path} is a spreadsheet: save it as csv (UTF-8), and give that file.")
    return path.name.lower().endswith(_TABLES)
