"""The measured rows of Table 1 in a JSON file, so that rows measured one by one make one page."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.table1 import PAGE, RATES, Measured, Row, Spread


def read(path: Path) -> list[Measured]:
    """The rows in the file, none if it is not there.

    Raises:
      UserError: something else is in it.
    """
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
        return [_measured(**entry) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} should hold the measured rows of the page beside it, but cannot be read "
            f"({type(error).__name__}: {error}): remove it, or name another --out"
        ) from None


def to_text(measured: Sequence[Measured]) -> str:
    """What `read` understands, a row on each line."""
    entries = []
    for each in measured:
        columns = {
            name: [round(value, 6) for value in dataclasses.astuple(spread)]
            for name, spread in each.columns.items()
        }
        entries.append(json.dumps(dataclasses.asdict(each) | {"columns": columns}))
    return "[\n" + ",\n".join(entries) + "\n]\n"


def _measured(row: dict[str, Any], columns: dict[str, list[float]], **others: Any) -> Measured:
    spreads = {name: Spread(*columns[name]) for name in RATES}
    return Measured(row=Row(**row), columns=spreads, **others)


def merged(former: Sequence[Measured], new: Sequence[Measured]) -> list[Measured]:
    """All rows once, the new ones instead of former ones of the same request.

    In the order of docs/table1.md, then in that of their arrival.
    """
    rows = {each.row: each for each in [*former, *new]}
    order = [row for row in PAGE if row in rows] + [row for row in rows if row not in PAGE]
    return [rows[row] for row in order]
