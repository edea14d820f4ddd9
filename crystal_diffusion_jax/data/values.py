"""Cells of property columns: numbers, names of classes, and missing values.

What a column holds is what most of its cells are: numbers, True and False, or names. A cell of
another kind is refused, never guessed: "1.2 eV", ">5" and "1,5" are neither numbers nor names.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.structures.limits import MAX_NAME, MAX_PROPERTY

# Cells without a value, in any case; -nan, as C prints it, is another.
MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "none", "null", "-", "--", "?"})
# The classes of a column of True and False, in the order of their values 0 and 1.
BOOLEANS = ("False", "True")
MAX_CLASSES = 100  # more names are texts of another kind, such as formulas

_BY_LOWER_CASE = {name.lower(): name for name in BOOLEANS}


@dataclasses.dataclass(frozen=True)
class Column:
    """A property column.

    Attributes:
      name: of the column.
      class_names: names of its classes, whose values are 0, 1, ...; empty for numbers.
    """

    name: str
    class_names: tuple[str, ...] = ()

    def value(self, cell: str | None) -> float:
        """The cell as a number, NaN where it is missing.

        Raises:
          ValueError: the cell cannot be read; the message is the reason.
        """
        if cell is None:
            raise ValueError(f"the row ends before {self.name}")
        text = cell.strip()
        kind = _kind(text)
        if kind == "missing":
            return math.nan
        if self.class_names:
            name = _BY_LOWER_CASE.get(text.lower(), text)
            if name not in self.class_names:
                kinds = "True or False" if self.class_names == BOOLEANS else "names"
                raise ValueError(f"{self.name} is '{printable(text)}' where most rows hold {kinds}")
            return float(self.class_names.index(name))
        if kind != "number":
            comma = " (decimal or thousands? write it without a comma)" if "," in text else ""
            raise ValueError(f"{self.name} is not a number: '{printable(text)}'{comma}")
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{self.name} is not finite: '{printable(text)}'")
        if abs(value) > MAX_PROPERTY:
            raise ValueError(f"{self.name} is beyond {MAX_PROPERTY:g}: '{printable(text)}'")
        return value


def columns_of(
    rows: Iterable[Mapping[str | None, str | None]], names: Sequence[str]
) -> list[Column]:
    """What the columns of these names hold.

    Raises:
      UserError: more than `MAX_CLASSES` names in a column, or two that differ only in case.
    """
    kinds: dict[str, Counter[str]] = {name: Counter() for name in names}
    texts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for row in rows:
        for name in names:
            text = (row.get(name) or "").strip()
            kind = _kind(text)
            kinds[name][kind] += 1
            if kind == "name" and len(texts[name]) <= MAX_CLASSES:
                texts[name][text] += 1
    columns = []
    for name in names:
        # The first of equals: numbers, if there is any number.
        kind = max(("number", "boolean", "name"), key=lambda kind: kinds[name][kind])
        if kind == "boolean":
            columns.append(Column(name, BOOLEANS))
        elif kind == "name" and kinds[name]["name"]:
            columns.append(Column(name, _class_names(name, texts[name])))
        else:
            columns.append(Column(name))
    return columns


def _class_names(column: str, texts: Counter[str]) -> tuple[str, ...]:
    if len(texts) > MAX_CLASSES:
        first, second, *_ = texts
        raise UserError(
            f"column '{column}' holds more than {MAX_CLASSES} different texts, such as "
            f"'{printable(first)}' and '{printable(second)}': a property is a number, True or "
            "False, or the name of a class"
        )
    by_lower_case: dict[str, str] = {}
    for text in texts:
        other = by_lower_case.setdefault(text.casefold(), text)
        if other != text:
            raise UserError(f"column '{column}' holds both '{other}' and '{text}': write only one")
    return tuple(sorted(texts, key=str.casefold))


def _kind(text: str) -> str:
    """One of missing, number, boolean, name and other."""
    if text.lower() in MISSING:
        return "missing"
    if text.lower() in _BY_LOWER_CASE:
        return "boolean"
    try:
        if "_" not in text:  # which Python allows between digits
            return "missing" if math.isnan(float(text)) else "number"
    except ValueError:
        pass
    return "name" if text[0].isalpha() and text.isprintable() and len(text) <= MAX_NAME else "other"
