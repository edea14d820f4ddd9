"""What every entry point does around its main function: plain messages, meaningful exit status."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from crystal_diffusion_jax import compilation, devices
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.files import replace_bytes, replace_text, temporary_path
from crystal_diffusion_jax.training.preemption import Preempted


class Parser(argparse.ArgumentParser):
    """Says a mistake in one sentence, as all other mistakes are said."""

    def error(self, message: str) -> NoReturn:
        """Raises the UserError that `run` prints."""
        raise UserError(f"{message} (see {self.prog} --help)")


def check_output(path: Path) -> None:
    """Makes the folders above the file of --out and tries them, before the minutes of work.

    Raises:
      UserError: such a file cannot be written.
    """
    try:
        if path.is_dir():
            raise UserError(f"--out={path} is a folder: give the name of a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        # `write_output` begins in the same way.
        temporary_path(path).touch()
        temporary_path(path).unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_output(path: Path, content: str | bytes) -> None:
    """Writes the file of --out, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    try:
        if isinstance(content, str):
            replace_text(path, content)
        else:
            replace_bytes(path, content)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"--out={path} cannot be written ({error.strerror}): choose another --out.")


def run(main: Callable[[], None]) -> None:
    """Runs a program; a user's mistake ends it with a sentence instead of a traceback.

    Exit status: 0 done, 2 a user's mistake, 130 interrupted with Ctrl-C (128 + SIGINT, as shells
    have it), 143 ended by SIGTERM after a checkpoint, 1 an error of the program, with its
    traceback.
    """
    devices.use_every_core()
    compilation.keep_compiled_programs()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Preempted as ended:
        print(ended)
        sys.exit(143)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
