"""csv tables of crystals: one crystal per row, as text or in a file of its own."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.structures.csv_crystals import crystal_column, find_file, is_inline
from crystal_diffusion_jax.structures.csv_tables import Row, join_names, read_rows
from crystal_diffusion_jax.structures.limits import MAX_NAME, MAX_PROPERTY

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
      properties: values in the order asked for.
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


def read_table(source: Source, properties: Sequence[str]) -> Iterator[RawCrystal | BadRow]:
    """Reads the tables of a source row by row and checks everything but the crystals themselves.

    Args:
      source: tables and, for crystals in files that all have to be named, their folder.
      properties: columns to read as numbers.

    Yields:
      Each row in order; then, as bad rows, the files that no row names.

    Raises:
      UserError: a table cannot be read, or a column is missing.
    """
    not_named = {file.name: file for file in source.crystal_files()}
    named: set[Path] = set()
    for table in source.tables:
        header, rows, column, holds_paths = _open_table(source, table, properties)
        for name in properties:
            if name not in header:
                raise UserError(
                    f"{table} has no column '{name}' for the property; "
                    f"its columns are {join_names(header)}{did_you_mean(name, header)}"
                )
        stem = table.name.removesuffix(".gz").removesuffix(".csv")
        for number, cells in enumerate(rows, start=1):
            own_id = cells.get("material_id") or ""
            material_id = printable(own_id, MAX_NAME) or f"{stem}-{number}"
            cell = (cells.get(column) or "").strip()
            try:
                if None in cells:
                    raise ValueError("more cells than the header has columns")
                if len(own_id) > MAX_NAME:
                    raise ValueError(f"material_id is longer than {MAX_NAME} characters")
                if not cell:
                    raise ValueError(f"column '{column}' is empty")
                crystal: str | Path = cell
                if holds_paths:
                    crystal = find_file(table.parent, cell)
                    not_named.pop(crystal.name, None)
                    if crystal in named:
                        raise ValueError(f"{printable(crystal.name)} belongs to an earlier row")
                    named.add(crystal)
                values = tuple(_number(cells, name) for name in properties)
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


def _number(cells: Mapping[str | None, str | None], name: str) -> float:
    """The cell as a finite number; ValueError with the reason otherwise."""
    text = (cells.get(name) or "").strip()
    if not text:
        raise ValueError(f"{name} is missing")
    try:
        value = float(text)
    except ValueError:
        comma = " (write a full stop, not a comma)" if "," in text else ""
        raise ValueError(f"{name} is not a number: '{printable(text)}'{comma}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is not finite: '{printable(text)}'")
    if abs(value) > MAX_PROPERTY:
        raise ValueError(f"{name} is beyond {MAX_PROPERTY:g}: '{printable(text)}'")
    return value
