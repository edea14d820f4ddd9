"""Prepared tables: memory-mapped .npy arrays in the user's cache, named by a hash of their source.

A prepared table is one folder with an .npy file for each array of a `CrystalDataset` and a
`meta.json`. It is written piece by piece and read as memory maps, so neither preparing nor
training needs memory for a whole data set.
"""

import contextlib
import dataclasses
import io
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.tables import BadRow
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import file_sha256, read_json, replace_text
from crystal_diffusion_jax.runtime.user_cache import cache_folder, write_cached

_LOGGER = logging.getLogger("crystal_diffusion_jax")
_META = "meta.json"
_MAX_META_BYTES = 2**22
# dtype and shape of one crystal's or atom's entry; material_ids are strings, written at the end.
_ARRAYS = {
    "lattice": (np.float64, (3, 3)),
    "num_atoms": (np.int64, ()),
    "frac_coords": (np.float64, (3,)),
    "atomic_numbers": (np.int64, ()),
}
_TEMPORARY = "preparing-"
_ABANDONED_AFTER = 24 * 3600  # seconds
# Bad rows that are kept for messages; any others are only counted.
_MAX_BAD_ROWS = 1000


# A table while it is read: groups of crystals, and rows that cannot be used.
Pieces = Iterable[CrystalDataset | BadRow]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One table after reading.

    Attributes:
      dataset: the usable crystals, in the order of their rows; read-only memory maps.
      bad_rows: the first of the rows that cannot be used.
      num_bad_rows: number of all of them.
    """

    dataset: CrystalDataset
    bad_rows: tuple[BadRow, ...]
    num_bad_rows: int


@dataclasses.dataclass(frozen=True)
class _Meta:
    """Content of meta.json; `sha256` holds the checksum of each array's file."""

    property_names: tuple[str, ...]
    bad_rows: tuple[BadRow, ...]
    num_bad_rows: int
    sha256: dict[str, str]
    class_names: dict[str, tuple[str, ...]]


