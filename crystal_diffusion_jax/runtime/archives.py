"""Arrays from .npz files that anyone may have made, in bounded memory and without pickle.

An .npz file is a zip archive of .npy files. Before an array is allocated its header must agree
with the size that the archive states, and that size with the size of the file, so that memory
stays in proportion to the file.
"""

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from crystal_diffusion_jax.runtime.files import open_regular

# Trained weights hardly compress, tables of CIFs about tenfold; zeros do a thousandfold.
MAX_EXPANSION = 100


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Raises:
      ValueError: not an .npz file, damaged, or hostile: arrays of objects (pickles), or more than
        `MAX_EXPANSION` times the file's size; the message is the reason.
      OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                file_size, total = path.stat().st_size, sum(info.file_size for info in members)
                if total > MAX_EXPANSION * file_size:
                    raise ValueError(f"the archive's {file_size} bytes would expand to {total}")
                return {
                    info.filename.removesuffix(".npy"): _read_member(archive, info)
                    for info in members
                }
        except (OSError, ValueError):
            raise
        except Exception as error:  # a damaged archive raises one of a dozen types
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        _check_header(member, info.file_size, info.filename)
    with archive.open(info) as member:
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # to the end, where the archive's checksum is compared
    return array


def _check_header(member: IO[bytes], num_bytes: int, name: str) -> None:
    """Raises ValueError if the header asks for more or less than the file has."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"version {version} of the .npy format")
    size = dtype.itemsize
    for length in shape:
        size *= length  # Python's integers, which do not overflow
    # Entries without a size, or none of them, would let an axis be of any length.
    possible = all(0 <= length <= num_bytes for length in shape)
    if dtype.hasobject or member.tell() + size != num_bytes or not possible:
        raise ValueError(
            f"{name} declares an array of shape {shape} and type {dtype}, which is not what its "
            f"{num_bytes} bytes can hold"
        )
