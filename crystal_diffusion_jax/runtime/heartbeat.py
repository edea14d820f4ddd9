"""No long silence: while a program is busy with one thing, a line says so from time to time."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

# Seconds without a line after which one is due.
SILENCE = 15.0


class Heartbeat:
    """Passes lines on, and adds one where too much time has passed since the last.

    A context manager: its thread looks every second, also while the main thread is in XLA's
    compiler. A line that is due says what `doing` has named, and for how long.

    Args:
      log: takes the lines, one at a time.
      clock: seconds that never go back.
    """

    def __init__(
        self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._clock = log, clock
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._activity, self._progress = "", ""
        self._begin = self._last = clock()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def log(self, line: str) -> None:
        """Prints a line at once."""
        with self._lock:
            self._last = self._clock()
            self._log(line)

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Names what the program is busy with; the lines between say for how long."""
        before = self._activity, self._progress, self._begin
        self._activity, self._progress, self._begin = activity, "", self._clock()
        try:
            yield
        finally:
            self._activity, self._progress, self._begin = before

    def reached(self, progress: str) -> None:
        """How far the activity has come, for the lines between."""
        self._progress = f", {progress}"

    def check(self) -> None:
        """Prints a line if one is due."""
        with self._lock:
            now = self._clock()
            if self._activity and now - self._last >= SILENCE:
                self._last = now
                self._log(f"still {self._activity}{self._progress}, for {now - self._begin:.0f} s")

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.check()
