"""Files: atomic writes, bounded reads, checksums."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def temporary_path(path: Path) -> Path:
    """Where `replace_text` prepares the new content; a kill may leave this file behind."""
    return path.with_name(f".{path.name}.tmp")


def try_writing(path: Path) -> None:
    """Begins as the writers below do, and leaves the file as it is.

    Raises:
      OSError: they could not write it.
    """
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)
    temporary.touch(exist_ok=False)
    temporary.unlink()


def replace_text(path: Path, text: str) -> None:
    """Writes a text file beside its place, forces it to the disk and moves it in.

    Raises:
      OSError: it cannot be written; the old file is still there.
    """
    replace_pieces(path, [text])


def replace_pieces(path: Path, pieces: Iterable[str]) -> None:
    """The same for a text too long to be held at once.

    Args:
      path: the file.
      pieces: its text, in order.

    Raises:
      OSError: it cannot be written; the old file is still there.
    """
    _replace(path, (piece.encode() for piece in pieces))


def replace_bytes(path: Path, content: bytes) -> None:
    """The same for a file that is no text.

    Raises:
      OSError: it cannot be written; the old file is still there.
    """
    _replace(path, [content])


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    temporary = temporary_path(path)
    try:
        # A new file: in a folder from somebody else the name may be a link to any file.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        # On a full disk, half a file would only be in the way of the next attempt.
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hexadecimal digits.

    Raises:
      OSError: it cannot be read, or is no regular file.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise OSError(f"{path} is no regular file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# 100,000 crystals of 20 atoms take about 0.2 GB.
MAX_RECORD_BYTES = 2**28


# A description of a run, a checkpoint or a folder of shards: settings, losses since the last line
# of the log, a few hundred bytes for each of thousands of shards.
MAX_DESCRIPTION_BYTES = 2**24


# A number of our own records takes 14 characters on average. One of JSON's values, however short
# its text, takes up to 88 bytes in memory.
_CHARACTERS_A_VALUE = 8


class TooLarge(ValueError):
    """A file, or a part of it, is beyond its limit; the message says by how much."""


def read_text(path: Path, max_bytes: int) -> str:
    """A UTF-8 text file that is not too large; what is no UTF-8 becomes U+FFFD.

    Raises:
      TooLarge: the file is larger than `max_bytes`.
      OSError: it cannot be read, or is no regular file.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise OSError(f"{path} is no regular file")
    if path.stat().st_size > max_bytes:
        raise TooLarge(f"larger than {megabytes(max_bytes)}")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)  # it may be growing
    if len(content) > max_bytes:
        raise TooLarge(f"larger than {megabytes(max_bytes)}")
    return content.decode("utf-8", errors="replace")


def read_json(path: Path, max_bytes: int) -> Any:
    """What a JSON file that is not too large holds, in at most 16 times `max_bytes` of memory.

    Raises:
      ValueError: the file is larger than `max_bytes`, no JSON, or nested too deeply, or holds so
        many values that they would take far more memory than its text; the message is the reason.
      OSError: it cannot be read, or is no regular file.
    """
    text = read_text(path, max_bytes)
    if sum(map(text.count, ",[{")) > max_bytes // _CHARACTERS_A_VALUE:
        raise TooLarge("too many values")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def megabytes(num_bytes: int) -> str:
    """For example "0.5 MiB"."""
    return f"{num_bytes / 2**20:g} MiB"
