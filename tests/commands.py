"""Commands run in this process, and the scores that they write."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crystal_diffusion_jax.cli import program


def exit_status(
    monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *flags: str
) -> int | str | None:
    """Runs a command with these flags; its exit status."""
    monkeypatch.setattr(sys, "argv", ["command", *flags])
    try:
        program.run(main)
    except SystemExit as stop:
        return stop.code
    return 0


def read_strictly(path: Path) -> dict[str, Any]:
    """The content of a JSON file, which must not hold the NaN and infinity of Python alone."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return content
