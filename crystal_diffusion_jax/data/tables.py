"""csv tables of crystals: one crystal per row, with its CIF inline or in a file of its own."""

import csv
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from crystal_diffusion_jax.data.locate import Source, own_sources
from crystal_diffusion_jax.data.values import Column, columns_of
from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.runtime.files import TooLarge, read_text
from crystal_diffusion_jax.structures.csv_tables import Row, join_names, read_rows
from crystal_diffusion_jax.structures.limits import MAX_CIF_CHARACTERS, MAX_NAME

# Columns that may name a crystal's CIF file, in order of preference.
FILE_COLUMNS = ("file", "filename", "cif_file", "material_id")


@dataclasses.dataclass(frozen=True)
class RawCrystal:
    """A row with valid properties whose CIF is not parsed yet.

    Attributes:
      file: name of the table.
      row: data row counted from 1, the header not counted.
      material_id: column `material_id`, or else made from file name and row.
      cif: text of the CIF.
      properties: values in the order asked for, NaN where missing; of a class its number.
    """

    file: str
    row: int
    material_id: str
    cif: str
    properties: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row of a table that cannot be used.

    Attributes:
      file: name of the table, or of a CIF file that no row names.
      row: data row counted from 1, the header not counted; 0 for a CIF file without a row.
      material_id: the row's identifier.
      reason: what is wrong with it.
    """

    file: str
    row: int
    material_id: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.file} row {self.row}" if self.row else self.file
        return f"{place} ({self.material_id}): {self.reason}"


def property_names(text: str, root: str) -> tuple[str, ...]:
    """The columns that a flag names: one as it is, or several as in a line of a csv file.

    Args:
      text: of the flag, for example 'gap, eV (HSE06)' or '"gap, eV (HSE06)",density'.
      root: the user's own data.

    Raises:
      UserError: the data cannot be read.
    """
    names = tuple(filter(None, next(csv.reader([text], skipinitialspace=True), [])))
    if len(names) < 2 or len(set(names)) < len(names):  # which `load` refuses
        return names
    header, _ = read_rows(next(iter(own_sources(root).values())).tables[0])
    return (text,) if text in header else names


def read_columns(source: Source, properties: Sequence[str]) -> list[Column]:
    """What the property columns of a source's tables hold.

    Raises:
      UserError: a table cannot be read, or a column is missing or holds no property.
    """

    def rows(table: Path) -> Iterator[Row]:
        header, rows = read_rows(table)
        for name in properties:
            if name not in header:
                raise UserError(
                    f"{table} has no column '{name}' for the property; "
                    f"its columns are {join_names(header)}{_meant(name, header)}"
                )
        return rows

    return columns_of(itertools.chain.from_iterable(map(rows, source.tables)), properties)


def _meant(name: str, header: Sequence[str]) -> str:
    """What to write instead of the name of a column that is not there."""
    for column in header:
        if column.strip().lower() == name.strip().lower() or column.startswith(f"{name},"):
            return f"; did you mean '{column}'?" + (
                f" In a list of several, quote it: '\"{column}\",...'" if "," in column else ""
            )
    return did_you_mean(name, header)


def read_table(source: Source, columns: Sequence[Column]) -> Iterator[RawCrystal | BadRow]:
    """Reads the tables of a source row by row and checks everything but the CIFs themselves.

    Args:
      source: tables and, for CIFs in files of their own, their folder.
      columns: the property columns.

    Yields:
      Each row in order; then, as bad rows, the CIF files that no row names.

    Raises:
      UserError: a table cannot be read.
    """
    cif_files = source.cif_files()
    not_named = dict(cif_files)

    def cif_text(cell: str) -> str:
        """The CIF itself, or that of the file it names."""
        if source.cif_folder is None:
            return cell
        stem = cell.removesuffix(".cif")
        if stem not in cif_files:
            raise ValueError(f"{printable(stem)}.cif is not in {source.cif_folder}")
        if not_named.pop(stem, None) is None:
            raise ValueError(f"{printable(stem)}.cif belongs to an earlier row")
        try:
            return read_text(cif_files[stem], MAX_CIF_CHARACTERS)
        except TooLarge as error:
            raise ValueError(f"{cif_files[stem].name} is {error}") from error

    for table in source.tables:
        header, rows = read_rows(table)
        cif_column = _cif_column(table, header, inline=source.cif_folder is None)
        stem = table.name.removesuffix(".gz").removesuffix(".csv")
        for number, cells in enumerate(rows, start=1):
            own_id = cells.get("material_id") or ""
            material_id = printable(own_id, MAX_NAME) or f"{stem}-{number}"
            cell = (cells.get(cif_column) or "").strip()
            try:
                if None in cells:
                    raise ValueError("more cells than the header has columns")
                if len(own_id) > MAX_NAME:
                    raise ValueError(f"material_id is longer than {MAX_NAME} characters")
                if not cell:
                    raise ValueError(f"column '{cif_column}' is empty")
                cif = cif_text(cell)
                values = tuple(column.value(cells.get(column.name)) for column in columns)
            except (ValueError, OSError) as error:
                yield BadRow(table.name, number, material_id, str(error))
            else:
                yield RawCrystal(table.name, number, material_id, cif, values)
    for stem, path in not_named.items():
        yield BadRow(path.name, 0, stem, f"no row of {source.name} names it")


def _cif_column(table: Path, header: Sequence[str], inline: bool) -> str:
    """The column with the CIF text, or with the name of the CIF file."""
    candidates = ("cif",) if inline else FILE_COLUMNS
    for name in candidates:
        if name in header:
            return name
    wanted = "with the CIF text" if inline else "that names the CIF file"
    raise UserError(
        f"{table} has no column {wanted} ({', '.join(candidates)}); "
        f"its columns are {join_names(header)}."
    )
