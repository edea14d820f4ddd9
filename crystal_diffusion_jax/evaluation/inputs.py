"""Files of generated crystals, whoever made them -> structures, each failure named and counted.

A set of S crystals keeps its S places: what cannot be read stays in the count, as every rate of
the evaluation is a share of the crystals that were asked for.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import joblib
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.tables import read_rows
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.cif import checked_structure, parse_cif
from crystal_diffusion_jax.sampling.record import CIF_FOLDER, RECORD
from crystal_diffusion_jax.structures import MIN_VOLUME

_KINDS = (
    f"a folder with {RECORD} or *.cif files, a .cif, .extxyz or .xyz file, {RECORD}, "
    "or a .csv or .csv.gz with a column `cif`"
)
# From about here on worker processes win back the time that starting them takes.
_MIN_CIFS_FOR_WORKERS = 500


@dataclasses.dataclass(frozen=True)
class Inputs:
    """S crystals that were asked for.

    Attributes:
      structures: S structures, None where there is none.
      names: S names: file, row, frame or index.
      failures: index of each None -> "reason: particulars" or "reason".
    """

    structures: list[Structure | None]
    names: list[str]
    failures: dict[int, str]


def read_structures(path: Path) -> Inputs:
    """Reads a set of crystals.

    Args:
      path: an output folder of `experiments.sample` or its samples.json (crystals that were
        rejected or are not sampled yet count as failures); a folder of CIFs; one CIF; an extended
        XYZ file with one or more frames; a csv or csv.gz with a column `cif`.

    Raises:
      UserError: there is no such file, it is none of these, or it is one of the files that
        `experiments.sample` derives from its record.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give {_KINDS}.")
    _refuse_part_of_samples(path)
    if path.is_dir():
        if (path / RECORD).is_file():
            return _read_record(path / RECORD)
        return _read_cif_folder(path)
    if path.suffix == ".json":
        return _read_record(path)
    if path.suffix.lower() == ".cif":
        text = _read_text(path)
        if "data_" not in text.lower():
            raise UserError(f"{path} is no CIF: it has no data block.")
        return _collect([path.name], _parse_all([text]))
    if path.suffix.lower() in (".extxyz", ".xyz"):
        return _read_extxyz(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path)
    raise UserError(f"{path} is not among the kinds of files that are read: {_KINDS}.")


def _read_cif_folder(folder: Path) -> Inputs:
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".cif"]
    files.sort(key=lambda file: _natural_order(file.name))
    if not files:
        raise UserError(f"{folder} holds neither {RECORD} nor *.cif files: give {_KINDS}.")
    return _collect([file.name for file in files], _parse_all([_read_text(f) for f in files]))


def _natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorts 2.cif before 10.cif."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _refuse_part_of_samples(path: Path) -> None:
    """Refuses what lacks the rejected crystals, and holds symmetrised cells of the others.

    The networks' predictions, in eV per cell for one of them, depend on the cell.
    """
    place = path.resolve()
    if place.name == RECORD or (place / RECORD).is_file():
        return
    folder = place.parent.parent if place.parent.name == CIF_FOLDER else place.parent
    if (folder / RECORD).is_file():
        raise UserError(
            f"{path} is only a part of what was sampled, without the rejected crystals and maybe "
            f"in other cells: give the folder {folder} instead."
        )


def _read_csv(path: Path) -> Inputs:
    header, rows = read_rows(path)
    if "cif" not in header:
        raise UserError(f"{path} has no column `cif`; its columns are {', '.join(header)}.")
    names = [row.get("material_id") or f"row {i}" for i, row in enumerate(rows, start=1)]
    if not rows:
        raise UserError(f"{path} has a header but no rows: there is nothing to evaluate.")
    return _collect(names, _parse_all([row["cif"] or "" for row in rows]))


def _read_extxyz(path: Path) -> Inputs:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = ase.io.read(path, index=":", format="extxyz")
    except Exception as error:  # as open-ended as the text may be
        raise UserError(f"{path} cannot be read as extended XYZ: {error}.") from error
    if not frames:
        raise UserError(f"{path} holds no structure.")
    results: list[Structure | str] = []
    for frame in frames:
        if not frame.pbc.all():
            results.append("no periodic cell")
            continue
        lattice = frame.cell.array
        try:
            # Not frame.get_scaled_positions(): it wraps coordinates into the cell.
            frac_coords = frame.positions @ np.linalg.inv(lattice)
            results.append(checked_structure(lattice, frac_coords, frame.numbers))
        except np.linalg.LinAlgError:
            results.append(f"volume below {MIN_VOLUME} A^3")
        except ValueError as error:
            results.append(str(error))
    return _collect([f"frame {i}" for i in range(len(frames))], results)


def _read_record(path: Path) -> Inputs:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        num = int(record["settings"]["num"])
        entries = {int(entry["index"]): entry for entry in record["structures"]}
        rejected = {
            int(e["index"]): f"rejected when sampled: {e['reason']}" for e in record["rejected"]
        }
        if not (entries.keys() | rejected.keys()) <= set(range(num)):
            raise ValueError("an index is out of range")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by experiments.sample: sample again, or give "
            f"{_KINDS}."
        ) from error
    results: list[Structure | str] = []
    for index in range(num):
        if index in entries:
            results.append(_restore(entries[index]))
        else:
            results.append(
                rejected.get(index, "not sampled: the sampling command has not finished")
            )
    return _collect([f"sample {index}" for index in range(num)], results)


def _restore(entry: dict[str, Any]) -> Structure | str:
    try:
        lattice = np.array(entry["lattice"], dtype=np.float64)
        frac_coords = np.array(entry["frac_coords"], dtype=np.float64)
        atomic_numbers = np.array(entry["atomic_numbers"], dtype=int)
    except KeyError as error:
        return f"incomplete entry in {RECORD}: no {error}"
    except (ValueError, TypeError) as error:
        return f"unreadable entry in {RECORD}: {error}"
    try:
        return checked_structure(lattice, frac_coords, atomic_numbers)
    except ValueError as error:
        return str(error)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _parse(text: str) -> Structure | str:
    try:
        return parse_cif(text)
    except ValueError as error:
        return str(error)
    except Exception as error:  # one odd file must not end the evaluation of the others
        return f"unparsable CIF: {type(error).__name__}"


def _parse_all(texts: Sequence[str]) -> Iterable[Structure | str]:
    num_jobs = 1 if len(texts) < _MIN_CIFS_FOR_WORKERS else -1
    results: list[Structure | str] = joblib.Parallel(n_jobs=num_jobs, batch_size=50)(
        joblib.delayed(_parse)(text) for text in texts
    )
    return results


def _collect(names: Sequence[str], results: Iterable[Structure | str]) -> Inputs:
    structures: list[Structure | None] = []
    failures: dict[int, str] = {}
    for index, result in enumerate(results):
        if isinstance(result, str):
            failures[index] = result
            structures.append(None)
        else:
            structures.append(result)
    return Inputs(structures, list(names), failures)
