"""Numbers gone wrong stop the run before they reach the log, a checkpoint or the model folder."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.training.state import TrainState


def require_finite_losses(losses: Mapping[str, Any], done: int, kept: Callable[[], str]) -> None:
    """Checks losses and gradient norms.

    Args:
      losses: numbers of the validation after step `done`, or [n] of the last n steps up to it.
      done: steps taken.
      kept: says what is on disk, for the message.

    Raises:
      UserError: with the first step, and the names of what is not finite.
    """
    finite = np.all([np.isfinite(values) for values in losses.values()], axis=0)
    wrong = [name for name, values in losses.items() if not np.all(np.isfinite(values))]
    where = f"the validation after step {done}"
    if np.ndim(finite):
        where = f"step {done - len(finite) + 1 + int(np.argmin(finite))}"
    if wrong:
        raise _stopped(where, wrong, kept)


def require_finite_state(state: TrainState, done: int, kept: Callable[[], str]) -> None:
    """Checks the weights, their average and the optimizer, which the losses show a step too late.

    `kept` says what is on disk.

    Raises:
      UserError: with the names of what is not finite.
    """
    parts = {
        "the weights": state.params,
        "the averaged weights": state.ema_params,
        "the state of the optimizer": state.opt_state,
    }
    wrong = [
        name
        for name, part in parts.items()
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.device_get(part)))
    ]
    if wrong:
        raise _stopped(f"step {done}", wrong, kept)


def _stopped(where: str, wrong: list[str], kept: Callable[[], str]) -> UserError:
    return UserError(
        f"training stopped at {where}: {', '.join(wrong)} not finite; {kept()}. Lower "
        "config.training.learning_rate or look at the data, and train into another --workdir"
    )
