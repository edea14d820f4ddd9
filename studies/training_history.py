"""What a run leaves behind on its way: models of its checkpoints, minutes and losses of its log."""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_text
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training import checkpoint_files
from crystal_diffusion_jax.training.checkpoint_files import DamagedError
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.state import initial_state


def checkpoint_steps(workdir: Path) -> list[int]:
    """Steps of the validated checkpoints that a run holds, ascending."""
    names = [path.name for path in (workdir / "checkpoints").glob("*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def checkpoint_model(workdir: Path, step: int, last: TrainedModel) -> TrainedModel:
    """The averaged weights of a checkpoint as a model, also while the training goes on.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      last: the run's exported model, which has the layout of the weights.

    Raises:
      DamagedError: the checkpoint is damaged, or has been removed meanwhile.
    """
    params, unflatten = ravel_pytree(jax.tree.map(jnp.asarray, last.params))
    like = initial_state(params, make_optimizer(last.config.training, unflatten))
    folder = workdir / "checkpoints" / str(step)
    checkpoint_files.verify(folder)
    try:
        state = checkpoint_files.read_state(folder, like)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder} cannot be read: {error}") from error
    digest = hashlib.sha256(np.asarray(state.ema_params).tobytes()).hexdigest()
    # numpy, as from a model folder: restored arrays are tied to one device, a sampler may use all.
    params = jax.device_get(unflatten(state.ema_params))
    return dataclasses.replace(last, params=params, weights_sha256=digest)


def read_log(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Minutes of training, and validation loss, by step.

    Args:
      path: metrics.jsonl; a last line that is being written is left out.

    Raises:
      UserError: there is no such log.
    """
    minutes, losses = {}, {}
    try:
        for line in read_text(path, MAX_RECORD_BYTES).splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            row = json.loads(line)
            if row["kind"] == "train":
                minutes[int(row["step"])] = float(row["seconds"]) / 60
            else:
                losses[int(row["step"])] = float(row["loss"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} is missing or damaged: give the folder of a training to --workdir"
        ) from error
    return minutes, losses
