"""Rows of csv and csv.gz files from anywhere."""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from crystal_diffusion_jax.errors import UserError, shown
from crystal_diffusion_jax.runtime.files import TooLarge, megabytes
from crystal_diffusion_jax.structures.limits import (
    MAX_CIF_CHARACTERS,
    MAX_CRYSTALS,
)

# The csv module refuses fields over 128 KiB, and the CIF of a big cell is longer. One that is too
# long to be a crystal is a bad row; one that is longer than this ends the reading.
_MAX_FIELD = 32 * MAX_CIF_CHARACTERS


# Of the text, that of a csv.gz included.
_MAX_TABLE = 2**32


# Tables of CIFs shrink to a tenth, gzip's best is a thousandth. Small files may do what they like.
_MAX_EXPANSION = 100


_HARMLESS = 2**24


_MAX_COLUMNS_LISTED = 20


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
