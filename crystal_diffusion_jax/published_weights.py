"""Tensors out of PyTorch's zip format, without PyTorch and without executing anything.

The format is a zip archive of one pickle, which describes the objects, and one file of raw numbers
for each tensor. A pickle can call any function it names. This reader resolves names from a fixed
list only: three that make tensors, here of numpy, and those of the training program that the
published files mention, which become inert objects. Any other name ends the reading.
"""

import collections
import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.errors import UserError

# The description of the published checkpoints has 0.08 MB, their tensors 23 MB.
_MAX_DESCRIPTION = 2**20
_MAX_TENSORS = 2**27


class Inert:
    """Stands for an object of the training program: takes what the pickle says and does nothing.

    Attributes:
      state: what the pickle would have restored the object from.
    """

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


# Everything that the published checkpoints and scalers name beside tensors.
_INERT = frozenset(
    {
        ("__builtin__", "dict"),
        ("__builtin__", "list"),
        ("__builtin__", "long"),
        ("cdvae.common.data_utils", "StandardScalerTorch"),
        ("collections", "defaultdict"),
        ("omegaconf.base", "ContainerMetadata"),
        ("omegaconf.base", "Metadata"),
        ("omegaconf.dictconfig", "DictConfig"),
        ("omegaconf.listconfig", "ListConfig"),
        ("omegaconf.nodes", "AnyNode"),
        ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("typing", "Any"),
    }
)

_FLOAT_STORAGE = "torch.FloatStorage"


def read(file: Path | io.BytesIO, name: str) -> Any:
    """The object in a file that `torch.save` wrote, its tensors as float32 arrays.

    Args:
      file: the zip archive.
      name: what to call it in messages.

    Raises:
      UserError: not such a file, damaged, or it names anything that is not on the list.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            (description,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            folder = description.removesuffix("data.pkl")
            return _Reader(archive, folder, name).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{name} is no file of tensors that can be read ({type(error).__name__}: {error})"
        ) from error


class _Reader(pickle.Unpickler):
    """Unpickler for which only the names above exist."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, name: str) -> None:
        super().__init__(io.BytesIO(_description(archive, f"{folder}data.pkl")))
        self._archive = archive
        self._folder = folder
        self._name = name
        self._num_bytes = 0

    def find_class(self, module: str, name: str) -> Any:
        """Resolves a name of the pickle."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        if (module, name) == ("torch", "FloatStorage"):
            return _FLOAT_STORAGE
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in _INERT:
            # A class of its own for each, as two of them are keys of one dictionary.
            return type(name, (Inert,), {})
        raise UserError(
            f"{self._name} asks for {module}.{name}, which is no part of a file of tensors: it was "
            "not opened, delete it."
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of one storage."""
        kind, storage, key, _device, size = pid
        if (kind, storage) != ("storage", _FLOAT_STORAGE):
            raise ValueError(f"a storage of kind {storage}")
        member = f"{self._folder}data/{key}"
        self._count(self._archive.getinfo(member).file_size)
        numbers = np.frombuffer(self._archive.read(member), dtype="<f4")
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
        """What `torch._utils._rebuild_tensor_v2` makes, for contiguous tensors."""
        contiguous = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        if stride != contiguous:
            raise ValueError(f"a tensor of shape {shape} with strides {stride}")
        self._count(4 * math.prod(shape))
        return storage[offset : offset + math.prod(shape)].reshape(shape).copy()

    def _count(self, num_bytes: int) -> None:
        """A small file can ask for the same numbers again and again."""
        self._num_bytes += num_bytes
        if self._num_bytes > 2 * _MAX_TENSORS:  # each of them as a storage and as a tensor
            raise ValueError(f"more than {_MAX_TENSORS} bytes of tensors")


def _description(archive: zipfile.ZipFile, member: str) -> bytes:
    """The pickle, in which nothing makes the unpickler reserve more memory than the file has."""
    if archive.getinfo(member).file_size > _MAX_DESCRIPTION:
        raise ValueError(f"a description of more than {_MAX_DESCRIPTION} bytes")
    content = archive.read(member)
    for opcode, place, _ in pickletools.genops(content):
        # Places in the memo are numbered one by one; it is as long as the highest number.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(place or 0) > len(content):
            raise ValueError(f"place {place} of the memo in {len(content)} bytes")
    return content
