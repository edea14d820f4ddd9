"""One file of crystals, of any kind that is read -> its crystals, or why it holds none.

Also the text of a crystal by itself, as in a column of a table.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pymatgen.core import Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.runtime.files import TooLarge
from crystal_diffusion_jax.structures import ase_database, json_crystals
from crystal_diffusion_jax.structures.ase_trajectory import read_trajectory
from crystal_diffusion_jax.structures.cif_reader import parse_cif_blocks
from crystal_diffusion_jax.structures.encodings import decode, read_content
from crystal_diffusion_jax.structures.extxyz import read_frames
from crystal_diffusion_jax.structures.file_names import (
    SUFFIXES,
    kind_of,
)
from crystal_diffusion_jax.structures.limits import MAX_CIF_CHARACTERS
from crystal_diffusion_jax.structures.rarer_formats import read_cssr, read_res, read_xsf
from crystal_diffusion_jax.structures.vasp import read_poscar

# Characters of a reason, which may quote the file.
MAX_REASON = 300

# A crystal, or why there is none; with its name in the file, "" if it is alone there.
Named = tuple[str, Structure | str]


def _one(read: Callable[[str], Structure]) -> Callable[[str], list[Named]]:
    """Reads a text that holds one crystal."""

    def read_alone(text: str) -> list[Named]:
        try:
            return [("", read(text))]
        except ValueError as error:
            return [("", reason_of(error))]

    return read_alone


def _numbered(word: str, found: Sequence[Structure | str]) -> list[Named]:
    return [(f"{word} {index}", crystal) for index, crystal in enumerate(found)]


def _read_cif(text: str) -> list[Named]:
    """The crystals of a CIF, one for each data block with atoms."""
    if "data_" not in text.lower():
        raise ValueError("not a CIF: it has no data block")
    blocks = parse_cif_blocks(text)
    if len(blocks) == 1:
        blocks = [blocks[0]._replace(name="")]
    return [
        (printable(name), printable(result, MAX_REASON) if isinstance(result, str) else result)
        for name, result in blocks
    ]


# The text of each kind -> its crystals.
_FROM_TEXT: Mapping[str, Callable[[str], list[Named]]] = {
    "CIF": _read_cif,
    "POSCAR": _one(read_poscar),
    "JSON": json_crystals.read_json,
    "XSF": lambda text: _numbered("step", read_xsf(text)),
    "CSSR": _one(read_cssr),
    "RES": _one(read_res),
}
# A file of each other kind -> its crystals.
_FROM_FILE: Mapping[str, Callable[[Path], list[Named]]] = {
    "extended XYZ": lambda path: _numbered("frame", read_frames(path)),
    "ASE trajectory": lambda path: _numbered("frame", read_trajectory(path)),
    "ASE database": ase_database.read_rows,
}


def max_bytes(kind: str) -> int:
    """Largest size of a text of this kind; of JSON, which may hold many crystals, more."""
    return json_crystals.MAX_CHARACTERS if kind == "JSON" else MAX_CIF_CHARACTERS


def read_file(path: Path) -> list[Named]:
    """The crystals of one file, at least one.

    Raises:
      UserError: a database cannot be read.
      ValueError: nothing can be read from the file; the message is the reason.
      OSError: the file cannot be read.
    """
    kind = kind_of(path.name)
    if kind is None:
        raise ValueError(f"no file of crystals by its name ({', '.join(SUFFIXES)}, POSCAR)")
    if kind in _FROM_FILE:
        return _FROM_FILE[kind](path)
    return read_text(decode(read_content(path, max_bytes(kind))), kind)


def read_text(text: str, kind: str | None = None) -> list[Named]:
    """The crystals of a text, of the kind that it looks like if none is given; at least one.

    Raises:
      ValueError: nothing can be read from it; the message is the reason.
    """
    if not text.strip():
        raise ValueError("empty file")
    kind = kind or _looks_like(text)
    if len(text) > max_bytes(kind):
        raise TooLarge(f"too large: {kind} of {len(text):,} characters")
    try:
        return _FROM_TEXT[kind](text)
    except ValueError:
        raise
    except Exception as error:  # one odd file must not end the reading of the others
        raise ValueError(f"unparsable {kind}: {type(error).__name__}: {error}") from error


def _looks_like(text: str) -> str:
    """The kind of a text without a name.

    Raises:
      ValueError: it looks like none.
    """
    if text.lstrip().startswith(("{", "[")):
        return "JSON"
    if re.search(r"^\s*data_", text, re.MULTILINE | re.IGNORECASE):
        return "CIF"
    if text.startswith(("Full Formula", "Structure Summary")):
        raise ValueError("a printed structure, without all digits: write structure.to(fmt='cif')")
    if re.search(r"^\s*([-+.\d]\S*\s+){2}[-+.\d]\S*\s*$", text, re.MULTILINE):
        return "POSCAR"
    if "\n" not in text and kind_of(text):
        raise ValueError("the path of a file, where other rows have the crystal itself")
    raise ValueError("neither a CIF (it has no data block) nor JSON nor a POSCAR")


@dataclasses.dataclass(frozen=True)
class Document:
    """A file in an archive: its name, which tells the kind, and its content."""

    name: str
    content: bytes


# What crystals are read from: a file, a cell of a table, a file in an archive, or why it cannot be.
Source = Path | str | Document | OSError | TooLarge


def one_crystal(crystal: str | Path) -> Structure:
    """The crystal that a text or a file holds.

    Raises:
      ValueError: it holds none that can be used, or several; the message is the reason.
    """
    found = read_safely(crystal)
    if len(found) > 1:
        raise ValueError(f"{len(found)} crystals in one file, one is expected")
    ((_, result),) = found
    if isinstance(result, str):
        raise ValueError(result)
    return result


def read_safely(source: Source) -> list[Named]:
    """The crystals of a source, or one entry with the reason why there are none."""
    try:
        if isinstance(source, OSError | TooLarge):
            raise source
        if isinstance(source, Path):
            return read_file(source)
        if isinstance(source, Document):
            return read_text(decode(source.content), kind_of(source.name))
        return read_text(source)
    except (OSError, ValueError) as error:
        return [("", reason_of(error))]


def reason_of(error: OSError | ValueError) -> str:
    """Why something could not be read, in one line."""
    if isinstance(error, OSError):
        return f"cannot be read: {printable(error.strerror or str(error), MAX_REASON)}"
    text = str(error)
    if isinstance(error, TooLarge) and not text.startswith("too large"):
        text = f"too large: {text}"
    return printable(text, MAX_REASON)
