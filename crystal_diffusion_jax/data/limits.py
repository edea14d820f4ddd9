"""How much of a file from outside is taken in, and how its content is quoted in a message.

A file may be damaged or hostile. Each limit is far above what real crystals need and low enough
that what lies below it is read in bounded memory: text in a few hundred megabytes, the largest
record in ten times its size.
"""

import json
from pathlib import Path
from typing import Any

# A crystal of 1,000 atoms takes about 0.1 MB; a table of the reflections that were measured can
# take more than this.
MAX_CIF_CHARACTERS = 2**19
# The standard's own limit (CIF 1.1 and 2.0). pymatgen's search for quotes is quadratic in it.
MAX_CIF_LINE = 2048
# The matrix of distances and the denoiser's pairs grow with its square.
MAX_ATOMS = 1000
# Listed atoms times symmetry operations; many of the images may coincide.
MAX_IMAGES = 5_000
# Angstrom; generated crystals have the same limit (`structures.cell_defect`).
MAX_CELL_LENGTH = 1000.0
# Angstrom; beyond it lies the atom's own image. Closer than any two atoms.
MIN_CELL_LENGTH = 0.1
# Angstrom^3; CDVAE (arXiv:2110.06197) discards generated cells below it.
MIN_VOLUME = 0.1
# Beyond it a fractional coordinate leaves fewer than six digits behind the decimal point.
MAX_FRACTIONAL = 1e10
# Squares of properties are summed up, which must stay finite.
MAX_PROPERTY = 1e30
# 100,000 crystals of 20 atoms take about 0.2 GB.
MAX_RECORD_BYTES = 2**28
# A description of a run, a checkpoint or a folder of shards: settings, losses since the last line
# of the log, a few hundred bytes for each of thousands of shards.
MAX_DESCRIPTION_BYTES = 2**24
MAX_NAME = 200  # characters of a material's id
MAX_CRYSTALS = 1_000_000  # in one file; more come in several files (docs/scaling.md)

_SHOWN = 60
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


def shown(text: str, max_characters: int = _SHOWN) -> str:
    """The text as it goes into a message: printable, on one line, its middle left out if long."""
    if len(text) > max_characters:
        half = max_characters // 2
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
