"""Checkpoints of a run: asynchronous orbax saves, the last few and the best kept."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from crystal_diffusion_jax.training.state import TrainState


def _validation_loss(metrics: dict[str, Any]) -> float:
    return float(metrics["loss"])


class Checkpoints:
    """Checkpoints in one folder; a context manager that waits for pending writes.

    Args:
      folder: created if needed.
      keep_last: checkpoints kept besides the one of the lowest validation loss.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep_last), BestN(get_metric_fn=_validation_loss, reverse=True, n=1)]
            ),
            best_fn=_validation_loss,
            best_mode="min",
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: TrainState, validation: dict[str, float]) -> None:
        """Starts writing the state reached after `step` steps."""
        # The train step donates its state, so the writer gets a copy of its own.
        copy = jax.tree.map(jnp.copy, state)
        self._manager.save(step, args=ocp.args.StandardSave(copy), metrics=validation)

    def latest_step(self) -> int | None:
        """Steps taken at the last complete checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Steps taken at the checkpoint of the lowest validation loss, or None."""
        self._manager.wait_until_finished()
        return self._manager.best_step()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads a state with the shapes, types and shardings of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
