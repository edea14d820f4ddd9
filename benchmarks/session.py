"""A sequence of measurements within a time budget, saved after each one."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax


class Session:
    """Measures until the time budget is used up, and saves the report after every measurement.

    Args:
      report: content of the report before the first measurement.
      budget: total time in seconds.
      write: saves the report.
    """

    def __init__(
        self, report: dict[str, Any], budget: float, write: Callable[[dict[str, Any]], None]
    ) -> None:
        self.report = report | {"skipped": [], "failed": {}}
        self._budget, self._write = budget, write
        self._begin = time.monotonic()
        self._longest: dict[str, float] = {}

    def measure(self, kind: str, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """Adds the row that `call` returns to report[kind], or the reason why there is none.

        A measurement starts only if one as long as the longest of its kind would fit the budget.
        """
        begin = time.monotonic()
        if begin - self._begin + self._longest.get(kind, 0.0) > self._budget:
            self.report["skipped"].append(f"{kind}: {name}")
            return
        print(f"{begin - self._begin:6.0f} s  {kind}: {name}", flush=True)
        rows = self.report.setdefault(kind, [])
        try:
            rows.append({"name": name} | call() | peak_memory(jax.devices()[0]))
        except (RuntimeError, ValueError) as error:
            # Out of memory, or a compilation error: continue with the other measurements.
            self.report["failed"][f"{kind}: {name}"] = " ".join(str(error).split())[:500]
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - begin)
        self.report["seconds"] = round(time.monotonic() - self._begin, 1)
        self._write(self.report)


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
