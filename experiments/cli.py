"""What every entry point does around its main function: plain messages, meaningful exit status."""

import sys
from collections.abc import Callable

from crystal_diffusion_jax.errors import UserError


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
