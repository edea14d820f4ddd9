"""Rows of csv and csv.gz files of any origin."""

import csv
import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.archives import MAX_EXPANSION
from crystal_diffusion_jax.runtime.files import TooLarge, megabytes, open_regular
from crystal_diffusion_jax.structures.csv_dialect import separator_of, with_decimal_commas
from crystal_diffusion_jax.structures.encodings import ALWAYS_ALLOWED, text_stream
from crystal_diffusion_jax.structures.limits import MAX_CIF_CHARACTERS

# A cell longer than a CIF may be makes a bad row; one longer than this aborts the read. The csv
# module's default of 128 KiB is too short for the CIF of a big cell.
_MAX_FIELD = 32 * MAX_CIF_CHARACTERS
_MAX_NAMES = 20

# As in `csv.DictReader`: a cell missing at a row's end is None, and cells beyond the header are
# under the key None.
Row = dict[str | None, str | None]


def read_rows(path: Path, numbers: Sequence[str] = ()) -> tuple[list[str], Iterator[Row]]:
    """Header and data rows of a csv or csv.gz file; blank lines are skipped.

    Columns are separated by commas, semicolons or tabs. Rows are read one at a time, so the table
    may be larger than memory.

    Args:
      path: the file.
      numbers: columns of numbers. Where commas do not separate the columns, and these numbers
        certainly have decimal commas, they get full stops.

    Raises:
      UserError: the file cannot be read, is not a csv in UTF-8 or UTF-16, or has an empty or
        ambiguous header; also raised while iterating.
    """
    header, separator, rows = _open(path)
    if not header:
        raise UserError(f"{path} is empty: a header line with the column names is expected.")
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise UserError(f"{path} has more than one column named {join_names(twice)}: rename one.")
    known = [name for name in numbers if name in header]
    if separator == "," or not known:
        return header, rows
    commas = [name for name in known if with_decimal_commas(_column(path, name))]
    return header, (_with_full_stops(row, commas) for row in rows)


def _column(path: Path, name: str) -> Iterator[str]:
    return ((row.get(name) or "").strip() for row in _open(path)[2])


def _with_full_stops(row: Row, columns: Sequence[str]) -> Row:
    return row | {name: (row.get(name) or "").replace(",", ".") for name in columns}


def _open(path: Path) -> tuple[list[str], str, Iterator[Row]]:
    """Header, separator, rows."""
    rows = _read(path)
    header, separator = next(rows)
    return header, separator, rows


def _read(path: Path) -> Iterator[Any]:
    """First the header and the separator, then the rows."""
    csv.field_size_limit(_MAX_FIELD)
    try:
        with open_regular(path) as file:
            binary = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
            with text_stream(binary, newline="") as text:
                lines = _lines(text, file, path)
                first = next(lines, "")
                separator = separator_of(first)
                # strict: an unclosed quote is an error instead of swallowing the rest of the file.
                rows = csv.DictReader(
                    itertools.chain([first], lines), delimiter=separator, strict=True
                )
                yield list(rows.fieldnames or []), separator
                yield from rows
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read as a csv table: it is not UTF-8 ({error.reason} "
            f"{error.object[error.start]:#x}): save it as UTF-8."
        ) from error
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a csv table: {error}.") from error


def _lines(text: IO[str], file: IO[bytes], path: Path) -> Iterator[str]:
    """Lines of bounded length, and of a csv.gz a bounded number of them.

    Raises:
      TooLarge: beyond a limit.
    """
    total = 0
    compressed = path.suffix.lower() == ".gz"
    while line := text.readline(_MAX_FIELD):
        if len(line) == _MAX_FIELD:
            raise TooLarge(f"a line is longer than {megabytes(_MAX_FIELD)}")
        total += len(line)
        if compressed and total > max(ALWAYS_ALLOWED, MAX_EXPANSION * file.tell()):
            raise TooLarge(f"it expands more than {MAX_EXPANSION}-fold, which no crystals do")
        yield line


def join_names(names: Sequence[str]) -> str:
    """Names for a message, separated by commas; long names and long lists are cut."""
    some = [printable(name) or "(without name)" for name in names[:_MAX_NAMES]]
    return ", ".join(some + ["..."] * (len(names) > _MAX_NAMES))
