"""The output folder of a sampling command, and its samples.db.

  samples.db        the crystals, the request and the cost, in SQLite as laid out by ase.db
  cif/              one CIF per crystal, e.g. 00042_BaTiO3.cif
  samples.extxyz    all crystals in one file, for ASE and its viewers
  samples.csv       one row per crystal
  trajectories/     if requested, one extended XYZ file per crystal

The database is the source of truth; the other files are exported from it. Each batch is one
transaction, so that a kill loses whole batches only.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.db.core
import msgspec
import numpy as np
from ase.db.core import convert_str_to_int_float_bool_or_str
from ase.db.row import AtomsRow

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Part, Request, SampledBatch, database_key
from crystal_diffusion_jax.runtime.lock import LOCK, OWNER, exclusive
from crystal_diffusion_jax.structures import database, export
from crystal_diffusion_jax.structures.conversion import to_ase, to_structure
from crystal_diffusion_jax.structures.database import DATABASE, StoredRequest
from crystal_diffusion_jax.structures.sampled_crystals import rejection


def create_folder(out: Path, name: str = DATABASE, what: str = "samples") -> None:
    """Creates the folder of --out, or accepts one that is empty or holds a database.

    Args:
      out: the folder.
      name: file name of the database.
      what: what the database holds, for messages.

    Raises:
      UserError: it holds something else, or cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise UserError(
            f"The folder {out} cannot be created ({error.strerror}): choose another --out."
        ) from error
    if name not in names and names - {LOCK, OWNER}:
        raise UserError(
            f"{out} is not empty and has no {name}, so it does not hold {what}: choose another "
            "--out."
        )


