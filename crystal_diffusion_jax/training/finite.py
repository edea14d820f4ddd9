"""Values that are not finite stop a run before they reach the log, a checkpoint or the model."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.training.state import TrainState


def require_finite_losses(losses: Mapping[str, Any], step: int, checkpoints: Checkpoints) -> None:
    """Checks losses and gradient norms.

    Args:
      losses: by name; scalars of the validation after `step`, or [n] of the last n steps up to it.
      step: steps taken.
      checkpoints: of the run, for the message.

    Raises:
      UserError: names the first wrong step and what is not finite.
    """
    finite = {name: np.isfinite(values) for name, values in losses.items()}
    together = np.all(list(finite.values()), axis=0)
    where = f"the validation after step {step}"
    if together.ndim:
        where = f"step {step - len(together) + 1 + int(np.argmin(together))}"
    _require({name: bool(np.all(flags)) for name, flags in finite.items()}, where, checkpoints)


def require_finite_state(state: TrainState, step: int, checkpoints: Checkpoints) -> None:
    """Checks the weights and the optimizer, on the devices: the losses lag one step behind.

    Raises:
      UserError: names the part that is not finite.
    """
    parts = {
        "the weights": state.params,
        "the averaged weights": state.ema_params,
        "the state of the optimizer": state.opt_state,
    }
    _require(jax.device_get(_all_finite(parts)), f"step {step}", checkpoints)


@jax.jit
def _all_finite(parts: dict[str, Any]) -> dict[str, jax.Array]:
    return {
        name: jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(part)]))
        for name, part in parts.items()
    }


def _require(finite: Mapping[str, bool], where: str, checkpoints: Checkpoints) -> None:
    wrong = [name for name, good in finite.items() if not good]
    if not wrong:
        return
    checkpoints.wait()
    latest = checkpoints.latest()
    kept = f"the checkpoint of step {latest.step}" if latest else "no checkpoint yet"
    raise UserError(
        f"training stopped at {where}: {', '.join(wrong)} not finite; {checkpoints.folder.parent} "
        f"has {kept}. Lower config.training.learning_rate or check the data, and train into "
        "another --workdir"
    )
