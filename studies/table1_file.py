"""The measured rows of Table 1 in a JSON file, so that rows measured one by one make one page."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, read_json
from studies.table1_rows import PAGE, PUBLISHED, RATES, Measured, Row, Spread

_ROW_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "model": str,
    "dataset": str,
    "guidance": (int, float),
    "renoising_steps": (int, type(None)),
    "charge_balance": bool,
}
_TYPES: Mapping[str, type] = {
    "num": int,
    "seeds": int,
    "date": str,
    "made_with": str,
    "weights_sha256": str,
    "trained_on": int,
    "renoising_steps": int,
}


def read(path: Path) -> list[Measured]:
    """The rows in the file, none if it is not there.

    Raises:
      UserError: something else is in it.
    """
    if not path.exists():
        return []
    try:
        entries = read_json(path, MAX_DESCRIPTION_BYTES)
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
        return [_measured(entry) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} should hold the measured rows of the page beside it, but cannot be read "
            f"({type(error).__name__}: {error}): remove it, or name another --out"
        ) from None


def to_text(measured: Sequence[Measured]) -> str:
    """What `read` understands, a row on each line; a rate that is not defined is null."""
    entries = []
    for each in measured:
        columns = {
            name: [
                None if math.isnan(value) else round(value, 6)
                for value in dataclasses.astuple(spread)
            ]
            for name, spread in each.columns.items()
        }
        content = dataclasses.asdict(each) | {"columns": columns}
        entries.append(json.dumps(content, allow_nan=False))
    return "[\n" + ",\n".join(entries) + "\n]\n"


def merged(former: Sequence[Measured], new: Sequence[Measured]) -> list[Measured]:
    """All rows once, the new ones instead of former ones of the same request.

    In the order of docs/table1.md, then in that of their arrival.
    """
    rows = {each.row: each for each in [*former, *new]}
    order = [row for row in PAGE if row in rows] + [row for row in rows if row not in PAGE]
    return [rows[row] for row in order]


def _measured(entry: dict[str, Any]) -> Measured:
    row = {name: _typed(entry["row"], name, kind) for name, kind in _ROW_TYPES.items()}
    if row["dataset"] not in PUBLISHED:
        raise ValueError(f"no data set {row['dataset']!r}")
    return Measured(
        row=Row(**row),
        columns={name: _spread(entry["columns"][name]) for name in RATES},
        **{name: _typed(entry, name, kind) for name, kind in _TYPES.items()},
    )


def _typed(entry: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    value = entry[name]
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r:.40}")
    return value


def _spread(values: list[float | None]) -> Spread:
    mean, low, high = (math.nan if value is None else float(value) for value in values)
    return Spread(mean, low, high)
