"""Measurements one after another within a budget of time, and the report that grows with them."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax


class Session:
    """Measures one thing after another until the budget is used up, and keeps the report on disk.

    Args:
      report: what is known before the first measurement.
      budget: seconds in all.
      write: takes the report after every measurement.
    """

    def __init__(
        self, report: dict[str, Any], budget: float, write: Callable[[dict[str, Any]], None]
    ) -> None:
        self.report = report | {"skipped": [], "failed": {}}
        self._budget, self._write = budget, write
        self._begin = time.monotonic()
        self._longest: dict[str, float] = {}

    def measure(self, kind: str, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """Adds the row that `call` returns to report[kind], or says why there is none.

        A measurement is begun if one as long as the longest of its kind would fit.
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
            # What the device has no memory for, or cannot compile, must not cost the others.
            self.report["failed"][f"{kind}: {name}"] = " ".join(str(error).split())[:500]
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - begin)
        self.report["seconds"] = round(time.monotonic() - self._begin, 1)
        self._write(self.report)


def peak_memory(device: jax.Device) -> dict[str, Any]:
    """The most memory used since the program began: the device's, or the process's."""
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return {"peak_memory_mb": statistics["peak_bytes_in_use"] // 2**20, "memory_of": "device"}
    return {"peak_memory_mb": process_memory_mb(), "memory_of": "process"}


def process_memory_mb() -> int:
    """The most memory that this process has held."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
