"""A sequence of measurements within a time budget, saved after each one."""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks.tables import Column, summary


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A row of the report to be measured.

    Attributes:
      kind: the list of the report that it belongs to.
      name: what distinguishes it from the others of its kind.
      call: measures it.
      seconds: that it takes about, on any machine; only the ratios matter.
    """

    kind: str
    name: str
    call: Callable[[], dict[str, Any]]
    seconds: float = 10.0


class Session:
    """Measures until the time budget is used up, and saves the report after every measurement.

    Args:
      report: content of the report before the first measurement.
      budget: total time in seconds.
      columns: of each kind of measurement, for the lines of progress.
      write: saves the report.
    """

    def __init__(
        self,
        report: dict[str, Any],
        budget: float,
        columns: dict[str, Sequence[Column]],
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self.report = report | {"skipped": [], "failed": {}}
        self._budget, self._columns, self._write = budget, columns, write
        self._begin = time.monotonic()
        self._longest: dict[str, float] = {}

    def run(self, measurements: Sequence[Measurement]) -> None:
        """Adds a row to report[kind] for each of the measurements, or the reason why there is none.

        A measurement starts only if one as long as the longest of its kind would fit the budget.
        """
        ahead = sum(one.seconds for one in measurements)
        done = taken = 0.0
        for one in measurements:
            begin = time.monotonic()
            elapsed = begin - self._begin
            ahead -= one.seconds
            if elapsed + self._longest.get(one.kind, 0.0) > self._budget:
                self.report["skipped"].append(f"{one.kind}: {one.name}")
                continue
            print(f"{elapsed:6.0f} s  {one.kind}: {one.name}", flush=True)
            outcome = self._measure(one)
            seconds = time.monotonic() - begin
            self._longest[one.kind] = max(self._longest.get(one.kind, 0.0), seconds)
            done, taken = done + one.seconds, taken + seconds
            left = min(taken / done * ahead, max(0.0, self._budget - elapsed - seconds))
            print(f"          {outcome}; {left:.0f} s left", flush=True)
            self.report["seconds"] = round(time.monotonic() - self._begin, 1)
            self._write(self.report)

    def _measure(self, one: Measurement) -> str:
        try:
            row = {"name": one.name} | one.call() | peak_memory(jax.devices()[0])
        except Exception as error:
            # Out of memory, no connection, a program that fails: the others are still worth it.
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            self.report["failed"][f"{one.kind}: {one.name}"] = reason
            return f"failed: {reason}"
        self.report.setdefault(one.kind, []).append(row)
        return summary(self._columns[one.kind], row)


def peak_memory(device: jax.Device) -> dict[str, Any]:
    """Peak memory since the program started: of the device if known, else of the process."""
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return {"peak_memory_mb": statistics["peak_bytes_in_use"] // 2**20, "memory_of": "device"}
    return {"peak_memory_mb": process_memory_mb(), "memory_of": "process"}


def process_memory_mb() -> int:
    """Peak memory of this process."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
