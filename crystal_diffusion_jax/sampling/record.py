"""The output folder of one sampling command: written batch by batch, resumed after a kill.

  samples.json      the record: settings, counts, every written structure in full precision
  samples.extxyz    all structures in one file, for ASE and its viewers
  cif/              one CIF a structure, e.g. 00042_BaTiO3.cif
  trajectories/     if asked for, see `trajectory_files`
  unfinished.jsonl  the journal, as long as crystals are missing

While there is a journal, it is the only truth: what it does not list has not happened. The record
and the extended XYZ file are assembled from it whenever the number of crystals has doubled, when
the command is interrupted and at the end, so that their cost stays in proportion to the crystals;
`cif/` is brought in line with it when the folder is opened.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import SampleSettings, draw_values, refuse_other_settings
from crystal_diffusion_jax.runtime.files import replace_pieces, replace_text, temporary_path
from crystal_diffusion_jax.runtime.lock import LOCK, OWNER
from crystal_diffusion_jax.sampling import journal, record_file, trajectory_files
from crystal_diffusion_jax.sampling.entry import Entry, cif, cif_name, frame, make_entry, rejection
from crystal_diffusion_jax.sampling.journal import DAMAGE, Journal

RECORD = "samples.json"
EXTXYZ = "samples.extxyz"
CIF_FOLDER = "cif"
JOURNAL = "unfinished.jsonl"
_CIF_NAME = re.compile(r"\d{5,}_[\w()]+\.cif")


def create_folder(out: Path) -> None:
    """Makes the folder for --out, or takes one that is empty or holds samples.

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
    if names & {RECORD, JOURNAL}:
        return
    # Of ours, only the lock and half of the first file can be there without them.
    if names - {LOCK, OWNER, temporary_path(out / JOURNAL).name}:
        raise UserError(
            f"{out} is not empty and has no {RECORD}, so it does not hold samples: choose "
            "another --out."
        )


def _refuse_links(out: Path) -> None:
    """Refuses a folder of somebody else's making that would have us write elsewhere.

    Raises:
      UserError: a folder or the journal is a link.
    """
    for name in (CIF_FOLDER, trajectory_files.FOLDER, JOURNAL):
        if (out / name).is_symlink():
            raise UserError(f"{out / name} is a link: remove it, or choose another --out.")


