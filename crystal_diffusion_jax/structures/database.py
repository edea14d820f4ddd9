"""Databases of crystals in SQLite, in the layout of ase.db: how they are opened, and samples.db.

In samples.db, next to ase.db's tables, `rejected` lists rejected crystals and `batches` the cost of
each batch. The request is in ase.db's metadata.
"""

import contextlib
import dataclasses
import errno
import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import ase.db
import msgspec
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.runtime.files import writing_to
from crystal_diffusion_jax.structures.conversion import restore_structure
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

DATABASE = "samples.db"
# Bytes of one value; the largest of a crystal of 1,000 atoms has about 30,000.
_MAX_VALUE = 2**24


@dataclasses.dataclass(frozen=True)
class Content:
    """What a kind of database holds.

    Attributes:
      what: in words, for messages.
      command: that writes it.
      tables: definitions of the tables beside ase.db's; the first is in no other kind.
    """

    what: str
    command: str
    tables: tuple[str, ...]

    @property
    def writer(self) -> str:
        """What writes it, in words."""
        return f"experiments.{self.command}" if self.command else "ASE or experiments.sample"


SAMPLES = Content(
    "samples",
    "sample",
    (
        "rejected (crystal INTEGER PRIMARY KEY, reason TEXT NOT NULL)",
        "batches (seconds REAL NOT NULL, calls_per_crystal INTEGER NOT NULL)",
    ),
)
# Of anybody: ase.db's own tables, of which this is one, and nothing else.
ANY = Content("crystals", "", ("systems",))


@dataclasses.dataclass(frozen=True)
class StoredRequest:
    """The request of a samples.db, the version of each package that sampled it, and the format."""

    request: Request
    versions: dict[str, str]
    format_version: Literal[1] = 1


@dataclasses.dataclass(frozen=True)
class StoredCrystal:
    """A written crystal.

    Attributes:
      index: index in the request.
      structure: the crystal.
      values: requested and added values by name.
    """

    index: int
    structure: Structure
    values: dict[str, Any]


def find(path: Path) -> Path | None:
    """The samples.db of a folder, or the database itself; None without one, or if it is empty."""
    path = path / DATABASE if path.is_dir() else path
    return path if path.suffix == ".db" and path.is_file() and path.stat().st_size else None


@contextlib.contextmanager
def reading(path: Path, content: Content = SAMPLES) -> Iterator[Any]:
    """A database for reading, possibly from a stranger.

    Raises:
      UserError: it does not exist, is damaged or holds something else.
    """
    try:
        with _open(path, content, create=False) as database:
            yield database
    except (OSError, sqlite3.Error) as error:
        again = f"{content.command} again, or " if content.command else ""
        raise UserError(
            f"{path} is damaged, or was not written by {content.writer} "
            f"({printable(str(error), 200)}): {again}give other files of crystals."
        ) from error


@contextlib.contextmanager
def changing(path: Path, create: bool = False, content: Content = SAMPLES) -> Iterator[Any]:
    """One transaction of a database, rolled back by an exception.

    Args:
      path: the file.
      create: create it if missing.
      content: what it holds.

    Raises:
      UserError: it cannot be written, is damaged or holds something else.
    """
    try:
        with writing_to(path.parent), _open(path, content, create) as database:
            yield database
    except sqlite3.Error as error:
        raise UserError(
            f"{path} is damaged or was written by another version ({printable(str(error), 200)}): "
            "choose another --out, or remove the folder."
        ) from error


@contextlib.contextmanager
def _open(path: Path, content: Content, create: bool) -> Iterator[Any]:
    if not create and not path.is_file():  # opening a FIFO would block
        raise FileNotFoundError(errno.ENOENT, "there is no such file")
    with ase.db.connect(path, type="db", use_lock_file=False) as database:
        database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        database.change_count = -math.inf  # ase.db would commit after 5000 changes
        if create:
            query(database, "BEGIN")  # so that ase.db creates its tables in this transaction
            for table in content.tables:
                query(database, f"CREATE TABLE IF NOT EXISTS {table}")
        elif not query(
            database,
            "SELECT 1 FROM sqlite_master WHERE name = ?",
            content.tables[0].split()[0],
        ):
            raise sqlite3.DatabaseError(f"it holds no {content.what}")
        elif query(database, "SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index')"):
            raise sqlite3.DatabaseError("it holds views or triggers")  # which may run for ever
        with damage(), database.managed_connection():  # reads the metadata
            pass
        if create:
            # Each batch would touch a page per element, more the larger the database is.
            query(database, "DROP INDEX IF EXISTS species_index")
        yield database


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """Turns exceptions of parsing damaged values into sqlite3's own."""
    try:
        yield
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"{type(error).__name__}: {error}") from error


def query(database: Any, sql: str, *values: Any) -> list[Any]:
    """The rows that a statement returns."""
    return list(database.connection.execute(sql, values))


def stored_request(database: Any) -> StoredRequest:
    """The request of a database that has one.

    Raises:
      sqlite3.DatabaseError: it is damaged or of another version.
    """
    with damage():
        stored: StoredRequest = msgspec.convert(database.metadata, StoredRequest)
        if not 0 < stored.request.num <= MAX_CRYSTALS:
            raise ValueError(f"request.num is {stored.request.num}")
    return stored


def row_ids(database: Any) -> list[tuple[int, int]]:
    """Index and row id of each written crystal, by index."""
    sql = "SELECT value, id FROM number_key_values WHERE key = 'index' ORDER BY value"
    with damage():
        found = [(int(index), row_id) for index, row_id in query(database, sql)]
    if query(database, "SELECT COUNT(*) FROM systems") != [(len(found),)]:
        raise sqlite3.DatabaseError("a crystal has no index, or two")
    return found


def crystals(database: Any, indices: Sequence[int] | None = None) -> Iterator[StoredCrystal]:
    """The written crystals by index, read one by one.

    Args:
      database: the database.
      indices: only the crystals among these; None for all.

    Raises:
      sqlite3.DatabaseError: one is damaged.
    """
    wanted = None if indices is None else set(indices)
    ids = stored_request(database).request.material_ids
    for index, row_id in row_ids(database):
        if wanted is not None and index not in wanted:
            continue
        with damage():
            row = database.get(id=row_id)
            structure = restore_structure(row.cell, row.data["frac_coords"], row.numbers)
            values = dict(row.key_value_pairs)
            if ids and ids[index]:
                values["material_id"] = ids[index]  # ase.db has turned 007 into 7
        yield StoredCrystal(index, structure, values)


def value_names(database: Any) -> list[str]:
    """Names of the crystals' values: those of the request, then those added later."""
    sql = "SELECT DISTINCT key FROM keys WHERE key != 'index' ORDER BY key NOT LIKE 'target_%', key"
    return [name for (name,) in query(database, sql)]
