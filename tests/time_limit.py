"""A limit on the processor time of code that cannot be asked to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt(BaseException):
    """Leaves a library from anywhere: a BaseException, as some of them catch every Exception."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def processor_time_limit(seconds: float) -> Iterator[None]:
    """Raises `Interrupt` when the process has computed for so long, between two steps of Python.

    Args:
      seconds: of processor time, more than 0.

    Raises:
      ValueError: this is not the main thread, the only one that signals reach.
    """
    armed = True

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if armed:
            raise Interrupt(f"no result after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    # Once more each second, should the first one be lost in a finaliser.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        try:
            yield
        finally:
            armed = False
    finally:
        # A signal may strike between leaving the block and here; this part runs even then.
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
