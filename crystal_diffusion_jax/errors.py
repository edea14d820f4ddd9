"""User-facing errors, and the nearest match that a message may suggest."""

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can fix: a bad file, row, flag or target.

    The message is one or a few plain sentences that name the file, row or flag and the way out.
    Command-line programs print it without a traceback and exit with status 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean perov5?" to end a sentence with; empty if no known word is similar."""
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[near[0]]}?" if near else ""


def printable(text: str, max_characters: int = 60) -> str:
    """The text on one line, with special characters escaped and its middle cut if long."""
    if len(text) > max_characters:
        half = max_characters // 2
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def require_between(flag: str, value: float, low: float, high: float) -> None:
    """Checks the number given for one flag.

    Raises:
      UserError: it is not finite, or outside `low` to `high`.
    """
    if not (math.isfinite(value) and low <= value <= high):
        limits = f"at least {low}" if high == math.inf else f"within {low} .. {high}"
        raise UserError(f"--{flag}={value} must be {'finite' if low == -high else limits}")
