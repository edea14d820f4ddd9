"""Preemption: a cluster's SIGTERM lets the run write a checkpoint before it ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax


class Preempted(Exception):
    """Training ended early by SIGTERM, after its checkpoint; the message says where it stands.

    Command-line programs print it and exit with status 143 (128 + SIGTERM, as shells have it).
    """


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM has arrived since.

    Only the main thread of a single process takes notice. Of several processes one can't stop
    without the others, which may not have been sent the signal: it ends them as it always does,
    and the last checkpoint counts.
    """
    notice = threading.Event()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield notice.is_set
        return

    def take_notice(number: int, frame: FrameType | None) -> None:
        del number, frame
        notice.set()

    before = signal.signal(signal.SIGTERM, take_notice)
    try:
        yield notice.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
