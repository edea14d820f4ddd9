"""The relaxed.db of a folder of `relax`: one row per relaxed crystal, as it comes."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.db.core
import msgspec
import numpy as np
from ase.db.row import AtomsRow

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal, RelaxSettings, failed
from crystal_diffusion_jax.potentials.relaxed_database import (
    CONTENT,
    MEASURED,
    RELAXED,
    UNFINISHED,
    StoredSettings,
    differences,
    digest,
    read,
    require_same,
    stored_settings,
)
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.conversion import to_ase
from crystal_diffusion_jax.structures.reading import Inputs


class RelaxedStore:
    """The relaxed.db of one command, used by one process at a time (`lock.exclusive`)."""

    def __init__(self, out: Path, inputs: Inputs, settings: RelaxSettings) -> None:
        """Opens the database of a folder, or makes it.

        The crystals may be more than in an earlier command, if those it had are the same: a folder
        of samples that has grown, for example.

        Raises:
          UserError: it is damaged, cannot be written, or belongs to other settings or crystals.
        """
        self._path = out / RELAXED
        self._inputs = inputs
        versions = {name: version(name) for name in ("ase", "jax", "pymatgen")}
        present = StoredSettings(settings, {"crystal_diffusion_jax": __version__, **versions})
        with database.changing(self._path, create=True, content=CONTENT) as db:
            if not db.metadata:
                db.metadata = msgspec.to_builtins(present)
            elif different := differences(settings, stored_settings(db).settings):
                raise UserError(
                    f"{out} holds crystals relaxed with other settings, which differ in "
                    f"{', '.join(different)}: choose another --out, or remove the folder."
                )
            require_same(db, out, inputs)
            # Those that could not be read may be gone.
            database.query(db, "DELETE FROM crystals")
            db.connection.executemany(
                "INSERT INTO crystals VALUES (?, ?, ?, ?)",
                (
                    (index, name, structure and digest(structure), inputs.failures.get(index))
                    for index, (name, structure) in enumerate(
                        zip(inputs.names, inputs.structures, strict=True)
                    )
                ),
            )

    def remaining(self) -> list[int]:
        """Indices of the crystals to relax that have no outcome yet, ascending.

        One with a structure and a failure, for example one that a screen refused, is not relaxed.
        """
        with database.changing(self._path, content=CONTENT) as db:
            done = {index for index, _ in database.row_ids(db)}
            done |= {index for (index,) in database.query(db, "SELECT crystal FROM failures")}
        done |= self._inputs.failures.keys()
        structures = enumerate(self._inputs.structures)
        return [i for i, structure in structures if structure is not None and i not in done]

    def add(self, finished: Sequence[tuple[int, RelaxedCrystal]]) -> None:
        """Stores the outcome of some crystals, by index, in one transaction.

        Raises:
          UserError: the folder cannot be written; none of them is stored.
        """
        with database.changing(self._path, content=CONTENT) as db:
            for index, relaxed in finished:
                relaxation = relaxed.relaxation
                if relaxation.structure is None:
                    database.query(
                        db,
                        "INSERT INTO failures VALUES (?, ?, ?, ?)",
                        index,
                        relaxation.failure,
                        _or_none(relaxation.initial_energy_per_atom),
                        relaxation.steps,
                    )
                    continue
                row: Any = AtomsRow(to_ase(relaxation.structure))
                # Near one another, unlike ase.db's random ones: the cost of a row does not grow.
                row.unique_id = f"{index:032x}"
                row.ctime, row.user = ase.db.core.now(), None
                numbers = {
                    "initial_energy_per_atom": relaxation.initial_energy_per_atom,
                    "energy_per_atom": relaxation.energy_per_atom,
                    "energy_gain": relaxed.energy_gain,
                } | {name: getattr(relaxed, name) for name in MEASURED}
                db.write(
                    row,
                    index=index,
                    steps=relaxation.steps,
                    converged=relaxation.converged,
                    **{name: float(value) for name, value in numbers.items() if value == value},
                    # ASE stores Cartesian coordinates, which would round them.
                    data={
                        "frac_coords": relaxation.structure.frac_coords,
                        "magnetic_moments": np.asarray(relaxation.magnetic_moments, np.float64),
                    },
                )

    def add_columns(self, columns: Mapping[str, Sequence[float | str]]) -> None:
        """Adds values to the relaxed crystals.

        Args:
          columns: name -> value of every requested crystal; NaN or "" for none.
        """
        with database.changing(self._path, content=CONTENT) as db:
            for index, row_id in database.row_ids(db):
                values = {name: column[index] for name, column in columns.items()}
                known = {name: x for name, x in values.items() if x == x and x != ""}
                db.update(row_id, delete_keys=list(values.keys() - known), **known)

    def relaxed(self) -> list[RelaxedCrystal]:
        """The outcome of every requested crystal."""
        with database.changing(self._path, content=CONTENT) as db:
            return read(db)


def read_relaxed(folder: Path, inputs: Inputs | None = None) -> list[RelaxedCrystal]:
    """The outcome of every crystal of a folder of `relax`, which may come from a stranger.

    Args:
      folder: the folder.
      inputs: the crystals that it must belong to, of which some may have come later; None if that
        is not known.

    Returns:
      One outcome per crystal of `inputs`, if these are known.

    Raises:
      UserError: it is not such a folder, is damaged, or belongs to other crystals.
    """
    with database.reading(folder / RELAXED, CONTENT) as db:
        if inputs is None:
            return read(db)
        require_same(db, folder, inputs)
        found = read(db)[: len(inputs.names)]
    for index, name in enumerate(inputs.names[len(found) :], start=len(found)):
        found.append(RelaxedCrystal(name, failed(inputs.failures.get(index, UNFINISHED))))
    return found


def read_settings(folder: Path) -> RelaxSettings:
    """The settings that the crystals of a folder of `relax` were relaxed with.

    Raises:
      UserError: it is not such a folder, or is damaged.
    """
    with database.reading(folder / RELAXED, CONTENT) as db:
        return stored_settings(db).settings


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