class SampleFolder:
    """The folder of one sampling command, for one process at a time (`lock.exclusive`)."""

    def __init__(self, out: Path, settings: SampleSettings) -> None:
        """Creates the folder, or opens one that the same command has begun.

        Args:
          out: the folder; its parents are created too.
          settings: the present request.

        Raises:
          UserError: `out` holds something else, is damaged, belongs to other settings or cannot
            be written.
        """
        self._out = out
        self._settings = settings
        self._values = draw_values(settings.target, settings.num, settings.seed)
        # As many crystals are in the assembled files.
        self._assembled = 0
        create_folder(out)
        _refuse_links(out)
        with self._writing():
            is_recorded = (out / RECORD).is_file() and not (out / JOURNAL).is_file()
            if is_recorded:
                self._journal_of_record()
            elif not (out / JOURNAL).is_file():
                journal.create(out / JOURNAL, dataclasses.asdict(settings))
            self._journal = Journal(out / JOURNAL)
            refuse_other_settings(out, self._journal.settings, settings)
            trajectory_files.mend(out, self._journal.missing())
            try:
                self._mend_cifs()
            except OSError:
                raise
            except DAMAGE as error:  # an entry holds no crystal
                raise record_file.damaged(out / (RECORD if is_recorded else JOURNAL)) from error
            if is_recorded:
                self._assembled = self._journal.done
                self._write_extxyz()
            elif not (out / RECORD).is_file():
                self.assemble()

    @property
    def seconds(self) -> float:
        """Wall time of all batches, over all resumptions."""
        return self._journal.seconds

    @property
    def network_calls(self) -> int:
        """Calls of the denoiser, likewise."""
        return self._journal.network_calls

    def remaining(self) -> list[int]:
        """Indices out of 0 ... num - 1 that are neither written nor rejected, ascending."""
        return self._journal.missing()

    def counts(self) -> dict[str, Any]:
        """Numbers of crystals: requested, written, rejected, and rejected_by_reason."""
        return record_file.counts(self._settings.num, self._journal)

    def _requested(self, index: int) -> dict[str, float]:
        return {name: float(values[index]) for name, values in self._values.items()}

    def structures(self) -> Iterator[Entry]:
        """What `samples.json` says of each written crystal, by index, read from the disk."""
        return (crystal["structure"] for crystal in self._journal.structures())

    def add(
        self,
        indices: Sequence[int],
        lattices: Sequence[np.ndarray],
        frac_coords: Sequence[np.ndarray],
        atomic_numbers: Sequence[np.ndarray],
        wall_seconds: float,
        network_calls: int,
        trajectories: Mapping[int, str] | None = None,
    ) -> None:
        """Writes one batch of crystals; what has a `rejection` is counted as rejected instead.

        Args:
          indices: [B] distinct members of `remaining()`.
          lattices: B times [3, 3] cell vectors as rows, in Angstrom.
          frac_coords: B times [N_b, 3].
          atomic_numbers: B times [N_b] int.
          wall_seconds: that the batch took.
          network_calls: that the batch took.
          trajectories: index -> text of its file, for any of the crystals.

        Raises:
          UserError: the folder cannot be written; no crystal of the batch counts.
        """
        batch: list[journal.Crystal] = []
        with self._writing():
            for index, lattice, coords, numbers in zip(
                indices, lattices, frac_coords, atomic_numbers, strict=True
            ):
                if reason := rejection(self._settings, lattice, coords, numbers):
                    batch.append({"rejected": {"index": index, "reason": reason}})
                    continue
                entry = make_entry(index, lattice, coords, numbers, self._requested(index))
                batch.append(self._written(entry))
                self._write_cif(entry)
            trajectory_files.write(self._out, trajectories or {})
            self._journal.append(batch, wall_seconds, network_calls)
            if self._journal.done >= 2 * self._assembled:
                self.assemble()

    def assemble(self) -> None:
        """Brings `samples.json` and `samples.extxyz` up to date.

        Raises:
          UserError: they cannot be written; the former ones are still there.
        """
        with self._writing():
            self._write_extxyz()
            replace_pieces(self._out / RECORD, record_file.pieces(self._settings, self._journal))
        self._assembled = self._journal.done

    def close(self) -> None:
        """Assembles what is new and, if no crystal is missing, removes the journal.

        Raises:
          UserError: the files cannot be written; the journal is still there.
        """
        if self._assembled < self._journal.done:
            self.assemble()
        if self._journal.done == self._settings.num:
            with self._writing():
                (self._out / JOURNAL).unlink()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--out={self._out} cannot be written ({error.strerror}): complete batches are "
                "kept, and the same command goes on from there once it can be."
            ) from error

    def _journal_of_record(self) -> None:
        """Makes the journal of a folder that only has a record, finished or not."""
        path = self._out / RECORD
        record = record_file.read(path)
        beside = temporary_path(self._out / JOURNAL)
        try:
            refuse_other_settings(self._out, record["settings"], self._settings)
            crystals: list[journal.Crystal] = [{"rejected": entry} for entry in record["rejected"]]
            crystals += [self._written(entry) for entry in record["structures"]]
            journal.create(beside, dataclasses.asdict(self._settings))
            Journal(beside).append(crystals, record["seconds"], record["network_calls"])
        except UserError:
            raise
        except DAMAGE as error:
            beside.unlink(missing_ok=True)
            raise record_file.damaged(path) from error
        beside.replace(self._out / JOURNAL)

    def _mend_cifs(self) -> None:
        folder = self._out / CIF_FOLDER
        folder.mkdir(exist_ok=True)
        for where, pattern in (
            (self._out, ".samples.*.tmp"),
            (self._out, f"*{JOURNAL}*.tmp"),
            (folder, ".*.cif.tmp"),
        ):
            for leftover in where.glob(pattern):
                leftover.unlink()
        recorded = set()
        for entry in self.structures():
            name = cif_name(entry)
            if not _CIF_NAME.fullmatch(name):  # made up, maybe to be written somewhere else
                raise record_file.damaged(self._out / RECORD)
            recorded.add(name)
            if not (folder / name).exists():
                self._write_cif(entry)
        for path in folder.iterdir():
            if _CIF_NAME.fullmatch(path.name) and path.name not in recorded:
                path.unlink()

    def _written(self, entry: Entry) -> journal.Crystal:
        return {"structure": entry, "frame": frame(entry, self._settings)}

    def _write_cif(self, entry: Entry) -> None:
        path = self._out / CIF_FOLDER / cif_name(entry)
        replace_text(path, cif(entry, self._settings))

    def _write_extxyz(self) -> None:
        frames = (crystal["frame"] for crystal in self._journal.structures())
        replace_pieces(self._out / EXTXYZ, frames)