class Samples:
    """The folder of one sampling command, used by one process at a time (`lock.exclusive`)."""

    def __init__(self, out: Path, request: Request, part: Part | None = None) -> None:
        """Creates the folder and its parents, or opens that of an earlier, equal request.

        Args:
          out: the folder.
          request: the whole request.
          part: sample only these crystals of it.

        Raises:
          UserError: `out` holds something else, is damaged, belongs to another request or cannot
            be written.
        """
        self._out, self._request, self._part = out, request, part
        self._values, self._ids = request.values(), request.material_ids
        self._targets = request.targets()
        self._digest = hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:20]
        create_folder(out)
        packages = {name: version(name) for name in ("jax", "pymatgen", "spglib")}
        present = StoredRequest(request, {"crystal_diffusion_jax": __version__, **packages})
        with self._transaction(create=True) as db:
            if not db.metadata:
                db.metadata = msgspec.to_builtins(present)
            elif differences := request.differences(database.stored_request(db).request):
                raise UserError(
                    f"{out} holds samples of another request, which differs in "
                    f"{', '.join(differences)}: choose another --out, or remove the folder."
                )
        if (out / export.TRAJECTORIES).is_dir():
            # Of a batch that was killed before it was committed.
            remaining = self.remaining()
            with self._transaction():
                for index in remaining:
                    export.trajectory_path(out, index).unlink(missing_ok=True)

    def remaining(self) -> list[int]:
        """Indices that are neither written nor rejected, ascending."""
        missing = np.ones(self._request.num, bool)
        with self._transaction() as db:
            done = [index for index, _ in database.row_ids(db)]
            done += [index for (index,) in database.query(db, "SELECT crystal FROM rejected")]
        missing[done] = False
        if self._part is not None:
            missing &= self._part.members(self._request.num)
        indices: list[int] = np.flatnonzero(missing).tolist()
        return indices

    def counts(self) -> tuple[int, int]:
        """Number of written and of rejected crystals."""
        with self._transaction() as db:
            ((written,),) = database.query(db, "SELECT COUNT(*) FROM systems")
            ((rejected,),) = database.query(db, "SELECT COUNT(*) FROM rejected")
        return written, rejected

    def reasons(self) -> dict[str, int]:
        """Number of crystals rejected for each reason."""
        sql = "SELECT reason, COUNT(*) FROM rejected GROUP BY reason ORDER BY reason"
        with self._transaction() as db:
            return dict(database.query(db, sql))

    def cost(self) -> tuple[float, int]:
        """Wall time of all batches in seconds, and network calls per crystal."""
        sql = "SELECT TOTAL(seconds), MAX(calls_per_crystal) FROM batches"
        with self._transaction() as db:
            ((seconds, calls),) = database.query(db, sql)
        return seconds, calls or 0

    def add(self, batch: SampledBatch) -> None:
        """Stores one batch; of crystals with a `rejection`, only the reason.

        Raises:
          UserError: the folder cannot be written; the whole batch is dropped.
        """
        with self._transaction() as db:
            for index, states in zip(batch.indices, batch.trajectories, strict=True):
                if len(states.times) > 1:
                    export.write_trajectory(export.trajectory_path(self._out, index), states)
                crystal = states.lattice[-1], states.frac_coords[-1], states.atomic_numbers[-1]
                if reason := rejection(self._request, *crystal):
                    database.query(db, "INSERT INTO rejected VALUES (?, ?)", index, reason)
                    continue
                structure = to_structure(*crystal)
                row: Any = AtomsRow(to_ase(structure))
                # Ascending, unlike ase.db's random ones: then the cost of a batch does not grow.
                row.unique_id = f"{self._digest}{index:012x}"
                row.ctime, row.user = ase.db.core.now(), None
                db.write(
                    row,
                    index=index,
                    # For queries such as: ase db samples.db "target_band_gap>1".
                    **self._asked(index),
                    # ASE stores Cartesian coordinates, which would round them.
                    data={"frac_coords": structure.frac_coords},
                )
            cost = batch.seconds, batch.calls_per_crystal
            database.query(db, "INSERT INTO batches VALUES (?, ?)", *cost)
        # Now rather than at the end, where a job that is being preempted has little time.
        self._write_missing_cifs(batch.indices)

    def _asked(self, index: int) -> dict[str, float | str | bool]:
        """What is requested of one crystal, as values of its row.

        Requested numbers, or classes by their name; True and False as 1 and 0.
        """
        target, classes = self._targets[index // self._request.num_each]
        asked: dict[str, float | str | bool] = {}
        for name in filter(target.__contains__, self._values):
            text = classes.get(name, "")
            number = float(self._values[name][index])
            asked[database_key(name)] = number if text in ("", "False", "True") else text
        if self._ids and self._ids[index]:
            # Text that looks like a number or a truth value is refused by ase.db.
            asked["material_id"] = convert_str_to_int_float_bool_or_str(self._ids[index])
        return asked

    def export(self) -> None:
        """Writes missing CIFs, samples.extxyz and samples.csv.

        Raises:
          UserError: they cannot be written.
        """
        self._write_missing_cifs()
        with self._transaction() as db:
            export.write_extxyz(self._out, database.crystals(db), self._request.model)
            export.write_csv(self._out, database.crystals(db), database.value_names(db))

    def _write_missing_cifs(self, indices: Sequence[int] | None = None) -> None:
        with self._transaction() as db:
            crystals = database.crystals(db, indices)
            export.write_missing_cifs(self._out, crystals, self._request.symprec)

    def _transaction(self, create: bool = False) -> contextlib.AbstractContextManager[Any]:
        return database.changing(self._out / DATABASE, create)


def add_columns(
    path: Path,
    columns: Mapping[str, Sequence[float | str | bool | None]],
    data: Mapping[int, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Adds or replaces values of the written crystals, and rewrites samples.csv.

    Args:
      path: output folder, or its samples.db.
      columns: name -> value of every crystal of the request, by index; None or NaN for no value.
        ase.db requires names that are words it does not use itself (unlike `energy`), and text
        that does not look like a number.
      data: index -> arrays by name, added to the row's `data`.

    Raises:
      UserError: the database cannot be read or written, or a command is at work in the folder.
    """
    path = path / DATABASE if path.is_dir() else path
    with exclusive(path.parent, "--structures", lambda line: None):
        write_columns(path, columns, data)


def write_columns(
    path: Path,
    columns: Mapping[str, Sequence[float | str | bool | None]],
    data: Mapping[int, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """`add_columns` for the command that is at work in the folder; `path` is the samples.db."""
    with database.changing(path) as db:
        for index, row_id in database.row_ids(db):
            values = {name: column[index] for name, column in columns.items()}
            known = {name: x for name, x in values.items() if x is not None and x == x}
            unknown = list(values.keys() - known)
            db.update(row_id, delete_keys=unknown, data=(data or {}).get(index), **known)
    with database.changing(path) as db:
        export.write_csv(path.parent, database.crystals(db), database.value_names(db))
