"""Extended XYZ files -> structures frame by frame, each failure with its reason.

ASE parses the frames. They are split here, because ASE stops at the first blank line, does not
notice a truncated file, and rejects all frames if one is broken.
"""

import io
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import ase
import ase.io
from ase.io.extxyz import key_val_str_to_dict
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.runtime.files import open_regular
from crystal_diffusion_jax.structures.conversion import periodic_structure, refuse_disorder
from crystal_diffusion_jax.structures.encodings import text_stream
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_CRYSTALS

# Characters; ASE's parser of the comment line is quadratic in it.
_MAX_LINE = 2**16
# Columns of a frame's table of atoms, each of which ASE makes a field of a numpy type.
_MAX_COLUMNS = 1000


def read_frames(path: Path) -> list[Structure | str]:
    """The structure of each frame, or the reason why it could not be read.

    Raises:
      ValueError: the file has no frames or cannot be split into frames; the message is the reason.
      OSError: it cannot be read.
    """
    results: list[Structure | str] = []
    with open_regular(path) as binary, text_stream(binary, errors="replace") as file:
        try:
            for frame in split_frames(file):
                results.append(frame if isinstance(frame, TooManyAtoms) else _parse(frame))
                if len(results) > MAX_CRYSTALS:
                    raise ValueError(f"more than {MAX_CRYSTALS:,} frames; split the file")
        except ValueError as error:
            raise ValueError(f"frame {len(results)}: {error}") from error
    if not results:
        raise ValueError("it holds no structure")
    return results


class TooManyAtoms(str):
    """Why a frame was skipped, in place of its text."""


def split_frames(file: IO[str]) -> Iterator[str | TooManyAtoms]:
    """The text of each frame.

    Raises:
      ValueError: a frame does not begin with a number of atoms, or is cut off.
    """
    lines = _lines(file)
    for first in lines:
        if not first.strip():
            if any(line.strip() for line in lines):
                raise ValueError("a blank line stands where the number of atoms is expected")
            return
        try:
            num_atoms = int(first)
        except ValueError:
            num_atoms = -1
        if num_atoms < 0:
            raise ValueError(f"'{printable(first.strip())}' is not a number of atoms")
        kept = [first]
        count = 0
        for line in itertools.islice(lines, num_atoms + 1):
            count += 1
            if count <= MAX_ATOMS + 1:
                kept.append(line)
        if count < num_atoms + 1:
            raise ValueError(f"the file ends before its {num_atoms} atoms")
        if num_atoms > MAX_ATOMS:
            yield TooManyAtoms(f"too many atoms: {num_atoms}, the limit is {MAX_ATOMS}")
        else:
            yield "".join(kept)


def _lines(file: IO[str]) -> Iterator[str]:
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise ValueError(f"a line is longer than {_MAX_LINE} characters")
        yield line


def _parse(text: str) -> Structure | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_columns(text)
            atoms = ase.io.read(io.StringIO(text), format="extxyz")
    except Exception as error:  # ASE may raise anything on odd input
        return f"unreadable frame: {type(error).__name__}: {printable(str(error), 300)}"
    if not isinstance(atoms, ase.Atoms):
        return "unreadable frame: it holds no atoms"
    try:
        refuse_disorder(atoms.info)
        return periodic_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    except ValueError as error:
        return str(error)


def check_columns(text: str) -> None:
    """Raises ValueError if a frame declares so many columns that they would fill memory."""
    properties = key_val_str_to_dict(text.split("\n", 2)[1].strip()).get("Properties", "")
    if sum(abs(int(number)) for number in str(properties).split(":")[2::3]) > _MAX_COLUMNS:
        raise ValueError(f"more than {_MAX_COLUMNS} columns")
