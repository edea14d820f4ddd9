"""csv tables of crystals: one crystal per row, as text or in a file of its own."""

import contextlib
import csv
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from crystal_diffusion_jax.data.locate import Source, own_sources
from crystal_diffusion_jax.data.values import Column, columns_of
from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.structures.csv_crystals import crystal_column, find_file, is_inline
from crystal_diffusion_jax.structures.csv_tables import Row, join_names, read_rows
from crystal_diffusion_jax.structures.limits import MAX_NAME

# Rows in which a table shows whether it holds crystals or paths.
_FIRST = 100


@dataclasses.dataclass(frozen=True)
class RawCrystal:
    """A row with valid properties whose crystal is not read yet.

    Attributes:
      file: name of the table.
      row: data row counted from 1, the header not counted.
      material_id: column `material_id`, or else made from file name and row.
      crystal: text of the crystal, or its file.
      properties: values in the order asked for, NaN where missing; of a class its number.
    """

    file: str
    row: int
    material_id: str
    crystal: str | Path
    properties: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row of a table that cannot be used.

    Attributes:
      file: name of the table, or of a file of crystals that no row names.
      row: data row counted from 1, the header not counted; 0 for a file without a row.
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
        header, rows = read_rows(table, properties)
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
    """Reads the tables of a source row by row and checks everything but the crystals themselves.

    Args:
      source: tables and, for crystals in files that all have to be named, their folder.
      columns: the property columns.

    Yields:
      Each row in order; then, as bad rows, the files that no row names.

    Raises:
      UserError: a table cannot be read.
    """
    not_named = {file.name: file for file in source.crystal_files()}
    named: set[Path] = set()
    for table in source.tables:
        _, rows, crystals, holds_paths = _open_table(
            source, table, [column.name for column in columns]
        )
        stem = table.name.removesuffix(".gz").removesuffix(".csv")
        for number, cells in enumerate(rows, start=1):
            own_id = cells.get("material_id") or ""
            material_id = printable(own_id, MAX_NAME) or f"{stem}-{number}"
            cell = (cells.get(crystals) or "").strip()
            try:
                if None in cells:
                    raise ValueError("more cells than the header has columns")
                if len(own_id) > MAX_NAME:
                    raise ValueError(f"material_id is longer than {MAX_NAME} characters")
                if not cell:
                    raise ValueError(f"column '{crystals}' is empty")
                crystal: str | Path = cell
                if holds_paths:
                    crystal = find_file(table.parent, cell)
                    not_named.pop(crystal.name, None)
                    if crystal in named:
                        raise ValueError(f"{printable(crystal.name)} belongs to an earlier row")
                    named.add(crystal)
                values = tuple(column.value(cells.get(column.name)) for column in columns)
            except (ValueError, OSError) as error:
                yield BadRow(table.name, number, material_id, str(error))
            else:
                yield RawCrystal(table.name, number, material_id, crystal, values)
    for name, path in not_named.items():
        yield BadRow(name, 0, path.stem, f"no row of {source.name} names it")


def named_files(source: Source) -> list[Path]:
    """The files that the rows of a source name and that exist, beside those of its folder.

    Raises:
      UserError: a table cannot be read, or has no column of crystals.
    """
    files = dict.fromkeys(source.crystal_files())
    for table in source.tables:
        _, rows, column, holds_paths = _open_table(source, table, ())
        for cells in rows if holds_paths else ():
            with contextlib.suppress(ValueError):
                files[find_file(table.parent, (cells.get(column) or "").strip())] = None
    return list(files)


def _open_table(
    source: Source, table: Path, properties: Sequence[str]
) -> tuple[Sequence[str], Iterable[Row], str, bool]:
    """Header, rows, the column of the crystals, and whether it holds the paths of their files."""
    header, rows = read_rows(table, properties)
    column = crystal_column(table, header, in_folder=source.crystal_folder is not None)
    first: list[Row] = []
    for row in itertools.islice(rows, _FIRST):
        first.append(row)
        if is_inline(row.get(column) or ""):
            return header, itertools.chain(first, rows), column, False
    return header, itertools.chain(first, rows), column, True
