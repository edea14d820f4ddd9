"""What a checkpoint says of itself: a record of the run, and the checksums that show damage."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, file_sha256, read_json

FORMAT_VERSION = 1
CHECKSUMS = "sha256.json"

# [n] losses and gradient norms of n steps, by name.
Losses = dict[str, np.ndarray]


class DamagedError(UserError):
    """A checkpoint that is not as it was written; an earlier one may be whole."""


class Record(NamedTuple):
    """What is stored beside the state.

    Attributes:
      config: of the run.
      validation: losses of the validation; None in a checkpoint of a preemption.
      unfinished: of the steps that no line of the log covers yet.
    """

    config: dict[str, Any]
    validation: dict[str, float] | None
    unfinished: dict[str, list[float]]

    def losses(self) -> Losses:
        """Those of the unfinished steps, bit by bit as they were."""
        return {name: np.asarray(row, np.float32) for name, row in self.unfinished.items()}


def make_record(
    config: ExperimentConfig, validation: dict[str, float] | None, unfinished: Losses
) -> Record:
    """The record of a state, ready for json."""
    losses = {name: row.tolist() for name, row in unfinished.items()}
    return Record(config_module.to_dict(config), validation, losses)


def read_record(path: Path) -> Record:
    """Reads a record.

    Raises:
      DamagedError: it is missing, or no record.
    """
    try:
        return Record(**read_json(path, MAX_DESCRIPTION_BYTES))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{path} cannot be read ({error})") from error


def require_same_config(record: Record, config: ExperimentConfig, where: Path) -> None:
    """Refuses the checkpoint of another run.

    Raises:
      UserError: with the fields that differ.
    """
    changed = config_module.differences(config_module.from_dict(record.config), config)
    if changed:
        raise UserError(
            f"{where} belongs to a run with another config; differing fields: "
            f"{'; '.join(changed)}. Remove it, or use another --workdir"
        )


def write_checksums(folder: Path) -> None:
    """Seals the items of a checkpoint, before its folder gets the name of a complete one."""
    seal = {"format_version": FORMAT_VERSION, "files": _checksums(folder)}
    (folder / CHECKSUMS).write_text(json.dumps(seal, indent=1) + "\n")


def require_intact(folder: Path) -> None:
    """Compares the files of a checkpoint with their checksums.

    Raises:
      DamagedError: a file is missing or differs, or the checksums cannot be read.
      UserError: a newer version wrote it.
    """
    path = folder / CHECKSUMS
    try:
        seal = read_json(path, MAX_DESCRIPTION_BYTES)
        newer = seal["format_version"] > FORMAT_VERSION
        wanted = {} if newer else dict(seal["files"])
        found = _checksums(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder} is damaged: no {CHECKSUMS} to be read ({error})") from error
    if newer:
        raise UserError(
            f"{folder} was written by a newer version (format {seal['format_version']}, this one "
            f"reads {FORMAT_VERSION}); upgrade crystal-diffusion-jax, or use another --workdir"
        )
    wrong = sorted(name for name in wanted.keys() | found if wanted.get(name) != found.get(name))
    if wrong:
        raise DamagedError(
            f"{folder} is damaged: {wrong[0]} is missing or does not match its checksum"
        )


def _checksums(folder: Path) -> dict[str, str]:
    """Of all files of the items, by name; those beside the items only tell of orbax itself."""
    sums = {}
    for path in sorted(folder.glob("*/**/*")):
        if path.is_file():
            sums[path.relative_to(folder).as_posix()] = file_sha256(path)
    return sums
