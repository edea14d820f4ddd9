"""samples.json, the record of `experiments.sample` -> structures, all that were asked for.

The file may have been edited or made by others, so nothing in it is taken for granted.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError, shown
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json
from crystal_diffusion_jax.structures.cif_reader import checked_structure
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS


def read_record(path: Path) -> list[Structure | str]:
    """The structure of each crystal that was asked for, or the reason why there is none.

    Raises:
      UserError: the file cannot be read or is no such record, or an index is wrong or there twice.
    """
    try:
        record = read_json(path, MAX_RECORD_BYTES)
        num = _count(record["settings"]["num"])
        if num > MAX_CRYSTALS:
            raise ValueError(f"settings.num is {num}, more than {MAX_CRYSTALS:,}")
        results: list[Any] = [None] * num
        for entry in record["structures"]:
            _put(results, entry, entry)
        for entry in record["rejected"]:
            if not isinstance(entry["reason"], str):
                raise TypeError("a reason is no text")
            _put(results, entry, f"rejected when sampled: {shown(entry['reason'], 300)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by experiments.sample "
            f"({shown(f'{type(error).__name__}: {error}', 200)}): sample again, or give other "
            "files of crystals."
        ) from error
    for index, result in enumerate(results):
        if result is None:
            results[index] = "not sampled: the sampling command has not finished"
        elif isinstance(result, dict):
            results[index] = restore(result, path.name)
    return results


def _put(results: list[Any], entry: Any, result: Any) -> None:
    if not isinstance(entry, dict):
        raise TypeError("a crystal is no object with fields")
    index = _count(entry["index"])
    if index >= len(results):
        raise ValueError(f"index {index} is out of range, settings.num is {len(results)}")
    if results[index] is not None:
        raise ValueError(f"index {index} is there twice")
    results[index] = result


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{shown(repr(value))} is no whole number from 0")
    return value


def restore(entry: dict[str, Any], file: str) -> Structure | str:
    """A written crystal of a record, or the reason why it is none.

    Args:
      entry: with "lattice", "frac_coords" and "atomic_numbers".
      file: its file's name, for the reason.
    """
    try:
        lattice, frac_coords = (_array(entry[name], "if") for name in ("lattice", "frac_coords"))
        atomic_numbers = _array(entry["atomic_numbers"], "i")
    except KeyError as error:
        return f"incomplete entry in {file}: no {error}"
    except (ValueError, TypeError, OverflowError) as error:
        return f"unreadable entry in {file}: {shown(str(error), 200)}"
    try:
        return checked_structure(
            lattice.astype(np.float64), frac_coords.astype(np.float64), atomic_numbers
        )
    except ValueError as error:
        return str(error)


def _array(value: Any, kinds: str) -> np.ndarray:
    if not isinstance(value, list):
        raise TypeError("a list of numbers is expected")
    array = np.array(value) if value else np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in kinds:
        raise TypeError(f"numbers are expected, not {array.dtype}")
    return array
