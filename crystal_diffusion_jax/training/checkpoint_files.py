"""Checkpoints on disk: names, checksums, reading, and what to do about damaged ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, file_sha256, read_json
from crystal_diffusion_jax.training.state import TrainState

FORMAT_VERSION = 1
CHECKSUMS = "sha256.json"
PREEMPTED = "preempted"
_RECORD = Path("record", "metadata")  # where orbax's JsonSave puts the item "record"


class DamagedError(UserError):
    """A checkpoint that is not as it was written; an earlier one may be intact."""


class Checkpoint(NamedTuple):
    """A complete checkpoint; sorted in the order of training.

    Attributes:
      step: steps taken.
      validated: False if the run was preempted before its validation, or between two.
    """

    step: int
    validated: bool

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.step}" if self.validated else f"{PREEMPTED}_{self.step}"


def complete_checkpoints(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints in a folder, in the order of training."""
    found = []
    for path in folder.glob("*"):
        prefix, _, step = path.name.rpartition("_")
        if step.isdecimal() and prefix in ("", PREEMPTED):
            found.append(Checkpoint(int(step), validated=not prefix))
    return sorted(found)


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all items; the files beside the items are orbax's own."""
    (folder / CHECKSUMS).write_text(json.dumps(_checksums(folder), indent=1) + "\n")


def verify(folder: Path) -> None:
    """Compares all files of a checkpoint with their checksums.

    Raises:
      DamagedError: a file is missing or does not match.
    """
    try:
        expected = dict(read_json(folder / CHECKSUMS, MAX_DESCRIPTION_BYTES))
        found = _checksums(folder)
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{folder} is damaged: {CHECKSUMS} cannot be read ({error})") from error
    for name in sorted(expected.keys() | found):
        if expected.get(name) != found.get(name):
            raise DamagedError(
                f"{folder} is damaged: {name} is missing or does not match its checksum"
            )


def set_damaged_aside(folder: Path, resume_from_previous: bool, log: Callable[[str], None]) -> None:
    """Verifies all checkpoints in a folder and renames the damaged ones.

    Only the first process does it.

    Args:
      folder: of the checkpoints.
      resume_from_previous: whether to rename the last checkpoint too, if an earlier one is intact.
      log: takes a line for each damaged checkpoint.

    Raises:
      UserError: the last checkpoint is damaged and stays.
    """
    if not processes.is_first():
        return
    found = complete_checkpoints(folder)
    damaged: dict[Checkpoint, DamagedError] = {}
    for each in found:
        try:
            verify(folder / each.name)
        except DamagedError as error:
            damaged[each] = error
    intact = [each for each in found if each not in damaged]
    if found and (reason := damaged.get(found[-1])):
        if not intact:
            raise UserError(
                f"{reason}. No earlier checkpoint is left: copy it again, or train into another "
                "--workdir"
            ) from reason
        if not resume_from_previous:
            raise UserError(
                f"{reason}. Copy it again, or add --resume_from_previous to go back to the "
                f"checkpoint of step {intact[-1].step}"
            ) from reason
    for each, reason in damaged.items():
        aside = folder / f"{each.name}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / each.name).rename(aside)
        log(f"{reason}; renamed to {aside.name}")


def read_record(folder: Path) -> dict[str, Any]:
    """Reads the record of a checkpoint that has been verified.

    Raises:
      UserError: a newer version wrote it.
    """
    record: dict[str, Any] = read_json(folder / _RECORD, MAX_DESCRIPTION_BYTES)
    if record["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"{folder} was written by a newer version (format {record['format_version']}, this one "
            f"reads {FORMAT_VERSION}); upgrade crystal-diffusion-jax, or use another --workdir"
        )
    return record


def read_state(folder: Path, like: TrainState) -> TrainState:
    """Reads the state of a checkpoint that has been verified.

    Args:
      folder: of the checkpoint.
      like: gives structure, shapes and shardings.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.StandardCheckpointer() as checkpointer:
        state: TrainState = checkpointer.restore(folder.absolute() / "state", abstract)
    return state


def _checksums(folder: Path) -> dict[str, str]:
    """sha256 by path."""
    paths = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