def prepare(key: str, property_names: Sequence[str], read: Callable[[], Pieces]) -> Prepared:
    """Opens the table that is cached under a key, after reading it if it is not.

    Without a writable cache the arrays go to a temporary folder, with a warning.

    Args:
      key: hash of everything that the table depends on.
      property_names: of its crystals.
      read: reads the table from its source.

    Raises:
      UserError: from `read`, or there is no room for the arrays anywhere.
    """
    folder = cache_folder() / "prepared" / key
    if folder.is_dir():
        try:
            return read_folder(folder)
        except (OSError, ValueError) as error:
            _LOGGER.warning("cached data in %s are damaged (%s); preparing anew", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(folder.parent) as written:
            write_folder(written, property_names, read())
            try:
                os.rename(written, folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster
                    raise
        return read_folder(folder)
    except UserError:  # of the data themselves
        raise
    except (OSError, ValueError) as error:
        # The error itself would keep the maps of its traceback alive.
        reason = getattr(error, "strerror", None) or str(error)
    warnings.warn(
        f"Prepared data are not cached and will be prepared again next time ({reason}): "
        "set CRYSTAL_DIFFUSION_CACHE to a folder that can be written.",
        stacklevel=3,
    )
    temporary = Path(tempfile.gettempdir())
    try:
        with _temporary_folder(temporary) as written:
            write_folder(written, property_names, read())
            return read_folder(written)  # maps of deleted files stay valid
    except OSError as error:
        raise UserError(
            f"prepared data fit neither into {folder.parent} ({reason}) nor into {temporary} "
            f"({error}): set CRYSTAL_DIFFUSION_CACHE to a folder with more room."
        ) from error


def prepare_groups(key: str, num_crystals: int, find: Callable[[], np.ndarray]) -> np.ndarray:
    """[M] int groups of crystals that are cached under a key, after finding them if they are not.

    Args:
      key: hash of everything that the groups depend on.
      num_crystals: M.
      find: finds them.
    """
    path = cache_folder() / "copies" / f"{key}.npy"
    try:
        groups: np.ndarray = np.load(path, allow_pickle=False)
        if groups.shape == (num_crystals,) and groups.dtype == np.int64:
            return groups
    except (OSError, EOFError, ValueError):  # not there, empty or damaged
        pass
    groups = np.asarray(find(), np.int64)
    content = io.BytesIO()
    np.save(content, groups, allow_pickle=False)
    with contextlib.suppress(OSError):  # `prepare` has warned
        write_cached(path, content.getvalue())
    return groups


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder that is deleted at the end unless it was moved; removes those of killed runs."""
    for left in parent.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=_TEMPORARY, dir=parent, ignore_cleanup_errors=True
    ) as outer:
        folder = Path(outer) / "table"  # with the usual permissions; `outer` is private
        folder.mkdir()
        yield folder


def write_folder(folder: Path, property_names: Sequence[str], pieces: Pieces) -> None:
    """Writes a table to an empty folder.

    Raises:
      OSError: it cannot be written.
    """
    names = tuple(property_names)
    kinds = _ARRAYS | {"properties": (np.float64, (len(names),))}
    ids: list[np.ndarray] = [np.zeros(0, np.str_)]
    bad_rows: list[BadRow] = []
    num_bad_rows = 0
    class_names: Mapping[str, tuple[str, ...]] = {}  # the same in all pieces
    with contextlib.ExitStack() as stack:
        arrays = {
            name: stack.enter_context(_GrowingArray(folder / f"{name}.npy", *kind))
            for name, kind in kinds.items()
        }
        for piece in pieces:
            if isinstance(piece, BadRow):
                num_bad_rows += 1
                bad_rows += [piece] * (num_bad_rows <= _MAX_BAD_ROWS)
            else:
                for name, array in arrays.items():
                    array.append(getattr(piece, name))
                ids.append(np.asarray(piece.material_ids, np.str_))
                class_names = piece.class_names
    with open(folder / "material_ids.npy", "wb") as file:
        np.save(file, np.concatenate(ids), allow_pickle=False)
        os.fsync(file.fileno())
    sha256 = {name: file_sha256(folder / f"{name}.npy") for name in (*kinds, "material_ids")}
    meta = _Meta(names, tuple(bad_rows), num_bad_rows, sha256, dict(class_names))
    replace_text(folder / _META, msgspec.json.encode(meta).decode())


def read_folder(folder: Path) -> Prepared:
    """Opens a table that `write_folder` has written.

    Raises:
      OSError: a file is missing or unreadable.
      ValueError: a file is damaged.
    """
    meta: _Meta = read_json(folder / _META, _MAX_META_BYTES, _Meta)
    arrays = {}
    for name in (*_ARRAYS, "properties", "material_ids"):
        path = folder / f"{name}.npy"
        if file_sha256(path) != meta.sha256.get(name):
            raise ValueError(f"{path.name} does not match its checksum")
        arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    dataset = CrystalDataset(
        property_names=meta.property_names, class_names=meta.class_names, **arrays
    )
    return Prepared(dataset, meta.bad_rows, meta.num_bad_rows)


class _GrowingArray:
    """An .npy file to which entries are appended; a context manager that completes it."""

    def __init__(self, path: Path, dtype: type, entry_shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._dtype, self._entry_shape, self._length = np.dtype(dtype), entry_shape, 0

    def append(self, entries: np.ndarray) -> None:
        entries = np.ascontiguousarray(entries, self._dtype)
        entries = entries.reshape(len(entries), *self._entry_shape)
        self._file.write(entries.tobytes())
        self._length += len(entries)

    def __enter__(self) -> "_GrowingArray":
        self._write_header()
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            # numpy pads headers so that one for any other length takes the same bytes.
            self._write_header()
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length, *self._entry_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
