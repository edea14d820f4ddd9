"""Programs that are compiled once for each padded size, which the log announces."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import jax
from jax import Array

from crystal_diffusion_jax.runtime.heartbeat import Heartbeat
from crystal_diffusion_jax.training.pace import Pace
from crystal_diffusion_jax.training.step import Arrays, TrainState

Result = TypeVar("Result")


class Announced(Generic[Result]):
    """A jitted program whose first call with each size is announced, and belongs to no lap.

    Args:
      program: train steps or a validation step.
      name: what the log calls it.
      sizes: the padded sizes it will be called with.
      heartbeat: takes the lines.
      pace: of the run.
    """

    def __init__(
        self,
        program: Callable[[TrainState, Arrays, Array], Result],
        name: str,
        sizes: Sequence[int],
        heartbeat: Heartbeat,
        pace: Pace,
    ) -> None:
        self._program, self._name, self._sizes = program, name, sizes
        self._heartbeat, self._pace = heartbeat, pace
        self.called: set[int] = set()  # sizes

    def __call__(self, state: TrainState, rows: Arrays, key: Array) -> Result:
        """Calls the program."""
        size: int = rows[0].mask.shape[-1]
        if size in self.called:
            return self._program(state, rows, key)
        self.called.add(size)
        activity = f"compiling {self._name}, size {len(self.called)} of {len(self._sizes)}"
        self._heartbeat.log(f"{activity}: up to {size} atoms")
        with self._heartbeat.doing(activity), self._pace.paused():
            return jax.block_until_ready(self._program(state, rows, key))
