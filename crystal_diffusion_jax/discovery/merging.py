"""Joins the folders of the parts of one request, as if one command had made them.

Samples and relaxed crystals are joined. What says how crystals compare with each other is left to
the next `discover` in the joined folder, which finds everything else done.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.discovery.folder import RELAXED_FOLDER, values
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxed_database import NOT_CHOSEN, RELAXED, UNFINISHED
from crystal_diffusion_jax.potentials.relaxed_store import (
    RelaxedStore,
    read_relaxed,
    read_settings,
)
from crystal_diffusion_jax.request import Request, database_key
from crystal_diffusion_jax.runtime.files import writing_to
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import restore_structure
from crystal_diffusion_jax.structures.database import DATABASE
from crystal_diffusion_jax.structures.export import TRAJECTORIES
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.samples_reader import read_request
from crystal_diffusion_jax.structures.store import Samples, create_folder


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """What a samples.db holds.

    Attributes:
      rows: index -> row of ase.db.
      rejected: index -> reason.
      batches: seconds and calls per crystal of each.
    """

    rows: dict[int, Any]
    rejected: dict[int, str]
    batches: list[tuple[float, int]]


def merge(parts: Sequence[Path], out: Path) -> Samples:
    """Joins parts into a folder.

    Args:
      parts: folders of `sample` or `discover`, all of one request; some may be unfinished.
      out: new, or that of an earlier `merge` of these parts, which is brought up to date.

    Returns:
      The joined samples.

    Raises:
      UserError: a folder holds no samples or those of another request, two hold different crystals
        of one number, or `out` holds crystals of no part or cannot be written.
    """
    request = _common_request(parts)
    if out.resolve() in [part.resolve() for part in parts]:
        raise UserError(f"--out={out} is one of the parts: choose another --out")
    create_folder(out)
    with exclusive(out, "--out"):
        samples = Samples(out, request)
        joined = _joined([(part, _read(part / DATABASE)) for part in parts])
        _write(out, request, joined)
        with writing_to(out):
            for trajectory in (x for part in parts for x in (part / TRAJECTORIES).glob("*")):
                (out / TRAJECTORIES).mkdir(exist_ok=True)
                shutil.copyfile(trajectory, out / TRAJECTORIES / trajectory.name)
        samples.export()
        _join_relaxed(parts, out)
    return samples


def _common_request(parts: Sequence[Path]) -> Request:
    if not parts:
        raise UserError("--parts names no folder: give those of `sample` or `discover`")
    requests = []
    for part in parts:
        if (stored := read_request(part)) is None:
            raise UserError(f"{part} holds no samples: give folders of `sample` or `discover`")
        requests.append(stored.request)
    for part, request in zip(parts, requests, strict=True):
        if differences := request.differences(requests[0]):
            raise UserError(
                f"{part} is no part of the request of {parts[0]}, which differs in "
                f"{', '.join(differences)}"
            )
    return requests[0]


def _read(path: Path) -> _Sampled:
    with database.reading(path) as db, database.damage():
        return _Sampled(
            rows={index: db.get(id=row_id) for index, row_id in database.row_ids(db)},
            rejected=dict(database.query(db, "SELECT crystal, reason FROM rejected")),
            batches=database.query(db, "SELECT seconds, calls_per_crystal FROM batches"),
        )


def _joined(parts: Sequence[tuple[Path, _Sampled]]) -> _Sampled:
    whole = _Sampled({}, {}, [])
    places: dict[int, Path] = {}
    for part, sampled in parts:
        for index in (*sampled.rows, *sampled.rejected):
            if index in places and not _is_same(index, whole, sampled):
                raise UserError(
                    f"crystal {index} of {part} differs from that of {places[index]}: these are no "
                    "parts of one request, or were sampled on different machines or batch sizes"
                )
            places.setdefault(index, part)
        whole.rows.update(sampled.rows)
        whole.rejected.update(sampled.rejected)
        whole.batches.extend(sampled.batches)
    return whole


def _is_same(index: int, one: _Sampled, other: _Sampled) -> bool:
    if index not in one.rows or index not in other.rows:
        return one.rejected.get(index) == other.rejected.get(index)
    return _structure(one.rows[index]) == _structure(other.rows[index])


def _structure(row: Any) -> Structure:
    with database.damage():
        return restore_structure(row.cell, row.data["frac_coords"], row.numbers)


def _write(out: Path, request: Request, joined: _Sampled) -> None:
    """Adds what is missing, in one transaction."""
    names = {"index", "material_id", *map(database_key, request.values())}
    with database.changing(out / DATABASE) as db:
        rejected = dict(database.query(db, "SELECT crystal, reason FROM rejected"))
        present = {index for index, _ in database.row_ids(db)}
        if strangers := (present | rejected.keys()) - joined.rows.keys() - joined.rejected.keys():
            raise UserError(
                f"--out={out} holds {len(strangers)} crystals that are in none of the parts: "
                "choose another --out"
            )
        for index in sorted(joined.rows.keys() - present):
            row = joined.rows[index]
            asked = {name: x for name, x in row.key_value_pairs.items() if name in names}
            data = {"frac_coords": np.asarray(row.data["frac_coords"], np.float64)}
            db.write(row, key_value_pairs=asked, data=data)
        for index in sorted(joined.rejected.keys() - rejected.keys()):
            database.query(db, "INSERT INTO rejected VALUES (?, ?)", index, joined.rejected[index])
        database.query(db, "DELETE FROM batches")
        db.connection.executemany("INSERT INTO batches VALUES (?, ?)", joined.batches)


def _join_relaxed(parts: Sequence[Path], out: Path) -> None:
    """Joins the relaxed crystals of parts of `discover`; hulls are computed by the next one."""
    inputs = None
    for part in parts:
        folder = part / RELAXED_FOLDER
        if not (folder / RELAXED).is_file():
            continue
        inputs = inputs or read_structures(out)
        create_folder(out / RELAXED_FOLDER, RELAXED, "relaxed crystals")
        store = RelaxedStore(out / RELAXED_FOLDER, inputs, read_settings(folder))
        relaxed, own = read_relaxed(folder), values(part)
        finished = [
            (index, relaxed[index])
            for index in store.remaining()
            if index in own and relaxed[index].relaxation.failure not in (UNFINISHED, NOT_CHOSEN)
        ]
        store.add(finished)
