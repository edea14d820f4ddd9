"""What every entry point does around its main function: plain messages, meaningful exit status."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from crystal_diffusion_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says a mistake in one sentence, as all other mistakes are said."""

    def error(self, message: str) -> NoReturn:
        """Raises the UserError that `run` prints."""
        raise UserError(f"{message} (see {self.prog} --help)")


def run(main: Callable[[], None]) -> None:
    """Runs a program; a user's mistake ends it with a sentence instead of a traceback.

    Exit status: 0 done, 2 a user's mistake, 130 interrupted with Ctrl-C (128 + SIGINT, as shells
    have it), 1 an error of the program, with its traceback.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
