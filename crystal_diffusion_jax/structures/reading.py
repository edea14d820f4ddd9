"""Crystals of any program, in files of any kind -> structures, each failure named and counted.

A set of S crystals keeps its S entries: what cannot be read stays in the count, because every rate
of the evaluation is a share of the crystals that were requested.
"""

import dataclasses
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.archives import MAX_EXPANSION
from crystal_diffusion_jax.runtime.files import TooLarge, megabytes, open_regular
from crystal_diffusion_jax.runtime.workers import TaskFailure, map_in_processes
from crystal_diffusion_jax.structures import ase_database
from crystal_diffusion_jax.structures.crystal_files import (
    Document,
    Named,
    Source,
    max_bytes,
    read_file,
    read_safely,
)
from crystal_diffusion_jax.structures.csv_crystals import crystal_column, find_file, is_inline
from crystal_diffusion_jax.structures.csv_tables import read_rows
from crystal_diffusion_jax.structures.database import DATABASE
from crystal_diffusion_jax.structures.export import CIF_FOLDER
from crystal_diffusion_jax.structures.file_names import (
    SUFFIXES,
    TEXT_KINDS,
    crystal_files,
    is_table,
    kind_of,
    natural_order,
)
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS, MAX_NAME
from crystal_diffusion_jax.structures.samples_reader import read_material_ids, read_samples

_KINDS = (
    f"a folder with {DATABASE} or with files of crystals ({', '.join(SUFFIXES)}, POSCAR), one such "
    f"file, {DATABASE}, a .zip of them, or a .csv with a column of CIFs, JSON or paths"
)
# Below about this many, starting worker processes takes longer than they save.
_MIN_CIFS_FOR_WORKERS = 500


@dataclasses.dataclass(frozen=True)
class Inputs:
    """S crystals that were requested.

    Attributes:
      structures: S structures, None for each failure.
      names: S names: file, row, frame or index.
      failures: index of each None -> "reason: particulars" or "reason".
      material_ids: S identifiers, of the reference crystal that each one predicts, "" where none is
        given; empty if the set has no column `material_id`.
    """

    structures: list[Structure | None]
    names: list[str]
    failures: dict[int, str]
    material_ids: list[str] = dataclasses.field(default_factory=list)


def read_structures(path: Path) -> Inputs:
    """Reads a set of crystals.

    Args:
      path: an output folder of `experiments.sample` or its samples.db (crystals that were
        rejected or are not sampled yet count as failures); a file of any kind in `file_names`, or a
        folder or a zip archive of such files in any mix; a csv with a crystal, or the path of its
        file, in each row.

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
        return _read_samples(path / DATABASE)
    if path.is_dir():
        return _read_folder(path)
    if path.name == DATABASE or (path.suffix == ".db" and ase_database.is_samples(path)):
        return _read_samples(path)
    if path.suffix.lower() == ".zip":
        return _read_zip(path)
    if is_table(path):
        return _read_csv(path)
    if kind_of(path.name) is None:
        raise UserError(f"{path} is not among the kinds of files that are read: {_KINDS}.")
    return _read_one(path)


def _read_one(path: Path) -> Inputs:
    try:
        return _collect([path.name], [read_file(path)], alone=True)
    except UserError:
        raise
    except TooLarge as error:
        raise UserError(f"{path} is {error}: no crystal takes that.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {printable(str(error), 300)}.") from error


def _read_folder(folder: Path) -> Inputs:
    files = crystal_files(folder)
    if (folder / "relaxed.db").is_file():
        raise UserError(
            f"{folder} is a folder of `relax`, for --relaxed: give {folder / CIF_FOLDER} to read "
            "the relaxed crystals like any others."
        )
    if not files:
        raise UserError(f"{folder} holds neither {DATABASE} nor files of crystals: give {_KINDS}.")
    return _read_all([file.name for file in files], files)


def _read_zip(path: Path) -> Inputs:
    """The crystals of an archive, as MatterGen writes them; nothing is extracted to disk."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if _is_text(m.filename)]
            # No more is read of a member than the size that the archive states.
            if sum(m.file_size for m in members) > MAX_EXPANSION * path.stat().st_size:
                raise TooLarge(f"it expands more than {MAX_EXPANSION}-fold, which no crystals do")
            members.sort(key=lambda member: natural_order(member.filename))
            sources = [_read_member(archive, member) for member in members]
    except Exception as error:  # damage shows in many ways
        raise UserError(f"{path} cannot be read as a zip archive: {error}.") from error
    if not members:
        raise UserError(f"{path} holds no text files of crystals: give {_KINDS}.")
    return _read_all([printable(member.filename, MAX_NAME) for member in members], sources)


