"""Preemption: a cluster's SIGTERM lets the run write a checkpoint before it ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from crystal_diffusion_jax.runtime import processes


class Preempted(Exception):
    """Training ended early by SIGTERM, after its checkpoint; the message says where it stands.

    Command-line programs exit with status 143 (128 + SIGTERM, as shells have it), and the first
    process prints it.
    """


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM has arrived since, at any of the processes.

    Of several processes one can't stop without the others, which may not have been sent the
    signal: all of them must call the function, and then hear the same. Only the main thread of a
    process takes notice.
    """
    notice = threading.Event()

    def anywhere() -> bool:
        return processes.anywhere(notice.is_set())

    if threading.current_thread() is not threading.main_thread():
        yield anywhere
        return

    def take_notice(number: int, frame: FrameType | None) -> None:
        del number, frame
        notice.set()

    before = signal.signal(signal.SIGTERM, take_notice)
    try:
        yield anywhere
    finally:
        signal.signal(signal.SIGTERM, before)
