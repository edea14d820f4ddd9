"""JSON files of measurements, checked against the dataclasses they are made from."""

import datetime
import math
import os
import platform
import sys
from pathlib import Path
from typing import TypeVar

import jax
import msgspec

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_text

_Kind = TypeVar("_Kind")


def read(path: Path, kind: type[_Kind]) -> _Kind | None:
    """The content of a file as an object of the given type, None if the file does not exist.

    Raises:
      UserError: the file has other content.
    """
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_text(path, MAX_RECORD_BYTES), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by this program ({error}): remove it, or "
            "choose another --out"
        ) from error


def write(path: Path, content: object) -> None:
    """Writes JSON; NaN becomes null.

    Raises:
      UserError: the file cannot be written.
    """
    program.write_output(path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def file_beside(out: Path, suffix: str) -> Path:
    """The JSON file next to --out; both are tested to be writable.

    Args:
      out: the file of --out.
      suffix: that --out should have, for the error message.

    Raises:
      UserError: they are the same file, or one cannot be written.
    """
    path = out.with_suffix(".json")
    if path == out:
        raise UserError(f"--out={out} is the file of the numbers: choose a name in {suffix}")
    for each in (out, path):
        program.check_output(each)
    return path


def log(line: str) -> None:
    """Prints a progress line to stderr."""
    print(line, file=sys.stderr, flush=True)


def stamp() -> tuple[str, str]:
    """Today, and machine and versions."""
    cores = f"{os.cpu_count()} cores ({platform.machine()})"
    versions = f"crystal_diffusion_jax {__version__}, jax {jax.__version__}"
    return datetime.date.today().isoformat(), f"{cores}, {versions}"


def numbers(flag: str, text: str) -> list[float]:
    """The numbers of a flag like --guidance=0,0.5,1, ascending, each once.

    Raises:
      UserError: one is not a finite number.
    """
    try:
        found = msgspec.convert(text.split(","), list[float], strict=False)
        if not all(map(math.isfinite, found)):
            raise ValueError("not finite")
        return sorted(set(found))
    except ValueError as error:
        raise UserError(f"--{flag}={text} must be finite numbers, separated by commas") from error
