"""Whole files or none: written so that a kill at any moment leaves the old file or the new."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


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
