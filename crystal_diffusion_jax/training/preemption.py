"""Preemption: on a cluster's SIGTERM the run writes a checkpoint before it ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from crystal_diffusion_jax.runtime import processes


class Preempted(Exception):
    """Training ended early on SIGTERM, after its checkpoint; the message says at which step.

    Command-line programs exit with status 143 (128 + SIGTERM, the shells' convention), and the
    first process prints the message.
    """

    @classmethod
    def at(cls, step: int, workdir: Path) -> Self:
        """The exception for a run that has just written its checkpoint."""
        return cls(
            f"preempted: {workdir} has a checkpoint of step {step}; the same command resumes from "
            "there"
        )


@contextlib.contextmanager
def watch() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM has arrived in any of the processes.

    A process cannot stop without the others, which may not have received the signal: all of them
    must call the function, and all get the same answer. Signals are handled in the main thread
    only; elsewhere this process never reports one.
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
