"""Files of generated crystals from any program -> structures, each failure named and counted.

A set of S crystals keeps its S entries: what cannot be read stays in the count, because every rate
of the evaluation is a share of the crystals that were requested.
"""

import dataclasses
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.archives import MAX_EXPANSION
from crystal_diffusion_jax.runtime.files import TooLarge, megabytes, open_regular, read_text
from crystal_diffusion_jax.runtime.workers import TaskFailure, map_in_processes
from crystal_diffusion_jax.structures.cif_reader import parse_cif
from crystal_diffusion_jax.structures.csv_tables import join_names, read_rows
from crystal_diffusion_jax.structures.database import DATABASE
from crystal_diffusion_jax.structures.export import CIF_FOLDER
from crystal_diffusion_jax.structures.extxyz import read_frames
from crystal_diffusion_jax.structures.limits import (
    MAX_ATOMS,
    MAX_CIF_CHARACTERS,
    MAX_CRYSTALS,
    MAX_NAME,
)
from crystal_diffusion_jax.structures.store import read_samples

_KINDS = (
    f"a folder with {DATABASE} or *.cif files, a .cif, .extxyz or .xyz file, a .zip of *.cif "
    f"files, {DATABASE}, or a .csv or .csv.gz with a column `cif`"
)
# Characters of a reason, which may quote the file.
_MAX_REASON = 300
# Below about this many, starting worker processes takes longer than they save.
_MIN_CIFS_FOR_WORKERS = 500

# The text of a CIF, or why it could not be read.
_Text = str | TooLarge | OSError


@dataclasses.dataclass(frozen=True)
class Inputs:
    """S crystals that were requested.

    Attributes:
      structures: S structures, None for each failure.
      names: S names: file, row, frame or index.
      failures: index of each None -> "reason: particulars" or "reason".
    """

    structures: list[Structure | None]
    names: list[str]
    failures: dict[int, str]


def read_structures(path: Path) -> Inputs:
    """Reads a set of crystals.

    Args:
      path: an output folder of `experiments.sample` or its samples.db (crystals that were
        rejected or are not sampled yet count as failures); a folder or a zip archive of CIFs; one
        CIF; an extended XYZ file with one or more frames; a csv or csv.gz with a column `cif`.

    Raises:
      UserError: the path does not exist, is none of these, or is one of the files that
        `experiments.sample` exports from its samples.db.
    """
    try:
        path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "does not exist" if missing else f"cannot be read ({error})"
        raise UserError(f"{printable(str(path), 500)} {reason}: give {_KINDS}.") from error
    _refuse_part_of_samples(path)
    if path.is_dir() and (path / DATABASE).is_file():
        return _numbered("sample", read_samples(path / DATABASE))
    if path.is_dir():
        return _read_cif_folder(path)
    if path.suffix == ".db":
        return _numbered("sample", read_samples(path))
    if path.suffix.lower() == ".cif":
        return _read_one_cif(path)
    if path.suffix.lower() == ".zip":
        return _read_zip(path)
    if path.suffix.lower() in (".extxyz", ".xyz"):
        return _numbered("frame", read_frames(path))
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path)
    raise UserError(f"{path} is not among the kinds of files that are read: {_KINDS}.")


def _read_one_cif(path: Path) -> Inputs:
    text = _read_cif(path)
    if isinstance(text, OSError):
        raise UserError(f"{path} cannot be read: {text.strerror or text}.") from text
    if isinstance(text, TooLarge):
        raise UserError(f"{path} is {text}: no crystal of up to {MAX_ATOMS} atoms takes that.")
    if "data_" not in text.lower():
        raise UserError(f"{path} is not a CIF: it has no data block.")
    return _parse_all([path.name], [text])


def _read_cif_folder(folder: Path) -> Inputs:
    files = [f for f in folder.iterdir() if f.suffix.lower() == ".cif" and not f.is_dir()]
    files.sort(key=lambda file: _natural_order(file.name))
    if not files:
        raise UserError(f"{folder} holds neither {DATABASE} nor *.cif files: give {_KINDS}.")
    return _parse_all([file.name for file in files], [_read_cif(file) for file in files])


