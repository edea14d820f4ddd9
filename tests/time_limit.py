"""A limit on the processor time of a test that could hang."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTime(BaseException):
    """Not an Exception, as some libraries catch every one of those."""


@contextmanager
def processor_time_limit(seconds: float) -> Iterator[None]:
    """Raises `OutOfTime` once the process has computed for so long; for the main thread only."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"no result after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
