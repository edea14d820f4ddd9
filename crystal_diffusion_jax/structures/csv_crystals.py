"""Tables of crystals: which column holds them, and the files that it may name."""

import re
from collections.abc import Sequence
from pathlib import Path

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.structures.csv_tables import join_names
from crystal_diffusion_jax.structures.file_names import SUFFIXES, kind_of

# Columns that may hold the crystals, in order of preference: as text (CIF, JSON or POSCAR), or as
# the path of a file.
_COLUMNS = (
    "cif",
    "file",
    "filename",
    "cif_file",
    "path",
    "file_path",
    "cif_path",
    "structure",
    "poscar",
    "json",
)
_MAX_PATH = 4096  # characters
# And one whose values name files only in a folder of such files.
_ID = "material_id"


def is_inline(cell: str) -> bool:
    """Whether a cell holds a crystal itself, not the path of its file."""
    cell = cell.strip()
    return "\n" in cell or cell.startswith(("{", "[", "data_")) or len(cell) > _MAX_PATH


def crystal_column(path: Path, header: Sequence[str], in_folder: bool = False) -> str:
    """The column with the crystals.

    Args:
      path: the table, for messages.
      header: names of its columns.
      in_folder: files of crystals lie beside it, which `material_id` may name.

    Raises:
      UserError: there is none.
    """
    candidates = [*_COLUMNS, *([_ID] if in_folder else [])]
    for name in candidates:
        if name in header:
            return name
        found = [column for column in header if column.strip().lower() == name]
        if len(found) == 1:
            return found[0]
    hint = ""
    if any(re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?", name.strip()) for name in header):
        hint = " The first line has to name the columns."
    raise UserError(
        f"{path} has no column with the crystals or their files ({', '.join(candidates)}); "
        f"its columns are {join_names(header)}.{hint}"
    )


def find_file(folder: Path, name: str) -> Path:
    """The file that a cell names, relative to the table's folder, with or without its suffix.

    Raises:
      ValueError: there is none, or several; the message is the reason.
    """
    exact = folder / name
    if _is_file(exact):
        return exact
    # S2.cif is S2.CIF for the systems on which such names arise; in the order of `SUFFIXES`.
    stem, suffix = (exact.with_suffix(""), exact.suffix) if kind_of(name) else (exact, "")
    endings = [suffix.lower(), suffix.upper()] if suffix else []
    endings = endings or [form for each in SUFFIXES for form in (each, each.upper())]
    found = [path for ending in endings if _is_file(path := Path(f"{stem}{ending}"))]
    different = {path.stat().st_ino: path for path in found}
    if not found:
        raise ValueError(f"{printable(name)} is not in {folder}")
    if len(different) > 1:
        names = join_names([path.name for path in different.values()])
        raise ValueError(f"{printable(name)} may be {names}: write the whole name")
    return found[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null
        return False
