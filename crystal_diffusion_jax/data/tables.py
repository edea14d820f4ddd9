"""csv tables of crystals: one row a crystal, with its CIF inline or in a file of its own."""

import csv
import dataclasses
import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from crystal_diffusion_jax.data.limits import (
    MAX_CIF_CHARACTERS,
    MAX_CRYSTALS,
    MAX_NAME,
    MAX_PROPERTY,
    TooLarge,
    megabytes,
    read_text,
    shown,
)
from crystal_diffusion_jax.data.prepared import BadRow
from crystal_diffusion_jax.errors import UserError, did_you_mean

# Columns that may name a crystal's CIF file, in order of preference.
FILE_COLUMNS = ("file", "filename", "cif_file", "material_id")

# The csv module refuses fields over 128 KiB, and the CIF of a big cell is longer. One that is too
# long to be a crystal is a bad row; one that is longer than this ends the reading.
_MAX_FIELD = 32 * MAX_CIF_CHARACTERS
# Of the text, that of a csv.gz included.
_MAX_TABLE = 2**32
# Tables of CIFs shrink to a tenth, gzip's best is a thousandth. Small files may do what they like.
_MAX_EXPANSION = 100
_HARMLESS = 2**24
_MAX_COLUMNS_LISTED = 20


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


def read_rows(path: Path) -> tuple[list[str], list[dict[str | None, str | None]]]:
    """Header and data rows of a csv or csv.gz file; blank lines are no rows.

    As in `csv.DictReader`, a cell missing at a row's end is None, and cells beyond the header are
    under the key None.

    Raises:
      UserError: the file cannot be read, is no UTF-8 csv, or has an empty or ambiguous header.
    """
    csv.field_size_limit(_MAX_FIELD)
    try:
        if not path.is_file():  # a pipe would keep us waiting
            raise OSError("there is no such regular file")
        with open(path, "rb") as file, _decoded(file, path) as text:
            # strict: an unclosed quote is an error instead of swallowing the rest of the file.
            reader = csv.DictReader(_lines(text, file, path), strict=True)
            header = list(reader.fieldnames or [])
            rows: list[dict[str | None, str | None]] = []
            for row in reader:
                rows.append(row)
                if len(rows) > MAX_CRYSTALS:
                    raise TooLarge(f"more than {MAX_CRYSTALS:,} rows; split it into several files")
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a csv table: {error}.") from error
    if not header:
        raise UserError(f"{path} is empty: a header line with the column names is expected.")
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise UserError(f"{path} has more than one column named {listed(twice)}: rename one.")
    return header, rows


def _decoded(file: IO[bytes], path: Path) -> IO[str]:
    binary = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
    # utf-8-sig: spreadsheet programs put a byte order mark before the first column's name.
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")


def _lines(text: IO[str], file: IO[bytes], path: Path) -> Iterator[str]:
    """Lines of a csv or csv.gz file, none of them endless, and not endlessly many.

    Raises:
      TooLarge: beyond a limit.
    """
    total = 0
    while line := text.readline(_MAX_FIELD):
        if len(line) == _MAX_FIELD:
            raise TooLarge(f"a line is longer than {megabytes(_MAX_FIELD)}")
        total += len(line)
        if total > _MAX_TABLE:
            raise TooLarge(f"more than {megabytes(_MAX_TABLE)}; split it into several files")
        if path.suffix == ".gz" and total > max(_HARMLESS, _MAX_EXPANSION * file.tell()):
            raise TooLarge(f"it expands more than {_MAX_EXPANSION}-fold, which no crystals do")
        yield line


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, each of them short."""
    some = [shown(name) or "(without name)" for name in names[:_MAX_COLUMNS_LISTED]]
    return ", ".join(some + ["..."] * (len(names) > _MAX_COLUMNS_LISTED))


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
