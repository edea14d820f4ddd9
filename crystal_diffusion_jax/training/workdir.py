"""The folder of a run, which belongs to one config and one set of data."""

import json
from collections.abc import Mapping
from pathlib import Path

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import processes
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.files import replace_text
from crystal_diffusion_jax.training.inputs import Split


def claim_workdir(workdir: Path, config: ExperimentConfig, splits: Mapping[str, Split]) -> None:
    """Creates the run's folder, or checks that an existing one belongs to the same run.

    Of several processes, which all call this, the first one decides.

    Raises:
      UserError: the folder holds a run of another config (the differing fields are named) or of
        other data, or cannot be written; the processes differ in config, data or folder.
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
    if processes.is_first():
        processes.everywhere(lambda: _claim(path, config, checksums, text))
    else:
        processes.everywhere(lambda: None)
    processes.everywhere(lambda: _require_shared(path))


def _claim(path: Path, config: ExperimentConfig, checksums: dict[str, str], text: str) -> None:
    if path.exists():
        _require_same_run(path, config, checksums)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise UserError(
            f"--workdir={path.parent} is no folder that can be written ({error.strerror}); "
            "use another --workdir"
        ) from error


def _require_same_run(path: Path, config: ExperimentConfig, checksums: dict[str, str]) -> None:
    try:
        recorded = json.loads(path.read_text())
        earlier = config_module.from_dict(recorded["config"])
        other_data = [name for name in checksums if recorded["data"][name] != checksums[name]]
    except (ValueError, KeyError, TypeError) as error:
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
