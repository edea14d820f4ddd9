"""How a csv table is written: what separates its columns, and decimal commas."""

import csv
import re
from collections.abc import Iterable

_SEPARATORS = ",;\t"
# 1,234 may be a thousand or so, or a little more than one.
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")


def separator_of(header: str) -> str:
    """What separates the names in a header line, outside of quotes: comma, semicolon or tab.

    Where several occur, the one that makes the most columns. A wrong choice cannot go unnoticed,
    because columns are found by name.
    """
    return max(_SEPARATORS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def with_decimal_commas(cells: Iterable[str]) -> bool:
    """Whether the numbers of a column certainly have decimal commas.

    At least one has a comma that separates no thousands, and none has a full stop.
    """
    certain = False
    for cell in cells:
        if "." in cell:
            return False
        if _DECIMAL_COMMA.fullmatch(cell) and not _THOUSANDS.fullmatch(cell):
            certain = True
    return certain
