"""Ctrl-C and SIGTERM as requests to end a command in order."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def stopping_on_signals(at_once: bool = False) -> Iterator[list[int]]:
    """Lets SIGTERM and Ctrl-C end the command after the current batch; a second signal, at once.

    An exception raised by the signal handler itself could get lost in the hook that jax installs in
    the garbage collector, where much of the time is spent.

    Args:
      at_once: raise it nevertheless, for commands that may wait long; `end_if_any`, called now and
        then, ends the command if it got lost.

    Yields:
      The signals received so far.
    """
    received: list[int] = []

    def handle(signum: int, _frame: object) -> None:
        received.append(signum)
        if at_once or len(received) > 1:
            end_if_any(received)
        # Not print, which the signal may have interrupted.
        os.write(2, b"ending after this batch; a second signal ends at once\n")

    former = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def end_if_any(signals: Sequence[int]) -> None:
    """Ends the command if signals were received.

    Raises:
      SystemExit: on SIGTERM, with exit status 143.
      KeyboardInterrupt: on Ctrl-C.
    """
    if signal.SIGTERM in signals:
        sys.exit(128 + signal.SIGTERM)
    if signals:
        raise KeyboardInterrupt
