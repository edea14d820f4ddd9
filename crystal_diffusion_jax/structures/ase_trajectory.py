"""ASE's .traj files -> crystals frame by frame.

The layout is that of `ase.io.ulm`. Read here, because ASE's reader makes arrays and objects of
whatever type and size the file asks for; the older layout of the same name is a pickle, which is
never opened.
"""

import json
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.runtime.files import TooLarge, open_regular
from crystal_diffusion_jax.structures.conversion import periodic_structure, refuse_disorder
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_CRYSTALS

_HEADER = struct.Struct("<8s16sqqq")  # magic, tag, version, number of frames, place of their places
_MAX_DESCRIPTION = 2**20  # bytes of a frame's JSON; the arrays are outside
_TYPES = ("float64", "float32", "int64", "int32", "bool")


def read_trajectory(path: Path) -> list[Structure | str]:
    """The structure of each frame, or the reason why it could not be read.

    Raises:
      ValueError: not a trajectory of ASE, or cut off; the message is the reason.
      OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or header[:8] not in (b"- of Ulm", b"AFFormat"):
            raise ValueError(
                "not a trajectory as ASE writes it since 2015; older ones are pickles, which could "
                "run code: convert it with `python -m ase.io.trajectory`"
            )
        _, tag, _, num_frames, place = _HEADER.unpack(header)
        if tag.rstrip() != b"ASE-Trajectory":
            raise ValueError(f"a file of {printable(tag.decode(errors='replace'))}, no trajectory")
        if not 0 < num_frames <= MAX_CRYSTALS:
            raise ValueError(f"{num_frames} frames")
        places = np.frombuffer(_bytes_at(file, place, 8 * num_frames), "<i8")
        constant: dict[str, Any] = {}  # of the first frame
        results: list[Structure | str] = []
        for start in places.tolist():
            try:
                results.append(_frame(file, start, constant))
            except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
                results.append(f"unreadable frame: {printable(str(error), 300)}")
    return results


def _frame(file: IO[bytes], start: int, constant: dict[str, Any]) -> Structure | str:
    (size,) = struct.unpack("<q", _bytes_at(file, start, 8))
    if not 0 < size <= _MAX_DESCRIPTION:
        raise TooLarge(f"{size} bytes of description")
    described = json.loads(_bytes_at(file, start + 8, size))
    # Written with the first frame, and again with each that differs from it.
    if not constant:
        constant |= {
            name: described[name] for name in ("pbc", "numbers.", "numbers") if name in described
        }
    order = "<" if described.get("_little_endian", True) else ">"

    def array(name: str) -> np.ndarray:
        values = constant | described
        if name in values:
            return np.array(values[name])
        shape, dtype, offset = values[f"{name}."]["ndarray"]
        num = int(np.prod(shape))
        if dtype not in _TYPES or len(shape) > 2 or not 0 <= num <= 3 * MAX_ATOMS:
            raise TooLarge(f"{name} of type {dtype} and shape {shape}")
        kind = np.dtype(dtype).newbyteorder(order)
        return np.frombuffer(_bytes_at(file, offset, num * kind.itemsize), kind).reshape(shape)

    info = described.get("info")
    try:
        refuse_disorder(info if isinstance(info, dict) else {})
        return periodic_structure(array("numbers"), array("positions"), array("cell"), array("pbc"))
    except TooLarge:
        raise
    except ValueError as error:
        return printable(str(error), 300)


def _bytes_at(file: IO[bytes], place: int, size: int) -> bytes:
    file.seek(place)
    content = file.read(size)
    if len(content) < size:
        raise ValueError("the file is cut off")
    return content
