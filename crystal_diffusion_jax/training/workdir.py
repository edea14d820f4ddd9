"""The folder of a run, which belongs to one config and one set of data."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, read_json, replace_text
from crystal_diffusion_jax.runtime.lock import exclusive


@contextlib.contextmanager
def claimed(
    workdir: Path,
    config: ExperimentConfig,
    splits: Mapping[str, CrystalDataset],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Creates the run's folder, or checks that an existing one belongs to the same run; locks it.

    Of several processes, which all call this, the first one decides, and holds the lock.

    Args:
      workdir: the folder.
      config: the experiment.
      splits: "train" and "val".
      say: takes a line about an earlier run that was killed.

    Raises:
      UserError: the folder holds a run of another config (the differing fields are named) or of
        other data, is in use by another process, or cannot be written; the processes differ in
        config, data or folder.
    """
    checksums = {split: splits[split].checksum() for split in ("train", "val")}
    record = {"config": config_module.to_dict(config), "data": checksums}
    text = json.dumps(record, indent=1) + "\n"
    if not processes.same_everywhere(text):
        raise UserError(
            "the processes have different configs or data; start all of them with the same flags "
            "on the same files"
        )
    path = workdir / "config.json"
    lock = contextlib.ExitStack()

    def claim() -> None:
        if processes.is_first():
            with writing(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                lock.enter_context(exclusive(workdir, "--workdir", say))
            _claim(path, config, checksums, text)

    try:
        processes.everywhere(claim)
        processes.everywhere(lambda: _require_shared(path))
        yield
    finally:
        with writing(workdir):  # a disk that fails takes the lock's file along
            lock.close()


@contextlib.contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Says what the operating system has against writing to the run's folder in one sentence.

    Raises:
      UserError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror or error}): make room or mend "
            "it, and the same command goes on from the last checkpoint, or use another --workdir"
        ) from error


def _claim(path: Path, config: ExperimentConfig, checksums: dict[str, str], text: str) -> None:
    if path.exists():
        _require_same_run(path, config, checksums)
        return
    with writing(path.parent):
        replace_text(path, text)


def _require_same_run(path: Path, config: ExperimentConfig, checksums: dict[str, str]) -> None:
    try:
        recorded = read_json(path, MAX_DESCRIPTION_BYTES)
        earlier = config_module.from_dict(recorded["config"])
        other_data = [name for name in checksums if recorded["data"][name] != checksums[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); use another --workdir or remove this one"
        ) from error
    changed = config_module.differences(earlier, config)
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


def _require_shared(path: Path) -> None:
    if not path.exists():
        raise UserError(
            f"{path.parent} is not the same folder in all processes: give a --workdir on a file "
            "system that all hosts share"
        )