def _is_text(name: str) -> bool:
    """Whether a member is a text file of crystals, none of the hidden copies that macOS adds."""
    return kind_of(name) in TEXT_KINDS and not Path(name).name.startswith(".")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Source:
    limit = max_bytes(kind_of(member.filename) or "CIF")
    if member.file_size > limit:
        return TooLarge(f"larger than {megabytes(limit)}")
    # Python expands the other compressions without a limit.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return OSError("neither stored nor deflated")
    try:
        return Document(member.filename, archive.read(member))
    except Exception as error:  # damaged or encrypted
        return OSError(str(error))


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
    column = crystal_column(path, header)
    names: list[str] = []
    sources: list[Source] = []
    ids: list[str] = []
    for number, row in enumerate(rows, start=1):
        cell = (row[column] or "").strip()
        source = _of_cell(path.parent, cell)
        name = row.get("material_id") or (cell if isinstance(source, Path) else "")
        names.append(printable(name, MAX_NAME) or f"row {number}")
        sources.append(source)
        ids.append(row.get("material_id") or "")
        if number > MAX_CRYSTALS:
            raise UserError(f"{path} has more than {MAX_CRYSTALS:,} rows: split it.")
    if not names:
        raise UserError(f"{path} has a header but no rows: there is nothing to evaluate.")
    return _read_all(names, sources, ids if "material_id" in header else None)


def _of_cell(folder: Path, cell: str) -> Source:
    """The text of a crystal, or the file that a cell names."""
    if not cell or is_inline(cell):
        return cell
    try:
        return find_file(folder, cell)
    except ValueError as error:
        return OSError(str(error))


def _read_all(
    names: Sequence[str], sources: Sequence[Source], ids: Sequence[str] | None = None
) -> Inputs:
    if len(sources) < _MIN_CIFS_FOR_WORKERS:
        return _collect(names, map(read_safely, sources), ids=ids)
    results = map_in_processes(read_safely, sources, "reading", chunksize=50, progress=False)
    return _collect(
        names,
        (
            [("", f"unparsable: the parser {result.reason}")]
            if isinstance(result, TaskFailure)
            else result
            for result in results
        ),
        ids=ids,
    )


def _read_samples(path: Path) -> Inputs:
    named = [(f"sample {index}", result) for index, result in enumerate(read_samples(path))]
    inputs = _collect([""], [named], alone=True)
    inputs.material_ids.extend(read_material_ids(path))
    return inputs


def _collect(
    names: Sequence[str],
    results: Iterable[Sequence[Named]],
    alone: bool = False,
    ids: Sequence[str] | None = None,
) -> Inputs:
    """One set of crystals.

    Args:
      names: of the files or rows.
      results: what each of them holds.
      alone: it is a single file, whose crystals go by their own names.
      ids: `material_id` of each row, if they have any.
    """
    inputs = Inputs([], [], {})
    for place, (name, found) in enumerate(zip(names, results, strict=True)):
        for own_name, result in found:
            if ids is not None:
                inputs.material_ids.append(ids[place])
            if isinstance(result, str):
                inputs.failures[len(inputs.names)] = result
            full = own_name if alone else f"{name} {own_name}".strip() if len(found) > 1 else name
            inputs.names.append(printable(full or name, MAX_NAME))
            inputs.structures.append(None if isinstance(result, str) else result)
    return inputs
