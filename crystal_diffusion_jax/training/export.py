"""The model folder of a run, which is what people sample from."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from crystal_diffusion_jax import __version__, trained_model
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training.workdir import write_errors


def export_model(
    model: TrainedModel,
    workdir: Path,
    step: int,
    training_losses: Mapping[str, float],
    validation_losses: Mapping[str, float],
    seconds: float,
) -> None:
    """Writes <workdir>/model, with how it was trained on its model card.

    Raises:
      UserError: it cannot be written.
    """
    facts = {
        "steps": step,
        "training losses": {name: round(loss, 5) for name, loss in training_losses.items()},
        "validation losses": {name: round(loss, 5) for name, loss in validation_losses.items()},
        "time": duration(seconds),
        "devices": f"{devices.describe()}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": f"crystal_diffusion_jax {__version__}, jax {jax.__version__}",
    }
    with write_errors(workdir):
        trained_model.save(dataclasses.replace(model, training=facts), workdir / "model")


def require_model(workdir: Path, num_steps: int) -> None:
    """Checks that a finished run still has its model.

    Raises:
      UserError: it has not.
    """
    if not all((workdir / "model" / name).is_file() for name in ("model.json", "weights.npz")):
        raise UserError(
            f"all {num_steps} steps of {workdir} are done, but its folder model is missing or "
            f"incomplete: copy it back, or remove {workdir / 'checkpoints' / str(num_steps)} and "
            "run this again, which repeats the steps after the previous checkpoint"
        )
