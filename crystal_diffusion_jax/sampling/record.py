"""The output folder of one sampling command: written batch by batch, resumed after a kill.

  samples.json     the record: settings, counts, every written structure in full precision
  samples.extxyz   all structures in one file, for ASE and its viewers
  cif/             one CIF a structure, e.g. 00042_BaTiO3.cif

`samples.json` is replaced last and is the only truth: what it does not list has not happened, and
the other files are brought in line with it when the folder is opened.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.files import replace_text, temporary_path
from crystal_diffusion_jax.sampling.settings import SampleSettings, refuse_other_settings
from crystal_diffusion_jax.structures import (
    cell_defect,
    minimum_distance,
    reduced_formula,
    restore_structure,
    to_cif,
    to_extxyz,
    to_structure,
)

FORMAT_VERSION = 1
RECORD = "samples.json"
EXTXYZ = "samples.extxyz"
CIF_FOLDER = "cif"
_CIF_NAME = re.compile(r"\d{5,}_[\w()]+\.cif")


class SampleFolder:
    """The folder of one sampling command.

    Attributes:
      structures: index -> what `samples.json` says of a written crystal.
      rejected: index -> why the crystal was not written.
      seconds: wall time of all batches, over all resumptions.
      network_calls: calls of the denoiser, likewise.
    """

    def __init__(self, out: Path, settings: SampleSettings) -> None:
        """Creates the folder, or opens one that the same command has begun.

        Args:
          out: the folder; its parents are created too.
          settings: the present request.

        Raises:
          UserError: `out` holds something else, is damaged or belongs to other settings.
        """
        self._out = out
        self._settings = settings
        self.structures: dict[int, dict[str, Any]] = {}
        self.rejected: dict[int, str] = {}
        self.seconds = 0.0
        self.network_calls = 0
        # Text of each structure's frame and line, kept so that a batch costs its own crystals only.
        self._frames: dict[int, str] = {}
        self._lines: dict[int, str] = {}

        if (out / RECORD).is_file():
            self._restore()
        else:
            _create(out)
            # The first file of all, by which the folder is known as ours from here on.
            self._write_record()
            (out / CIF_FOLDER).mkdir()

    def remaining(self) -> list[int]:
        """Indices out of 0 ... num - 1 that are neither written nor rejected, ascending."""
        done = self.structures.keys() | self.rejected.keys()
        return [index for index in range(self._settings.num) if index not in done]

    def add(
        self,
        indices: Sequence[int],
        lattices: Sequence[np.ndarray],
        frac_coords: Sequence[np.ndarray],
        atomic_numbers: Sequence[np.ndarray],
        wall_seconds: float,
        network_calls: int,
    ) -> None:
        """Writes one batch of crystals; what has a `cell_defect` is counted as rejected instead.

        Args:
          indices: [B] distinct members of `remaining()`.
          lattices: B times [3, 3] cell vectors as rows, in Angstrom.
          frac_coords: B times [N_b, 3].
          atomic_numbers: B times [N_b] int.
          wall_seconds: that the batch took.
          network_calls: that the batch took.
        """
        for index, lattice, coords, numbers in zip(
            indices, lattices, frac_coords, atomic_numbers, strict=True
        ):
            if defect := cell_defect(lattice, coords):
                self.rejected[index] = defect
                continue
            structure = to_structure(lattice, coords, numbers)
            distance = minimum_distance(structure)
            self._keep(
                {
                    "index": index,
                    "formula": reduced_formula(numbers),
                    "lattice": structure.lattice.matrix.tolist(),
                    "frac_coords": structure.frac_coords.tolist(),
                    "atomic_numbers": [int(number) for number in numbers],
                    "species": [element.symbol for element in structure.species],
                    "volume": float(structure.volume),
                    # JSON has no infinity: a single atom has no neighbour to be near to.
                    "min_distance": distance if math.isfinite(distance) else None,
                }
            )
            self._write_cif(index)
        self.seconds += wall_seconds
        self.network_calls += network_calls
        self._write_extxyz()
        self._write_record()

    def counts(self) -> dict[str, Any]:
        """Numbers of crystals: requested, written, rejected, and rejected_by_reason."""
        return {
            "requested": self._settings.num,
            "written": len(self.structures),
            "rejected": len(self.rejected),
            "rejected_by_reason": dict(sorted(Counter(self.rejected.values()).items())),
        }

    def _restore(self) -> None:
        """Takes over an existing record and brings the other files in line with it."""
        record = _read_record(self._out / RECORD)
        refuse_other_settings(self._out, record["settings"], self._settings)
        self.seconds = record["seconds"]
        self.network_calls = record["network_calls"]
        self.rejected = {entry["index"]: entry["reason"] for entry in record["rejected"]}
        for entry in record["structures"]:
            self._keep(entry)

        folder = self._out / CIF_FOLDER
        folder.mkdir(exist_ok=True)
        for leftover in [*self._out.glob(".samples.*.tmp"), *folder.glob(".*.cif.tmp")]:
            leftover.unlink()
        recorded = {_cif_name(entry) for entry in self.structures.values()}
        for path in folder.iterdir():
            if _CIF_NAME.fullmatch(path.name) and path.name not in recorded:
                path.unlink()
        for index, entry in self.structures.items():
            if not (folder / _cif_name(entry)).exists():
                self._write_cif(index)
        self._write_extxyz()

    def _keep(self, entry: dict[str, Any]) -> None:
        index = entry["index"]
        info = {"index": index, "formula": entry["formula"], "model": self._settings.model}
        targets = {f"target_{name}": x for name, x in self._settings.conditions.items()}
        self.structures[index] = entry
        self._lines[index] = json.dumps(entry, allow_nan=False)
        self._frames[index] = to_extxyz([_structure(entry)], [info | targets])

    def _write_cif(self, index: int) -> None:
        entry = self.structures[index]
        text = to_cif(_structure(entry), self._settings.symprec)
        replace_text(self._out / CIF_FOLDER / _cif_name(entry), text)

    def _write_extxyz(self) -> None:
        replace_text(self._out / EXTXYZ, "".join(self._frames[i] for i in sorted(self._frames)))

    def _write_record(self) -> None:
        requested = list(self._settings.conditions.values())
        head = {
            "format_version": FORMAT_VERSION,
            "versions": {
                "crystal_diffusion_jax": __version__,
                **{package: version(package) for package in ("jax", "pymatgen", "spglib")},
            },
            "settings": dataclasses.asdict(self._settings),
            "target": requested[0] if len(requested) == 1 else None,
            "counts": self.counts(),
            "seconds": self.seconds,
            "network_calls": self.network_calls,
            "rejected": [{"index": i, "reason": self.rejected[i]} for i in sorted(self.rejected)],
        }
        lines = [f"{json.dumps(key)}: {json.dumps(x, allow_nan=False)}" for key, x in head.items()]
        structures = ",\n".join(self._lines[i] for i in sorted(self._lines))
        lines.append(f'"structures": [\n{structures}\n]')
        replace_text(self._out / RECORD, "{\n" + ",\n".join(lines) + "\n}\n")


def _structure(entry: dict[str, Any]) -> Any:
    return restore_structure(
        np.array(entry["lattice"]), np.array(entry["frac_coords"]), entry["atomic_numbers"]
    )


def _cif_name(entry: dict[str, Any]) -> str:
    return f"{entry['index']:05d}_{entry['formula']}.cif"


def _create(out: Path) -> None:
    """Makes the folder; takes an existing one only if nothing but our first write can be in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise UserError(
            f"The folder {out} cannot be created ({error.strerror}): choose another --out."
        ) from error
    if names - {temporary_path(out / RECORD).name}:
        raise UserError(
            f"{out} is not empty and has no {RECORD}, so it does not hold samples: choose "
            "another --out."
        )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        complete = {"settings", "seconds", "network_calls", "rejected", "structures"} <= set(record)
        if complete and record["format_version"] == FORMAT_VERSION:
            return dict(record)
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(
        f"{path} is damaged or was written by another version: choose another --out, or remove "
        "the folder."
    )
