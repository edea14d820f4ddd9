"""Commands that our programs print and write, so that a POSIX shell runs them as they stand."""

import shlex
import sys
from collections.abc import Iterable, Mapping

SCRIPT = "crystal-diffusion"
MODULE = "python -m experiments."


def command(name: str, arguments: Iterable[str]) -> str:
    """For a file, which is read anywhere: `crystal-diffusion NAME ARGUMENTS`, quoted."""
    return shlex.join([SCRIPT, name, *arguments])


def next_command(name: str, arguments: Iterable[str]) -> str:
    """For the terminal: spelled the way this program was called, as a module or a script."""
    program = f"{SCRIPT} {name}" if _is_script() else f"{MODULE}{name}"
    return f"{program} {shlex.join(arguments)}"


def flags(values: Mapping[str, object]) -> list[str]:
    """Arguments from flags and their values: True is a bare flag, None and False are none."""
    given = {
        name: value for name, value in values.items() if value is not None and value is not False
    }
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def as_called(text: str) -> str:
    """Spells the programs in a text of ours the way that this one was called."""
    return text.replace(MODULE, f"{SCRIPT} ") if _is_script() else text


def _is_script() -> bool:
    return sys.argv[0].startswith(f"{SCRIPT} ")
