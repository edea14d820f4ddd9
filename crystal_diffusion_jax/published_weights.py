"""Reads files of `torch.save` without PyTorch and without executing anything in them.

The format is a zip archive of one pickle, which describes the objects, and one file of raw numbers
per tensor. A pickle can call any function it names. This reader resolves only the names that build
tensors, as NumPy arrays, and those listed by the caller, which become inert objects. Any other name
is an error.
"""

import collections
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.errors import UserError

# CDVAE's checkpoints have a pickle of 0.08 MB and tensors of 23 MB.
_MAX_PICKLE = 2**20
_MAX_TENSORS = 2**27
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "BoolStorage": "?",
}


class Inert:
    """Inert stand-in for an object of the training program.

    Attributes:
      state: state that the object would have been restored from.
    """

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def read(file: Path | io.BytesIO, name: str, inert: Collection[tuple[str, str]] = ()) -> Any:
    """The object in a file of `torch.save`, its tensors as arrays.

    Args:
      file: the zip archive.
      name: name of the file in messages.
      inert: (module, name) of classes that the file may name; they become `Inert`.

    Raises:
      UserError: not such a file, damaged, or it names something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            (member,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            return _Reader(archive, member, name, inert).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{name} is not a readable file of tensors ({type(error).__name__}: {error})"
        ) from error


class _Reader(pickle.Unpickler):
    """Unpickler that resolves only the allowed names."""

    def __init__(
        self, archive: zipfile.ZipFile, member: str, name: str, inert: Collection[tuple[str, str]]
    ) -> None:
        super().__init__(io.BytesIO(_checked_pickle(archive, member)))
        self._archive = archive
        self._folder = member.removesuffix("data.pkl")
        self._name = name
        self._inert = inert
        self._num_bytes = 0

    def find_class(self, module: str, name: str) -> Any:
        """Resolves a name in the pickle."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in self._inert:
            # A separate class for each, as two of them are keys of one dictionary.
            return type(name, (Inert,), {})
        raise UserError(
            f"{self._name} names {module}.{name}, which does not belong in a file of tensors: the "
            "file was not read; delete it."
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of one storage."""
        kind, storage, key, _device, size = pid
        if kind != "storage" or storage not in _STORAGES:
            raise ValueError(f"a storage of kind {storage}")
        member = f"{self._folder}data/{key}"
        self._count(self._archive.getinfo(member).file_size)
        numbers = np.frombuffer(self._archive.read(member), dtype=_STORAGES[storage])
        if len(numbers) != size:
            raise ValueError(f"storage {key} has {len(numbers)} numbers instead of {size}")
        return numbers

    def _rebuild_tensor(
        self,
        storage: np.ndarray,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> np.ndarray:
        """`torch._utils._rebuild_tensor_v2` for contiguous tensors."""
        contiguous = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        if stride != contiguous:
            raise ValueError(f"a tensor of shape {shape} with strides {stride}")
        self._count(storage.itemsize * math.prod(shape))
        return storage[offset : offset + math.prod(shape)].reshape(shape).copy()

    def _count(self, num_bytes: int) -> None:
        """Limits the total: a small file can request the same numbers repeatedly."""
        self._num_bytes += num_bytes
        if self._num_bytes > 2 * _MAX_TENSORS:  # each as a storage and as a tensor
            raise ValueError(f"more than {_MAX_TENSORS} bytes of tensors")


def _checked_pickle(archive: zipfile.ZipFile, member: str) -> bytes:
    """The pickle, unless unpickling would allocate more memory than the size of the file."""
    if archive.getinfo(member).file_size > _MAX_PICKLE:
        raise ValueError(f"a pickle of more than {_MAX_PICKLE} bytes")
    content = archive.read(member)
    for opcode, place, _ in pickletools.genops(content):
        # The memo is allocated up to its highest index; honest indices count up from 0.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(place or 0) > len(content):
            raise ValueError(f"index {place} of the memo in {len(content)} bytes")
    return content
