"""Prepared tables as .npz files in the user's cache, each named by a hash of what it is made of."""

import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.prepared import BadRow, Prepared
from crystal_diffusion_jax.data.tables import Source
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.files import file_sha256
from crystal_diffusion_jax.runtime.user_cache import cache_folder

_LOGGER = logging.getLogger("crystal_diffusion_jax")

# To be raised whenever tables.py or read.py would make other arrays or reasons of the same files.
READER_VERSION = 2

_ARRAYS = (
    "lattice",
    "num_atoms",
    "frac_coords",
    "atomic_numbers",
    "properties",
    "material_ids",
)


def content_key(source: Source, properties: Sequence[str], max_num_atoms: int) -> str:
    """sha256 of everything that the prepared arrays depend on; 64 hexadecimal digits.

    File names count, as material ids and the record of bad rows are made of them; folders don't.
    Nor does `skip_bad_rows`: the record is kept either way.
    """
    files = [source.table, *source.cif_files()]
    contents = [(file.name, file_sha256(file)) for file in files]
    # The distribution that pymatgen's reader of CIFs and its reduction are in.
    pymatgen = importlib.metadata.version("pymatgen-core")
    parts = [READER_VERSION, pymatgen, list(properties), max_num_atoms, contents]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def fetch(key: str) -> Prepared | None:
    """The cached table, or None where it has to be made: nothing cached, or the file is damaged."""
    path = _path(key)
    try:
        stored = read_arrays(path)
        names = tuple(str(name) for name in stored["property_names"])
        dataset = CrystalDataset(property_names=names, **{name: stored[name] for name in _ARRAYS})
        dataset.require_whole()
        bad_rows = tuple(
            BadRow(str(name), int(row), str(material_id), str(reason))
            for name, row, material_id, reason in stored["bad_rows"]
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOGGER.warning("cached data in %s are damaged (%s); preparing them anew", path, error)
        return None
    return Prepared(dataset, bad_rows)


def store(key: str, prepared: Prepared) -> None:
    """Writes a table, whole or not at all, also when several programs prepare the same data.

    Raises:
      OSError: the cache cannot be written.
    """
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = prepared.dataset
    bad_rows = [(bad.file, str(bad.row), bad.material_id, bad.reason) for bad in prepared.bad_rows]
    partial = path.with_name(f"{key}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            np.savez(
                file,
                property_names=np.array(dataset.property_names, dtype=np.str_),
                bad_rows=np.array(bad_rows, dtype=np.str_).reshape(-1, 4),
                **{name: getattr(dataset, name) for name in _ARRAYS},
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return cache_folder() / "prepared" / f"{key}.npz"
