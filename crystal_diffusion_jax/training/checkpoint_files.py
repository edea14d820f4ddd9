"""Checkpoints on disk: names, checksums, reading, and setting damaged ones aside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, file_sha256, read_json
from crystal_diffusion_jax.training.step import TrainState

CHECKSUMS = "sha256.json"
PREEMPTED = "preempted"

# [n] losses and gradient norms of n steps, by name.
Losses = dict[str, np.ndarray]


class DamagedError(UserError):
    """A checkpoint that has changed since it was written; an earlier one may be intact."""


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
    """Records the checksums of all items; the files beside the items are orbax's own."""
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

    Does nothing in any but the first process.

    Args:
      folder: of the checkpoints.
      resume_from_previous: rename even the last checkpoint, if an earlier one is intact.
      log: takes a line for each damaged checkpoint.

    Raises:
      UserError: the last checkpoint is damaged and is not renamed.
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


def read_state(folder: Path, like: TrainState) -> TrainState:
    """The state in a verified checkpoint; `like` gives its structure, shapes and shardings."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.StandardCheckpointer() as checkpointer:
        state: TrainState = checkpointer.restore(folder.absolute() / "state", abstract)
    return state


def read_losses(folder: Path) -> Losses:
    """The losses in a verified checkpoint."""
    # Where orbax's JsonSave puts the item "losses".
    losses = read_json(folder / "losses" / "metadata", MAX_DESCRIPTION_BYTES)
    return {name: np.asarray(row, np.float32) for name, row in losses.items()}


def _checksums(folder: Path) -> dict[str, str]:
    """The sha256 of each file of the items, by path."""
    paths = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
