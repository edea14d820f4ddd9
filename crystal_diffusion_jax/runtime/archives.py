"""Arrays out of .npz and .npy files that anyone may have made: no pickle, no bomb, no odd names.

An .npz file is a zip archive of .npy files. Nothing is ever extracted to the disk. Before an array
is made its header must agree with the size that the archive states, and that size with the size of
the file, so that memory stays in proportion to what lies on the disk.
"""

import io
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from crystal_diffusion_jax.runtime.files import TooLarge, megabytes

# Arrays of real crystals shrink to a tenth when compressed, those of ideal ones to a fiftieth;
# zip's best on zeros is a thousandth.
MAX_EXPANSION = 100
_MAX_HEADER = 10_000  # bytes, numpy's own limit
# Before Python 3.11.8 a header is sometimes not parsed, with a SystemError, when another thread
# parses Python's syntax at the same time (CPython's issue 106905); shards are read in threads.
_TRIES = 20


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name.

    Args:
      path: the file.
      names: of the arrays to read; None: all. One that the file lacks is passed over.

    Raises:
      ValueError: no .npz file, damaged, or hostile: arrays of objects (pickles), more than
        `MAX_EXPANSION` times the file's size, or names that a path could be; the message is the
        reason.
      OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise OSError(f"{path} is no regular file")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _checked_members(archive, path.stat().st_size)
                return {
                    name: _read(archive, info)
                    for name, info in members.items()
                    if names is None or name in names
                }
        except (OSError, ValueError):
            raise
        except Exception as error:  # damage shows in any of a dozen ways
            raise ValueError(f"{type(error).__name__}: {error}") from error


def read_array(path: Path, max_bytes: int) -> np.ndarray:
    """The array of an .npy file that is not too large.

    Raises:
      ValueError: larger than `max_bytes`, no .npy file, damaged, or an array of objects (pickles);
        the message is the reason.
      OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise TooLarge(f"larger than {megabytes(max_bytes)}")
    with io.BytesIO(content) as member:
        _require_fitting(member, len(content), path.name)
    array: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array


def _checked_members(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        # Names of weights have slashes in them and become keys, never files; what would be a path
        # out of a folder was not written by numpy for us.
        if name == info.filename or ".." in name.split("/") or name.startswith("/"):
            raise ValueError(f"the archive holds {info.filename!r}, which is no name of an array")
        if name in members:
            raise ValueError(f"the archive holds {name!r} twice")
        members[name] = info
    total = sum(info.file_size for info in members.values())
    if total > MAX_EXPANSION * file_size:
        raise ValueError(f"the archive's {file_size} bytes would expand to {total}")
    return members


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    for _ in range(_TRIES - 1):
        try:
            return _read_once(archive, info)
        except SystemError:
            pass  # see _TRIES
    return _read_once(archive, info)


def _read_once(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        _require_fitting(member, info.file_size, info.filename)
    with archive.open(info) as member:
        # Reading to the end also compares the checksum of the archive.
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        member.read()
    return array


def _require_fitting(member: IO[bytes], num_bytes: int, name: str) -> None:
    """Refuses an array whose header asks for more or less than its file has."""
    shape, dtype = _header(member)
    size = dtype.itemsize
    for length in shape:
        size *= length  # Python's integers, which do not overflow
    fits = member.tell() + size == num_bytes
    # Elements without size, or none of them, would let an axis be of any length.
    possible = all(0 <= length <= num_bytes for length in shape)
    if dtype.hasobject or not fits or not possible:
        raise ValueError(
            f"{name} declares an array of shape {shape} and type {dtype}, which is not what its "
            f"{num_bytes} bytes can hold"
        )


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    shape, _, dtype = readers[version](member, max_header_size=_MAX_HEADER)
    return shape, dtype
