"""The folder of a run: one config, one data set, one process at a time; and its model."""

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import jax

from crystal_diffusion_jax import __version__, trained_model
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices, processes
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, read_json, replace_text
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.trained_model import TrainedModel

# Fields of the training that may be larger when a run resumes.
_MAY_GROW = ("num_steps", "patience")


@contextlib.contextmanager
def open_workdir(
    workdir: Path,
    config: ExperimentConfig,
    splits: Mapping[str, CrystalDataset],
    lattice_scale: float,
    log: Callable[[str], None],
) -> Iterator[None]:
    """Locks a new folder, or one that belongs to the same run.

    Every process calls this; the first one decides and holds the lock.

    Args:
      workdir: the folder.
      config: the experiment.
      splits: "train" and "val".
      lattice_scale: of the statistics.
      log: takes a line about an earlier run that was killed.

    Raises:
      UserError: the folder holds a run with another config (the differing fields are named) or
        other data, is in use by another process, or cannot be written; or the processes differ in
        config, data or folder.
    """
    checksums = {split: splits[split].checksum() for split in ("train", "val")}
    record = {
        "config": config_module.to_dict(config),
        "data": checksums,
        "lattice_scale": lattice_scale,
    }
    text = json.dumps(record, indent=1) + "\n"
    if not processes.same_everywhere(text):
        raise UserError(
            "the processes have different configs or data; start all of them with the same flags "
            "on the same files"
        )
    path = workdir / "config.json"
    lock = contextlib.ExitStack()

    def lock_and_check() -> None:
        if not processes.is_first():
            return
        with write_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            lock.enter_context(exclusive(workdir, "--workdir", log))
            if not path.exists():
                replace_text(path, text)
        if _check_same_run(path, config, checksums) != config:
            with write_errors(workdir):
                replace_text(path, text)

    def check_shared() -> None:
        if not path.exists():
            raise UserError(
                f"{workdir} is not the same folder in all processes: give a --workdir on a file "
                "system that all hosts share"
            )

    try:
        processes.everywhere(lock_and_check)
        processes.everywhere(check_shared)
        yield
    finally:
        with write_errors(workdir):  # the lock file is gone if the disk has failed
            lock.close()


@contextlib.contextmanager
def write_errors(workdir: Path) -> Iterator[None]:
    """Turns an OSError into a UserError about the run's folder."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror or error}): make room or "
            "repair it, and the same command resumes from the last checkpoint, or use another "
            "--workdir"
        ) from error


def export_model(
    model: TrainedModel,
    crystals: CrystalDataset,
    workdir: Path,
    step: int,
    training_losses: Mapping[str, float],
    validation_losses: Mapping[str, float],
    seconds: float,
    cached_elements: int,
) -> None:
    """Writes <workdir>/model; its model card states how it was trained, and on which crystals."""
    facts = {
        "steps": step,
        "training losses": {name: round(loss, 5) for name, loss in training_losses.items()},
        "validation losses": {name: round(loss, 5) for name, loss in validation_losses.items()},
        "time": str(timedelta(seconds=round(seconds))),
        "devices": f"{devices.describe()}, {os.cpu_count()} cores, {platform.machine()}, chunks of "
        f"{cached_elements:,} elements",
        "versions": f"crystal_diffusion_jax {__version__}, jax {jax.__version__}",
    }
    with write_errors(workdir):
        folder = workdir / "model"
        write = len(crystals) <= training_crystals.MAX_NUM
        write = write and not (folder / training_crystals.FILE).exists()
        model = dataclasses.replace(model, training=facts)
        trained_model.save(model, folder, crystals if write else None)


def recorded_scale(workdir: Path) -> float | None:
    """The lattice scale of the run in a folder; None if there is none, or none that can be read."""
    try:
        return float(read_json(workdir / "config.json", MAX_DESCRIPTION_BYTES)["lattice_scale"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require_model(workdir: Path, num_steps: int) -> None:
    """Raises UserError if a finished run has lost its model."""
    if not all((workdir / "model" / name).is_file() for name in ("model.json", "weights.npz")):
        raise UserError(
            f"all {num_steps} steps of {workdir} are done, but its folder model is missing or "
            f"incomplete: copy it back, or remove {workdir / 'checkpoints' / str(num_steps)} and "
            "run this again, which repeats the steps after the previous checkpoint"
        )


def _check_same_run(
    path: Path, config: ExperimentConfig, checksums: dict[str, str]
) -> ExperimentConfig:
    """The recorded config; raises UserError if more has changed than what may grow."""
    try:
        recorded = read_json(path, MAX_DESCRIPTION_BYTES)
        earlier = config_module.from_dict(recorded["config"])
        other_data = [name for name in checksums if recorded["data"][name] != checksums[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); use another --workdir or remove this one"
        ) from error
    grown = {
        name: value
        for name in _MAY_GROW
        if (value := getattr(config.training, name)) > getattr(earlier.training, name)
    }
    training = dataclasses.replace(earlier.training, **grown)
    changed = config_module.differences(dataclasses.replace(earlier, training=training), config)
    if changed:
        raise UserError(
            f"{path.parent} holds a run with another config; differing fields: "
            f"{'; '.join(changed)}. Use another --workdir, or restore these fields to resume"
        )
    if other_data:
        raise UserError(
            f"{path.parent} holds a run on other data: the crystals of {', '.join(other_data)} "
            "have changed since. Use another --workdir, or restore the data to resume"
        )
    return earlier