def _read_zip(path: Path) -> Inputs:
    """The CIFs of an archive, as MatterGen writes them; nothing is extracted to disk."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(".cif")]
            # No more is read of a member than the size that the archive states.
            if sum(m.file_size for m in members) > MAX_EXPANSION * path.stat().st_size:
                raise TooLarge(f"it expands more than {MAX_EXPANSION}-fold, which no crystals do")
            members.sort(key=lambda member: _natural_order(member.filename))
            texts = [_read_member(archive, member) for member in members]
    except Exception as error:  # damage shows in many ways
        raise UserError(f"{path} cannot be read as a zip archive: {error}.") from error
    if not members:
        raise UserError(f"{path} holds no *.cif files: give {_KINDS}.")
    return _parse_all([printable(member.filename, MAX_NAME) for member in members], texts)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Text:
    if member.file_size > MAX_CIF_CHARACTERS:
        return TooLarge(f"larger than {megabytes(MAX_CIF_CHARACTERS)}")
    # Python expands the other compressions without a limit.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return OSError("neither stored nor deflated")
    try:
        return archive.read(member).decode("utf-8", errors="replace")
    except Exception as error:  # damaged or encrypted
        return OSError(str(error))


def _natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorts 2.cif before 10.cif."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _refuse_part_of_samples(path: Path) -> None:
    """Refuses an export of samples.db: it lacks the rejected crystals, and CIFs may be symmetrised.

    Predictions depend on the cell; one network predicts eV per cell.
    """
    place = path.resolve()
    if place.name == DATABASE or (place / DATABASE).is_file():
        return
    folder = place.parent.parent if place.parent.name == CIF_FOLDER else place.parent
    if (folder / DATABASE).is_file():
        raise UserError(
            f"{path} is only part of a set of samples, without the rejected crystals and possibly "
            f"in other cells: give the folder {folder} instead."
        )


def _read_csv(path: Path) -> Inputs:
    header, rows = read_rows(path)
    if "cif" not in header:
        raise UserError(f"{path} has no column `cif`; its columns are {join_names(header)}.")
    names, texts = [], []
    for number, row in enumerate(rows, start=1):
        names.append(printable(row.get("material_id") or "", MAX_NAME) or f"row {number}")
        texts.append(row["cif"] or "")
        if number > MAX_CRYSTALS:
            raise UserError(f"{path} has more than {MAX_CRYSTALS:,} rows: split it.")
    if not names:
        raise UserError(f"{path} has a header but no rows: there is nothing to evaluate.")
    return _parse_all(names, texts)


def _read_cif(path: Path) -> _Text:
    try:
        return read_text(path, MAX_CIF_CHARACTERS)
    except (TooLarge, OSError) as error:
        return error


def _parse(text: _Text) -> Structure | str:
    if isinstance(text, TooLarge):
        return f"too large: {text}"
    if isinstance(text, OSError):
        return f"cannot be read: {printable(text.strerror or str(text), _MAX_REASON)}"
    try:
        return parse_cif(text)
    except ValueError as error:
        return printable(str(error), _MAX_REASON)
    except Exception as error:  # one odd file must not end the evaluation of the others
        return f"unparsable CIF: {type(error).__name__}"


def _parse_all(names: Sequence[str], texts: Sequence[_Text]) -> Inputs:
    if len(texts) < _MIN_CIFS_FOR_WORKERS:
        return _collect(names, map(_parse, texts))
    results = map_in_processes(_parse, texts, "reading", chunksize=50, progress=False)
    return _collect(
        names,
        (
            f"unparsable CIF: the parser {result.reason}"
            if isinstance(result, TaskFailure)
            else result
            for result in results
        ),
    )


def _numbered(kind: str, results: Sequence[Structure | str]) -> Inputs:
    return _collect([f"{kind} {index}" for index in range(len(results))], results)


def _collect(names: Sequence[str], results: Iterable[Structure | str]) -> Inputs:
    structures: list[Structure | None] = []
    failures: dict[int, str] = {}
    for index, result in enumerate(results):
        if isinstance(result, str):
            failures[index] = result
        structures.append(None if isinstance(result, str) else result)
    return Inputs(structures, list(names), failures)
