"""Files: atomic writes, bounded reads, checksums."""

import contextlib
import hashlib
import io
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from crystal_diffusion_jax.errors import UserError

# For files that hold many crystals: 100,000 crystals of 20 atoms take about 0.2 GB as JSON.
MAX_RECORD_BYTES = 2**28
# For metadata of a run, a model or a checkpoint.
MAX_DESCRIPTION_BYTES = 2**24
# Numbers of our own files take 14 on average. However short its text, a value takes up to 88 in
# memory.
_BYTES_PER_VALUE = 8


class TooLarge(ValueError):
    """A file, or a part of it, exceeds its limit; the message says by how much."""


def temporary_path(path: Path) -> Path:
    """Where new content is written before the renaming; a kill may leave this file behind."""
    return path.with_name(f".{path.name}.tmp")


def replace_text(path: Path, text: str) -> None:
    """Writes a text file atomically: under a temporary name, synced to disk, then renamed.

    Raises:
      OSError: it cannot be written; an old file is kept.
    """
    _replace(path, [text.encode()])


def replace_pieces(path: Path, pieces: Iterable[str]) -> None:
    """`replace_text` for a text in pieces, without holding all of it in memory."""
    _replace(path, (piece.encode() for piece in pieces))


def replace_bytes(path: Path, content: bytes) -> None:
    """`replace_text` for a binary file."""
    _replace(path, [content])


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        # On a full disk a partial file would only take up space.
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Says of an output folder that cannot be written, as on a full disk, how to go on.

    Raises:
      UserError: instead of an OSError or what SQLite raises then.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise UserError(
            f"--out={out} cannot be written ({reason}): what is complete is kept, and the same "
            "command continues once it can be."
        ) from error


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a regular file for reading; opening a FIFO would block.

    Raises:
      OSError: it cannot be opened or is not a regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a regular file")
    return path.open("rb")


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hexadecimal digits.

    Raises:
      OSError: it cannot be read or is not a regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The content of a file of limited size.

    Raises:
      TooLarge: the file is larger than `max_bytes`.
      OSError: it cannot be read or is not a regular file.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= max_bytes:
            content = file.read(max_bytes + 1)  # it may be growing
            if len(content) <= max_bytes:
                return content
    raise TooLarge(f"larger than {megabytes(max_bytes)}")


def read_text(path: Path, max_bytes: int) -> str:
    """`read_bytes` as UTF-8 text; what is not UTF-8 becomes U+FFFD."""
    return read_bytes(path, max_bytes).decode("utf-8", errors="replace")


def read_json(path: Path, max_bytes: int, type: Any = Any) -> Any:
    """The content of a JSON file of limited size, checked against a type.

    Args:
      path: the file.
      max_bytes: its largest size; at most 16 times as much memory is used.
      type: what msgspec is to decode, e.g. a dataclass; default anything.

    Raises:
      ValueError: the file is too large, holds too many values, is not JSON, is nested too deeply or
        is not of that type.
      OSError: it cannot be read or is not a regular file.
    """
    content = read_bytes(path, max_bytes)
    if sum(map(content.count, (b",", b"[", b"{"))) > max_bytes // _BYTES_PER_VALUE:
        raise TooLarge("too many values")
    try:
        return msgspec.json.decode(content, type=type)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def megabytes(num_bytes: int) -> str:
    """For example "0.5 MiB"."""
    return f"{num_bytes / 2**20:g} MiB"
