"""csv tables of crystals: one row a crystal, with its CIF inline or in a file of its own."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from crystal_diffusion_jax.data.prepared import BadRow
from crystal_diffusion_jax.errors import UserError, did_you_mean, shown
from crystal_diffusion_jax.runtime.files import TooLarge, read_text
from crystal_diffusion_jax.structures.csv_tables import listed, read_rows
from crystal_diffusion_jax.structures.limits import MAX_CIF_CHARACTERS, MAX_NAME, MAX_PROPERTY

# Columns that may name a crystal's CIF file, in order of preference.
FILE_COLUMNS = ("file", "filename", "cif_file", "material_id")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the crystals of one table are.

    Attributes:
      table: csv or csv.gz file.
      cif_folder: the folder of the *.cif files that the rows name; None when the table has the
        CIF texts in its column `cif`.
    """

    table: Path
    cif_folder: Path | None = None

    def cif_files(self) -> list[Path]:
        """The *.cif files beside the table, sorted; empty when the CIF texts are inline."""
        if self.cif_folder is None:
            return []
        return sorted(path for path in self.cif_folder.glob("*.cif") if path.is_file())


@dataclasses.dataclass(frozen=True)
class RawCrystal:
    """A row whose properties are in order and whose CIF is not parsed yet.

    Attributes:
      row: data row counted from 1, the header not counted.
      material_id: column `material_id`, or else made from file name and row.
      cif: text of the CIF.
      properties: values in the order asked for.
    """

    row: int
    material_id: str
    cif: str
    properties: tuple[float, ...]


def read_table(source: Source, properties: Sequence[str]) -> tuple[list[RawCrystal], list[BadRow]]:
    """Reads a table and checks everything but the CIFs themselves.

    Args:
      source: table and, for CIFs in files of their own, their folder.
      properties: columns to read as numbers.

    Returns:
      The rows in order, and those that are bad, CIF files that no row names included.

    Raises:
      UserError: the table cannot be read, or a column is missing.
    """
    header, rows = read_rows(source.table)
    cif_column = _cif_column(source, header)
    for name in properties:
        if name not in header:
            raise UserError(
                f"{source.table} has no column '{name}' for the property; "
                f"its columns are {listed(header)}{did_you_mean(name, header)}"
            )
    files = {path.stem: path for path in source.cif_files()}
    unnamed = dict(files)
    crystals: list[RawCrystal] = []
    bad_rows: list[BadRow] = []
    for number, cells in enumerate(rows, start=1):
        stem = source.table.name.removesuffix(".gz").removesuffix(".csv")
        own_id = cells.get("material_id") or ""
        material_id = shown(own_id, MAX_NAME) or f"{stem}-{number}"
        text = (cells.get(cif_column) or "").strip()
        try:
            if None in cells:
                raise ValueError("more cells than the header has columns")
            if len(own_id) > MAX_NAME:
                raise ValueError(f"material_id is longer than {MAX_NAME} characters")
            if not text:
                raise ValueError(f"column '{cif_column}' is empty")
            if source.cif_folder is not None:
                key = text.removesuffix(".cif")
                if key not in files:
                    raise ValueError(f"{shown(key)}.cif is not in {source.cif_folder}")
                if unnamed.pop(key, None) is None:
                    raise ValueError(f"{shown(key)}.cif belongs to an earlier row")
                text = _read_cif(files[key])
            values = tuple(_number(cells, name) for name in properties)
        except (ValueError, OSError) as error:
            bad_rows.append(BadRow(source.table.name, number, material_id, str(error)))
        else:
            crystals.append(RawCrystal(number, material_id, text, values))
    bad_rows += [
        BadRow(path.name, 0, stem, f"no row of {source.table.name} names it")
        for stem, path in unnamed.items()
    ]
    return crystals, bad_rows


def _read_cif(path: Path) -> str:
    try:
        return read_text(path, MAX_CIF_CHARACTERS)
    except TooLarge as error:
        raise ValueError(f"{path.name} is {error}") from error


def _cif_column(source: Source, header: Sequence[str]) -> str:
    """The column with the CIF text, or with the name of the CIF file."""
    candidates = ("cif",) if source.cif_folder is None else FILE_COLUMNS
    for name in candidates:
        if name in header:
            return name
    wanted = "with the CIF text" if source.cif_folder is None else "that names the CIF file"
    raise UserError(
        f"{source.table} has no column {wanted} ({', '.join(candidates)}); "
        f"its columns are {listed(header)}."
    )


def _number(cells: dict[str | None, str | None], name: str) -> float:
    """The cell as a finite number; ValueError with the reason otherwise."""
    text = (cells.get(name) or "").strip()
    if not text:
        raise ValueError(f"{name} is missing")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is not a number: '{shown(text)}'") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is not finite: '{shown(text)}'")
    if abs(value) > MAX_PROPERTY:
        raise ValueError(f"{name} is beyond {MAX_PROPERTY:g}: '{shown(text)}'")
    return value
