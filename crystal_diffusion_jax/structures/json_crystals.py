"""JSON of pymatgen or ASE -> crystals.

Read with our own eyes: the decoders of monty and ASE import and call what the file names.
"""

import json
from typing import Any

import msgspec
import numpy as np
from pymatgen.core import Element, Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.conversion import (
    checked_structure,
    is_full,
    periodic_structure,
    refuse_open,
)
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

# A crystal of twenty atoms takes 4,000 characters.
MAX_CHARACTERS = 2**26
# A value of two characters takes up to 88 bytes of memory.
_MAX_VALUES = 2**24


class _Component(msgspec.Struct):
    """An element of a site of pymatgen's, and how much of it there is."""

    element: str
    occu: float = 1.0


class _Site(msgspec.Struct):
    species: list[_Component]
    abc: tuple[float, float, float]


class _Lattice(msgspec.Struct):
    matrix: list[tuple[float, float, float]]
    pbc: tuple[bool, bool, bool] = (True, True, True)


class _Crystal(msgspec.Struct):
    """The part of pymatgen's `Structure.as_dict` that says where which element is."""

    lattice: _Lattice
    sites: list[_Site]


def read_json(text: str) -> list[tuple[str, Structure | str]]:
    """The crystals of a JSON text, each with its name or "" and, for a failure, its reason.

    Args:
      text: a pymatgen structure, one with other values beside it under `structure`, atoms of ASE, a
        list or a mapping of these, or what `ase.io.write` makes of a file called *.json.

    Raises:
      ValueError: it is no JSON or holds no crystals; the message is the reason.
    """
    if len(text) > MAX_CHARACTERS or sum(map(text.count, ",[{")) > _MAX_VALUES:
        raise ValueError(f"too large: JSON of {len(text):,} characters")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{'"):
            raise ValueError(
                "a Python dict instead of JSON: write json.dumps(structure.as_dict())"
            ) from error
        raise ValueError(f"unreadable JSON: {printable(str(error), 200)}") from error
    if _is_crystal(content):
        return [(_name(content), _read(content))]
    entries: dict[str, Any] = {}
    if isinstance(content, list):
        entries = {f"entry {index}": entry for index, entry in enumerate(content)}
    elif isinstance(content, dict) and isinstance(content.get("ids"), list):  # ase.db's
        entries = {f"row {key}": content.get(str(key)) for key in content["ids"]}
    elif isinstance(content, dict):
        entries = content
    if not any(map(_is_crystal, entries.values())):
        raise ValueError("JSON without crystals of pymatgen or ASE")
    if len(entries) > MAX_CRYSTALS:
        raise ValueError(f"more than {MAX_CRYSTALS:,} crystals")
    return [(_name(entry) or name, _read(entry)) for name, entry in entries.items()]


def _is_crystal(value: Any) -> bool:
    return isinstance(value, dict) and (
        "sites" in value
        or {"numbers", "positions"} <= value.keys()
        or isinstance(value.get("structure"), dict)
    )


def _name(value: Any) -> str:
    """The id that stands beside a structure, as in entries of the Materials Project."""
    found = value.get("material_id", value.get("entry_id")) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _read(value: Any) -> Structure | str:
    try:
        if not _is_crystal(value):
            raise ValueError("JSON without a crystal of pymatgen or ASE")
        if "structure" in value and "sites" not in value:
            value = value["structure"]
        return _of_pymatgen(value) if "sites" in value else _of_ase(value)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return printable(str(error), 300)


def _of_pymatgen(value: dict[str, Any]) -> Structure:
    if "lattice" not in value:
        raise ValueError("no periodic cell: a molecule of pymatgen")
    try:
        crystal = msgspec.convert(value, _Crystal)
    except msgspec.ValidationError as error:
        raise ValueError(f"unreadable crystal of pymatgen: {error}") from error
    refuse_open(crystal.lattice.pbc)
    numbers = [_atomic_number(site) for site in crystal.sites]
    coords = np.array([site.abc for site in crystal.sites]).reshape(-1, 3)
    return checked_structure(np.array(crystal.lattice.matrix), coords, np.array(numbers, int))


def _atomic_number(site: _Site) -> int:
    symbols = {component.element for component in site.species}
    if len(symbols) != 1 or len(site.species) != 1 or not is_full(site.species[0].occu):
        mixed = ", ".join(f"{one.element} {one.occu:g}" for one in site.species)
        raise ValueError(f"disorder: a site holds {mixed or 'nothing'}")
    (symbol,) = symbols
    if not Element.is_valid_symbol(symbol):
        raise ValueError(f"unknown element: '{printable(symbol)}'")
    return Element(symbol).Z


def _of_ase(value: dict[str, Any]) -> Structure:
    numbers, positions = _array(value["numbers"]), _array(value["positions"])
    if "cell" not in value:
        raise ValueError("no periodic cell")
    pbc = _array(value.get("pbc", [False] * 3))
    return periodic_structure(numbers, positions, _array(value["cell"]), pbc)


def _array(value: Any) -> np.ndarray:
    """An array as ASE writes it: {"__ndarray__": [shape, type, numbers]}, or lists."""
    if isinstance(value, dict) and "array" in value:  # a cell
        value = value["array"]
    if isinstance(value, dict):
        shape, _, numbers = value["__ndarray__"]
        return np.array(numbers, np.float64).reshape(shape)
    return np.array(value, np.float64)
