"""Text files of any origin: byte order marks, UTF-16, compression; bounded in size."""

import codecs
import gzip
import io
import os
import zlib
from pathlib import Path
from typing import IO

from crystal_diffusion_jax.runtime.archives import MAX_EXPANSION
from crystal_diffusion_jax.runtime.files import TooLarge, megabytes, open_regular, read_bytes

# Each Unicode encoding whose byte order mark is known; UTF-32 first, as its mark begins with that
# of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What is compressed may expand to this much, however small the file.
ALWAYS_ALLOWED = 2**24


def encoding_of(start: bytes) -> str:
    """The encoding that a file's first bytes tell, UTF-8 with or without a mark if they do not.

    Raises:
      ValueError: they are UTF-16 without a byte order mark.
    """
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if 0 in start[:2] and any(start[:2]):
        raise ValueError("binary, or UTF-16 without a byte order mark: save it as UTF-8")
    return "utf-8-sig"


def decode(content: bytes) -> str:
    """The text of a file's content; what its encoding does not allow becomes U+FFFD.

    Raises:
      ValueError: as `encoding_of`.
    """
    return content.decode(encoding_of(content), errors="replace")


def text_stream(
    file: io.BufferedReader | gzip.GzipFile, errors: str = "strict", newline: str | None = None
) -> IO[str]:
    """An open file as text, read piece by piece.

    Raises:
      ValueError: as `encoding_of`.
    """
    encoding = encoding_of(file.peek(4)[:4])
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)


def read_content(path: Path, max_bytes: int) -> bytes:
    """The content of a file of limited size, decompressed if its name ends in .gz.

    Raises:
      TooLarge: it is larger than `max_bytes`, or expands as no crystals do.
      OSError: it cannot be read or is not a regular file.
    """
    if path.suffix.lower() != ".gz":
        return read_bytes(path, max_bytes)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        limit = min(max_bytes, max(ALWAYS_ALLOWED, MAX_EXPANSION * size))
        try:
            content = gzip.GzipFile(fileobj=file).read(limit + 1)
        except (EOFError, zlib.error) as error:
            raise OSError(f"damaged gzip file: {error}") from error
    if len(content) > limit:
        raise TooLarge(f"larger than {megabytes(limit)}")
    return content
