"""What the server process of `workers` imports before it forks them.

A pool that is stopped removes its semaphores before it ends its processes, so that one that is just
starting, because others have done all the work, would print a traceback that it misses them.
"""

import sys
from types import TracebackType


def _print_unless_stopped(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Hook for exceptions outside of the function of a worker: those of its start."""
    if not isinstance(error, FileNotFoundError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _print_unless_stopped
