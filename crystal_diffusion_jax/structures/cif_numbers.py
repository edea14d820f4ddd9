"""Numbers of a CIF, with the precision of their digits."""

import functools
import re
from typing import NamedTuple

_DECIMAL = re.compile(r"([+-]?(?:\d+\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d+))?)(?:\(\d*\))?")
_FRACTION = re.compile(r"([+-]?\d{1,4})/([1-9]\d{0,3})")


class Number(NamedTuple):
    """A number and one unit of its last digit; 0 for a fraction such as 1/3."""

    value: float
    unit: float


@functools.lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """The number that a text is, such as `0.333`, `-1.2e-3`, `4.05(2)` or `1/3`; None if none.

    An uncertainty in brackets is left out.
    """
    if match := _DECIMAL.fullmatch(text):
        digits = len(match[2] or match[3] or "") - int(match[4] or 0)
        return Number(float(match[1]), 10.0 ** -min(max(digits, -300), 300))
    if match := _FRACTION.fullmatch(text):
        return Number(int(match[1]) / int(match[2]), 0.0)
    return None
