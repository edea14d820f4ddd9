"""Where a run goes on: at its last checkpoint, or, if that is damaged and asked for, before it."""

from collections.abc import Callable

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.training.checkpoint import Checkpoint, Checkpoints
from crystal_diffusion_jax.training.seal import DamagedError, Losses
from crystal_diffusion_jax.training.state import TrainState

# Of a run without checkpoints.
START = Checkpoint(0, validated=True)


def restore_last(
    checkpoints: Checkpoints,
    fresh: TrainState,
    from_previous: bool,
    say: Callable[[str], None],
) -> tuple[Checkpoint, TrainState, Losses]:
    """Reads the last checkpoint, if there is one.

    Args:
      checkpoints: of the run.
      fresh: the state at the start, which gives shapes and devices too.
      from_previous: set damaged checkpoints aside and take the last whole one.
      say: takes a line about what is read, and one for each damaged checkpoint.

    Returns:
      Which checkpoint (`START` if there is none), its state, and the losses since the last line of
      the log where a preemption cut it short.

    Raises:
      UserError: the last checkpoint is damaged, or no earlier one is whole.
    """
    last = checkpoints.latest()
    while last is not None:
        try:
            state, unfinished = checkpoints.restore(last, fresh)
        except DamagedError as error:
            last = _step_back(checkpoints, last, error, from_previous, say)
        else:
            say(f"resuming from the checkpoint of step {last.step} in {checkpoints.folder}")
            return last, state, unfinished
    return START, fresh, {}


def _step_back(
    checkpoints: Checkpoints,
    damaged: Checkpoint,
    error: DamagedError,
    from_previous: bool,
    say: Callable[[str], None],
) -> Checkpoint:
    """The checkpoint before a damaged one, which then counts no more."""
    earlier = checkpoints.before(damaged)
    if earlier is None:
        raise UserError(
            f"{error}. No earlier checkpoint is left: copy it again, or train into another "
            "--workdir"
        ) from error
    if not from_previous:
        raise UserError(
            f"{error}. Copy it again, or add --resume_from_previous to go back to the checkpoint "
            f"of step {earlier.step}"
        ) from error
    aside = processes.everywhere(lambda: checkpoints.set_aside(damaged))
    say(f"{error}; it is set aside as {aside.name}, and that of step {earlier.step} is tried")
    return earlier
