"""The output folder of a sampling command, and its samples.db.

  samples.db        the crystals, the request and the cost, in SQLite as laid out by ase.db
  cif/              one CIF per crystal, e.g. 00042_BaTiO3.cif
  samples.extxyz    all crystals in one file, for ASE and its viewers
  samples.csv       one row per crystal
  trajectories/     if requested, one extended XYZ file per crystal

The database is the only truth, and the other files are exported from it. A batch is one transaction
of it: whenever the process is killed, the whole batch is there or nothing of it.
"""

import contextlib
import dataclasses
import errno
import math
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.db
import msgspec
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError, shown
from crystal_diffusion_jax.request import Batch, Request
from crystal_diffusion_jax.runtime.lock import LOCK, OWNER
from crystal_diffusion_jax.structures import export
from crystal_diffusion_jax.structures.cif_reader import checked_structure
from crystal_diffusion_jax.structures.conversion import (
    cell_defect,
    restore_structure,
    to_ase,
    to_structure,
)
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

DATABASE = "samples.db"
FORMAT_VERSION = 1
# Bytes of one value; those of a crystal of 1,000 atoms take some 30,000.
_MAX_VALUE = 2**24
# Tables beside those of ase.db.
_TABLES = """
CREATE TABLE IF NOT EXISTS rejected (crystal INTEGER PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (seconds REAL NOT NULL, network_calls INTEGER NOT NULL);
"""


@dataclasses.dataclass(frozen=True)
class StoredRequest:
    """The request that a samples.db belongs to.

    Attributes:
      request: the request.
      versions: package -> version that sampled it.
      format_version: of the database.
    """

    request: Request
    versions: dict[str, str]
    format_version: int = FORMAT_VERSION


