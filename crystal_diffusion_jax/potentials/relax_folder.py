"""Relaxes a set of crystals into a folder, so that a kill at any moment loses seconds.

  relaxed.db     the relaxed crystals, one row as each is done, and the settings
  relaxed.csv    one row per requested crystal
  cif/           one CIF per relaxed crystal

The database is the source of truth; the other files are exported from it.
"""

import functools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from crystal_diffusion_jax.potentials import drivers, relaxed_table
from crystal_diffusion_jax.potentials.changes import Compared, compare, volume_change
from crystal_diffusion_jax.potentials.relaxation import (
    Relaxation,
    RelaxedCrystal,
    RelaxSettings,
    failed,
)
from crystal_diffusion_jax.potentials.relaxed_database import CONTENT, RELAXED
from crystal_diffusion_jax.potentials.relaxed_store import RelaxedStore
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers
from crystal_diffusion_jax.structures import database
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.conversion import checked_structure
from crystal_diffusion_jax.structures.reading import Inputs
from crystal_diffusion_jax.structures.store import create_folder

# Seconds to compare a crystal with its relaxed self, also those that a signal waits.
COMPARISON_LIMIT = 30.0
# Crystals that wait to be stored, all in memory.
_MAX_WAITING = 1000

# Columns of the hull for the outcome of every crystal, by name.
HullColumns = Callable[[Sequence[RelaxedCrystal]], Mapping[str, Sequence[float | str]]]


def relax_into(
    out: Path,
    inputs: Inputs,
    settings: RelaxSettings,
    hull: HullColumns | None = None,
    progress: bool = True,
    log: Callable[[str], None] = print,
    after_each: Callable[[], None] = lambda: None,
) -> list[RelaxedCrystal]:
    """Relaxes what the folder does not have yet, and exports the table and CIFs.

    Args:
      out: the folder; that of an earlier, equal command is continued.
      inputs: the crystals.
      settings: how they are relaxed.
      hull: computes the columns of the hull; None to leave them out.
      progress: show progress bars on stderr.
      log: takes a line about an earlier command that was killed.
      after_each: called after each crystal; what it raises ends the command, after the export.

    Returns:
      The outcome of every crystal.

    Raises:
      UserError: the folder holds something else or cannot be written, or a setting is wrong.
    """
    relax = drivers.driver(settings)
    create_folder(out, RELAXED, "relaxed crystals")
    with exclusive(out, "--out", log):
        store = RelaxedStore(out, inputs, settings)
        remaining = store.remaining()
        try:
            if remaining:
                structures = (s for i in remaining if (s := inputs.structures[i]) is not None)
                with _Recorder(out, store, inputs) as recorder:
                    for position, relaxation in relax(
                        structures, settings, progress, len(remaining)
                    ):
                        recorder.add(remaining[position], relaxation)
                        after_each()
        finally:
            nothing = dict.fromkeys(relaxed_table.HULL_COLUMNS, [""] * len(inputs.names))
            store.add_columns(hull(store.relaxed()) if hull else nothing)
            relaxed = store.relaxed()
            with database.changing(out / RELAXED, content=CONTENT):  # names a full disk
                relaxed_table.write_missing_cifs(out, relaxed, inputs)
                relaxed_table.write_table(out, relaxed, inputs, hull is not None)
    return relaxed


class _Recorder:
    """Compares and stores relaxed crystals in a thread, while the next ones are relaxed.

    All that wait are stored in one transaction, so fast potentials do not wait for the disk.
    """

    def __init__(self, out: Path, store: RelaxedStore, inputs: Inputs) -> None:
        self._out, self._store, self._inputs = out, store, inputs
        self._cif_names = relaxed_table.cif_names(inputs)
        self._waiting: queue.Queue[tuple[int, Relaxation] | None] = queue.Queue(_MAX_WAITING)
        self._error: BaseException | None = None
        # A second signal ends the program without waiting for it.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._raise_error()

    def add(self, index: int, relaxation: Relaxation) -> None:
        """Takes the outcome of one crystal.

        Raises:
          UserError: those before could not be stored.
        """
        self._waiting.put((index, relaxation))
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        comparison = functools.partial(compare, relaxed_table.SYMPREC)
        try:
            with Workers(comparison, COMPARISON_LIMIT) as workers:
                while batch := self._next_batch():
                    self._record(batch, workers)
        except BaseException as error:
            self._error = error
            while self._next_batch():  # so that nobody waits for room in the queue
                pass

    def _next_batch(self) -> list[tuple[int, Relaxation]]:
        """All that wait, at least one; none once it is over."""
        batch: list[tuple[int, Relaxation]] = []
        while not batch or not self._waiting.empty():
            item = self._waiting.get()
            if item is None:
                self._waiting.put(None)  # ends the next call, too
                break
            batch.append(item)
        return batch

    def _record(self, batch: Sequence[tuple[int, Relaxation]], workers: Workers) -> None:
        batch = [(index, _checked(relaxation)) for index, relaxation in batch]
        originals = self._inputs.structures
        pairs = {
            index: (original, relaxation.structure)
            for index, relaxation in batch
            if relaxation.structure is not None and (original := originals[index]) is not None
        }
        compared = dict(zip(pairs, workers.map(pairs.values()), strict=True))
        finished, texts = [], {}
        for index, relaxation in batch:
            crystal = RelaxedCrystal(self._inputs.names[index], relaxation)
            if index in pairs:
                original, relaxed = pairs[index]
                found = compared[index]
                if isinstance(found, TaskFailure):
                    found = Compared(crystal.rmsd, to_cif(relaxed, symprec=0))
                texts[self._cif_names[index]] = found.cif
                crystal = RelaxedCrystal(
                    crystal.name, relaxation, found.rmsd, volume_change(original, relaxed)
                )
            finished.append((index, crystal))
        self._store.add(finished)
        with database.changing(self._out / RELAXED, content=CONTENT):  # names a full disk
            relaxed_table.write_cifs(self._out, texts)


def _checked(relaxation: Relaxation) -> Relaxation:
    """A failure if the relaxed structure is one that could not be read back."""
    structure = relaxation.structure
    if structure is not None:
        try:
            checked_structure(
                structure.lattice.matrix,
                structure.frac_coords,
                np.array(structure.atomic_numbers),
            )
        except ValueError as error:
            initial, steps = relaxation.initial_energy_per_atom, relaxation.steps
            return failed(f"no crystal after relaxation: {error}", initial, steps)
    return relaxation
