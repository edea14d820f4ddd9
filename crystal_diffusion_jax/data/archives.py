"""Arrays out of .npz files that anyone may have made: no pickle, no bomb, no odd names.

An .npz file is a zip archive of .npy files. Nothing is ever extracted to the disk. Before an array
is made its header must agree with the size that the archive states, and that size with the size of
the file, so that memory stays in proportion to what lies on the disk.
"""

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

# Arrays of real crystals shrink to a tenth when compressed, those of ideal ones to a fiftieth;
# zip's best on zeros is a thousandth.
MAX_EXPANSION = 100
_MAX_HEADER = 10_000  # bytes, numpy's own limit


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name.

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
                return {name: _read(archive, info) for name, info in members.items()}
        except (OSError, ValueError):
            raise
        except Exception as error:  # damage shows in any of a dozen ways
            raise ValueError(f"{type(error).__name__}: {error}") from error


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
    with archive.open(info) as member:
        shape, dtype = _header(member)
        size = dtype.itemsize
        for length in shape:
            size *= length  # Python's integers, which do not overflow
        fits = member.tell() + size == info.file_size
        # Elements without size, or none of them, would let an axis be of any length.
        possible = all(0 <= length <= info.file_size for length in shape)
        if dtype.hasobject or not fits or not possible:
            raise ValueError(
                f"{info.filename} declares an array of shape {shape} and type {dtype}, which is "
                f"not what its {info.file_size} bytes can hold"
            )
    with archive.open(info) as member:
        # Reading to the end also compares the checksum of the archive.
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        member.read()
    return array


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
