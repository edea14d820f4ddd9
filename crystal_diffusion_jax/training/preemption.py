"""Preemption: on a cluster's SIGTERM the run writes a checkpoint before it ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from crystal_diffusion_jax.runtime import processes


class Preempted(Exception):
    """Training ended early on SIGTERM, after writing a checkpoint.

    Programs print the message in the first process and exit with status 143 (128 + SIGTERM).
    """

    def __init__(self, step: int, workdir: Path) -> None:
        super().__init__(
            f"preempted: {workdir} has a checkpoint of step {step}; the same command resumes from "
            "there"
        )


@contextlib.contextmanager
def watch() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether any process has received SIGTERM.

    A process cannot stop without the others: all must call the function, and all get the same
    answer. Python handles signals in the main thread; in other threads this does not see them.
    """
    received = threading.Event()

    def anywhere() -> bool:
        return processes.anywhere(received.is_set())

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        received.set()

    if threading.current_thread() is not threading.main_thread():
        yield anywhere
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield anywhere
    finally:
        signal.signal(signal.SIGTERM, before)
