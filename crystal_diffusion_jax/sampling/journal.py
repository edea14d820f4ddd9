"""Append-only file of one request's crystals: what a batch costs does not grow with the request.

The first line holds the settings; then comes a line for each crystal, and after those of a batch a
line that completes it. Whatever follows the last complete batch was being written when the process
ended: it is passed over, and the next batch takes its place.
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import replace_text
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

FORMAT_VERSION = 1

# What reading a file of any content may raise.
DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)

# A crystal of the most atoms that a request may have takes some 0.3 MB.
_MAX_LINE = 2**21
_MAX_REASON = 300  # characters; of each there are few

# A crystal's line: {"structure": entry of samples.json, "frame": its extended XYZ text}, or
# {"rejected": entry of samples.json}.
Crystal = dict[str, Any]
# What stays of it in memory: its index, and why it was rejected, or None.
_Note = tuple[int, str | None]


def create(path: Path, settings: dict[str, Any]) -> None:
    """Writes a journal without crystals, in place of any other."""
    head = {"format_version": FORMAT_VERSION, "settings": settings}
    replace_text(path, json.dumps(head, allow_nan=False) + "\n")


class Journal:
    """The journal of one request; in memory are only the crystals' places in the file.

    Attributes:
      settings: the request that began it.
      reasons: how many crystals were rejected for which reason.
      written: how many crystals were not rejected.
      seconds: wall time of all batches.
      network_calls: calls of the denoiser, likewise.
    """

    def __init__(self, path: Path) -> None:
        """Opens an existing journal.

        Raises:
          UserError: it is damaged before its end, made to do harm, or was written by another
            version.
        """
        self._path = path
        self.reasons: Counter[str] = Counter()
        self.written = 0
        self.seconds = 0.0
        self.network_calls = 0
        self._end = 0
        try:
            self._restore()
        except DAMAGE as error:
            raise UserError(
                f"{path} is damaged or was written by another version: choose another --out, or "
                "remove the folder."
            ) from error

    @property
    def done(self) -> int:
        """How many crystals are written or rejected."""
        return self.written + self.reasons.total()

    def missing(self) -> list[int]:
        """Indices that are neither written nor rejected, ascending."""
        missing: list[int] = np.flatnonzero(self._place < 0).tolist()
        return missing

    def append(self, batch: Sequence[Crystal], seconds: float, network_calls: int) -> None:
        """Adds a batch as a whole and forces it to the disk.

        Args:
          batch: crystals of `missing()`.
          seconds: wall time that they took.
          network_calls: that they took.

        Raises:
          OSError: it cannot be written; the journal is as it was.
        """
        closing = {"batch": {"seconds": seconds, "network_calls": network_calls}}
        lines = [_line(crystal) for crystal in (*batch, closing)]
        with self._path.open("r+b", buffering=0) as file:
            try:
                file.truncate(self._end)
                file.seek(self._end)
                text = memoryview(b"".join(lines))
                while text:
                    text = text[file.write(text) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._end)
                raise
        place = self._end
        # First, so that a signal in between leaves no full count with a batch's cost missing.
        self._complete(closing, self._end + sum(map(len, lines)))
        for crystal, line in zip(batch, lines, strict=False):
            self._note(_note_of(crystal), place)
            place += len(line)

    def structures(self) -> Iterator[Crystal]:
        """The crystals that were written, by index."""
        return self._read(rejected=False)

    def rejected(self) -> Iterator[Crystal]:
        """The crystals that were rejected, by index."""
        return self._read(rejected=True)

    def _read(self, rejected: bool) -> Iterator[Crystal]:
        places = self._place[(self._place >= 0) & (self._is_rejected == rejected)]
        with self._path.open("rb") as file:
            for place in places.tolist():
                file.seek(place)
                yield json.loads(_line_of(file))

    def _restore(self) -> None:
        with self._path.open("rb") as file:
            head = json.loads(_line_of(file))
            if head["format_version"] != FORMAT_VERSION:
                raise ValueError("another version")
            self.settings: dict[str, Any] = head["settings"]
            num = self.settings["num"]
            if type(num) is not int or not 0 <= num <= MAX_CRYSTALS:
                raise ValueError(f"{num} crystals")
            self._place = np.full(num, -1, np.int64)
            self._is_rejected = np.zeros(num, bool)
            self._end = place = file.tell()
            batch: list[tuple[_Note, int]] = []
            while line := _line_of(file):
                if not line.endswith(b"\n"):
                    break
                content = json.loads(line)
                if "batch" in content:
                    for note, start in batch:
                        self._note(note, start)
                    batch = []
                    self._complete(content, place + len(line))
                else:
                    batch.append((_note_of(content), place))
                    if len(batch) > num:
                        raise ValueError("more crystals than were asked for")
                place += len(line)

    def _note(self, note: _Note, place: int) -> None:
        index, reason = note
        if index < 0 or self._place[index] >= 0:
            raise ValueError(f"crystal {index} comes twice")
        self._place[index] = place
        if reason is None:
            self.written += 1
        else:
            self._is_rejected[index] = True
            self.reasons[reason] += 1

    def _complete(self, closing: dict[str, Any], end: int) -> None:
        if not math.isfinite(closing["batch"]["seconds"]):
            raise ValueError("a batch without an end")
        self.seconds += closing["batch"]["seconds"]
        self.network_calls += closing["batch"]["network_calls"]
        self._end = end


def _line_of(file: IO[bytes]) -> bytes:
    """The next line, empty at the end."""
    line = file.readline(_MAX_LINE + 1)
    if len(line) > _MAX_LINE:
        raise ValueError("a line is too long")
    return line


def _note_of(crystal: Crystal) -> _Note:
    if "rejected" not in crystal:
        if type(crystal["frame"]) is not str:
            raise ValueError("a frame is no text")
        return crystal["structure"]["index"], None
    entry = crystal["rejected"]
    if type(entry["reason"]) is not str or len(entry["reason"]) > _MAX_REASON:
        raise ValueError("a reason is no sentence")
    return entry["index"], sys.intern(entry["reason"])


def _line(content: Crystal) -> bytes:
    return json.dumps(content, allow_nan=False).encode() + b"\n"