def rejection(
    request: Request, lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> str | None:
    """Why a sampled crystal is rejected; None if it is kept.

    Args:
      request: the request.
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3].
      atomic_numbers: [N] int.
    """
    if defect := cell_defect(lattice, frac_coords):
        return defect
    if request.chemical_system and len(set(atomic_numbers.tolist())) < len(request.chemical_system):
        return "lacks an element of the chemical system"
    return None


def create_folder(out: Path) -> None:
    """Makes the folder for --out, or accepts one that is empty or holds samples.

    Raises:
      UserError: it holds something else, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise UserError(
            f"The folder {out} cannot be created ({error.strerror}): choose another --out."
        ) from error
    if DATABASE not in names and names - {LOCK, OWNER}:
        raise UserError(
            f"{out} is not empty and has no {DATABASE}, so it does not hold samples: choose "
            "another --out."
        )


class Samples:
    """The folder of one sampling command, for one process at a time (`lock.exclusive`)."""

    def __init__(self, out: Path, request: Request) -> None:
        """Creates the folder, or opens one that the same command began.

        Args:
          out: the folder; its parents are created too.
          request: the request.

        Raises:
          UserError: `out` holds something else, is damaged, belongs to another request or cannot
            be written.
        """
        self._out, self._request = out, request
        self._values = request.values()
        create_folder(out)
        packages = {name: version(name) for name in ("jax", "pymatgen", "spglib")}
        present = StoredRequest(request, {"crystal_diffusion_jax": __version__, **packages})
        with self._transaction(create=True) as database:
            if not database.metadata:
                database.metadata = msgspec.to_builtins(present)
            elif differences := request.differences(_stored(database).request):
                raise UserError(
                    f"{out} holds samples of another request, which differs in "
                    f"{', '.join(differences)}: choose another --out, or remove the folder."
                )
        if (out / export.TRAJECTORIES).is_dir():
            # Written before their batch, which a kill may have kept out of the database.
            for index in self.remaining():
                export.trajectory_path(out, index).unlink(missing_ok=True)

    def remaining(self) -> list[int]:
        """Indices out of 0 ... num - 1 that are neither written nor rejected, ascending."""
        missing = np.ones(self._request.num, bool)
        with self._transaction() as database:
            missing[[index for index, _ in _row_ids(database)]] = False
            missing[[index for (index,) in _query(database, "SELECT crystal FROM rejected")]] = (
                False
            )
        indices: list[int] = np.flatnonzero(missing).tolist()
        return indices

    def counts(self) -> tuple[int, int]:
        """Number of crystals that are written and rejected."""
        with self._transaction() as database:
            ((written,),) = _query(database, "SELECT COUNT(*) FROM systems")
            ((rejected,),) = _query(database, "SELECT COUNT(*) FROM rejected")
        return written, rejected

    def reasons(self) -> dict[str, int]:
        """Number of crystals rejected for each reason."""
        sql = "SELECT reason, COUNT(*) FROM rejected GROUP BY reason ORDER BY reason"
        with self._transaction() as database:
            return dict(_query(database, sql))

    def cost(self) -> tuple[float, int]:
        """Wall time in seconds and network calls of all batches."""
        sql = "SELECT TOTAL(seconds), TOTAL(network_calls) FROM batches"
        with self._transaction() as database:
            ((seconds, calls),) = _query(database, sql)
        return seconds, int(calls)

    def add(self, batch: Batch) -> None:
        """Writes one batch of crystals; those with a `rejection` are counted as rejected instead.

        Raises:
          UserError: the folder cannot be written; no crystal of the batch counts.
        """
        with self._transaction() as database:
            for index, states in zip(batch.indices, batch.trajectories, strict=True):
                if len(states.times) > 1:
                    export.write_trajectory(export.trajectory_path(self._out, index), states)
                crystal = states.lattice[-1], states.frac_coords[-1], states.atomic_numbers[-1]
                if reason := rejection(self._request, *crystal):
                    _query(database, "INSERT INTO rejected VALUES (?, ?)", index, reason)
                    continue
                structure = to_structure(*crystal)
                database.write(
                    to_ase(structure),
                    index=index,
                    # To select by: ase db samples.db "target_band_gap>1". Words only.
                    **{
                        "target_" + re.sub(r"\W", "_", name, flags=re.ASCII): float(values[index])
                        for name, values in self._values.items()
                    },
                    # Computed from Cartesian coordinates they would be rounded.
                    data={"frac_coords": structure.frac_coords},
                )
            cost = batch.seconds, batch.network_calls
            _query(database, "INSERT INTO batches VALUES (?, ?)", *cost)

    def export(self) -> None:
        """Writes missing CIFs, samples.extxyz and samples.csv.

        Raises:
          UserError: they cannot be written.
        """
        with self._transaction() as database:
            export.write_missing_cifs(self._out, _crystals(database), self._request.symprec)
            export.write_extxyz(self._out, _crystals(database), self._request.model)
            export.write_csv(self._out, _crystals(database), _value_names(database))

    def _transaction(self, create: bool = False) -> contextlib.AbstractContextManager[Any]:
        return _changing(self._out / DATABASE, create)


def read_request(path: Path) -> StoredRequest | None:
    """The request that crystals were sampled for, None for crystals from elsewhere.

    Args:
      path: output folder, its samples.db or anything else.

    Raises:
      UserError: the database cannot be read.
    """
    path = path / DATABASE if path.is_dir() else path
    if path.suffix != ".db" or not path.is_file():
        return None
    with _reading(path) as database:
        return _stored(database)


def read_samples(path: Path) -> list[Structure | str]:
    """The structure of each crystal of a request, or the reason why there is none.

    Args:
      path: samples.db; it may come from anyone, so nothing in it is trusted.

    Raises:
      UserError: it cannot be read or holds no samples, or an index is wrong or there twice.
    """
    with _reading(path) as database:
        results: list[Any] = [None] * _stored(database).request.num
        found = [(index, _read(database, row_id)) for index, row_id in _row_ids(database)]
        for index, reason in _query(database, "SELECT crystal, reason FROM rejected"):
            found.append((index, f"rejected when sampled: {shown(str(reason), 300)}"))
        for index, result in found:
            if not 0 <= index < len(results) or results[index] is not None:
                raise ValueError(f"crystal {index} is there twice or was not requested")
            results[index] = result
    return [result or "not sampled: the sampling command has not finished" for result in results]


def add_columns(path: Path, columns: Mapping[str, Sequence[float | str | bool | None]]) -> None:
    """Adds values to the written crystals, or replaces them, and writes samples.csv anew.

    Args:
      path: output folder, or its samples.db.
      columns: name -> value of every crystal of the request, by index; None or NaN for no value.
        Names are words, and text must not read as a number, both as ase.db demands.

    Raises:
      UserError: the database cannot be read or written.
    """
    path = path / DATABASE if path.is_dir() else path
    with _changing(path) as database:
        for index, row_id in _row_ids(database):
            values = {name: column[index] for name, column in columns.items()}
            known = {name: x for name, x in values.items() if x is not None and x == x}
            database.update(row_id, delete_keys=list(values.keys() - known), **known)
        export.write_csv(path.parent, _crystals(database), _value_names(database))


@contextlib.contextmanager
def _open(path: Path, create: bool) -> Iterator[Any]:
    """The database in a transaction that an exception rolls back."""
    if not create and not path.is_file():  # opening a FIFO would block
        raise FileNotFoundError(errno.ENOENT, "there is no such file")
    with ase.db.connect(path, type="db", use_lock_file=False) as database:
        database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        database.change_count = -math.inf  # ase.db commits after 5000 changes
        if create:
            database.connection.executescript(_TABLES)
        elif not _query(database, "SELECT 1 FROM sqlite_master WHERE name = 'rejected'"):
            raise ValueError("it holds no samples")
        with database.managed_connection():  # reads the metadata
            pass
        yield database


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with _open(path, create=False) as database:
            yield database
    except (OSError, sqlite3.Error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by experiments.sample "
            f"({shown(f'{type(error).__name__}: {error}', 200)}): sample again, or give other "
            "files of crystals."
        ) from error


@contextlib.contextmanager
def _changing(path: Path, create: bool = False) -> Iterator[Any]:
    try:
        with _open(path, create) as database:
            yield database
    except UserError:
        raise
    except (OSError, sqlite3.OperationalError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--out={path.parent} cannot be written ({reason}): complete batches are kept, and "
            "the same command goes on from there once it can be."
        ) from error
    except (sqlite3.Error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged or was written by another version ({shown(str(error), 200)}): "
            "choose another --out, or remove the folder."
        ) from error


def _query(database: Any, sql: str, *values: Any) -> list[Any]:
    """The rows that a statement returns."""
    return list(database.connection.execute(sql, values))


def _stored(database: Any) -> StoredRequest:
    stored: StoredRequest = msgspec.convert(database.metadata, StoredRequest)
    if stored.format_version != FORMAT_VERSION:
        raise ValueError(f"format {stored.format_version}, this version reads {FORMAT_VERSION}")
    if not 0 < stored.request.num <= MAX_CRYSTALS:
        raise ValueError(f"request.num is {stored.request.num}")
    return stored


def _row_ids(database: Any) -> list[tuple[int, int]]:
    """Index and row id of each written crystal, by index."""
    sql = "SELECT value, id FROM number_key_values WHERE key = 'index' ORDER BY value"
    return [(int(index), row_id) for index, row_id in _query(database, sql)]


def _crystals(database: Any) -> Iterator[export.Stored]:
    """The written crystals by index, read one by one."""
    for index, row_id in _row_ids(database):
        row = database.get(id=row_id)
        structure = restore_structure(row.cell, row.data["frac_coords"], row.numbers)
        yield export.Stored(index, structure, row.key_value_pairs)


def _value_names(database: Any) -> list[str]:
    """Names of the crystals' values, in the order in which they were added."""
    found = _query(database, "SELECT key FROM keys GROUP BY key ORDER BY MIN(rowid)")
    return [name for (name,) in found if name != "index"]


def _read(database: Any, row_id: int) -> Structure | str:
    try:
        row = database.get(id=row_id)
        frac_coords = np.asarray(row.data["frac_coords"], np.float64)
        return checked_structure(np.array(row.cell), frac_coords, row.numbers)
    except Exception as error:  # whatever ase.db makes of a damaged row
        return f"unreadable entry: {shown(str(error), 200)}"
