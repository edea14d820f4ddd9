"""How fast a run goes without compilation and validation, and how much time is left with them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from crystal_diffusion_jax.config import TrainingConfig

# A step computes the network and its gradient, which costs twice as much; a validation the network
# alone.
_COST_OF_A_STEP = 3


class Lap(NamedTuple):
    """The pace since the last lap.

    Attributes:
      rate: structures per second; None if all programs were new.
      left: seconds until the last step and its validation; None until the first rate.
    """

    rate: float | None
    left: float | None


class Pace:
    """Measures laps.

    Args:
      training: the steps to come.
      validation_crystals: crystals that a validation computes, all draws together.
      clock: seconds that never go back.
    """

    def __init__(
        self,
        training: TrainingConfig,
        validation_crystals: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._training, self._clock = training, clock
        self._validation_crystals = validation_crystals
        self._per_step: float | None = None
        self._validation: float | None = None
        self._paused = 0.0
        self._start_lap()

    def count(self, steps: int, crystals: int) -> None:
        """Counts steps of so many crystals each, whose program is not new."""
        self._steps += steps
        self._crystals += steps * crystals

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile belongs to no lap: compilation, validation, writing."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begin

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Times a validation; the time of what `paused` meanwhile does not count."""
        begin, before = self._clock(), self._paused
        try:
            yield
        finally:
            seconds = self._clock() - begin
            self._validation = seconds - (self._paused - before)
            self._paused = before + seconds

    def lap(self, step: int) -> Lap:
        """The pace since the last lap, which ends after `step` steps."""
        seconds = self._clock() - self._begin - self._paused
        rate = None
        if self._steps:
            rate = self._crystals / max(seconds, 1e-9)
            self._per_step = seconds / self._steps
            if self._validation is None:  # none has been timed
                self._validation = self._validation_crystals / (_COST_OF_A_STEP * rate)
        self._start_lap()
        if self._per_step is None or self._validation is None:
            return Lap(None, None)
        steps = self._per_step * (self._training.num_steps - step)
        return Lap(rate, steps + self._validation * self._validations_left(step))

    def _start_lap(self) -> None:
        self._begin, self._paused, self._steps, self._crystals = self._clock(), 0.0, 0, 0

    def _validations_left(self, step: int) -> int:
        """Those after every `checkpoint_every` steps and after the last, with that after `step`."""
        last, every = self._training.num_steps, self._training.checkpoint_every
        return -(-last // every) - -(-step // every) + 1
