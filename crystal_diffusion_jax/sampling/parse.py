"""Targets and elements as users write them."""

import math
import re
from collections.abc import Sequence

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.request import Target
from crystal_diffusion_jax.structures.compositions import SYMBOLS
from crystal_diffusion_jax.structures.limits import MAX_PROPERTY


def parse_target(text: str, statistics: DatasetStatistics) -> Target:
    """Reads "min", "max", "none", a number or a range, or NAME=... for some of several properties.

    Args:
      text: for example "min", "0.44", "-2.5:-2.0" or "band_gap=1.5:2,density=max".
      statistics: statistics of the training data, whose ends "min" and "max" are.

    Returns:
      Range of each requested property, in its own unit; empty for "none".

    Raises:
      UserError: a malformed target, or a property that the model does not know.
    """
    if text == "none":
        return {}
    names = statistics.property_names
    known = ", ".join(names)
    target: Target = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals:
            if len(names) != 1:
                raise UserError(
                    f"--target={text}: this model knows the properties {known}; "
                    "name one of them, as in --target=NAME=VALUE"
                )
            name = names[0]
        if name in target:
            raise UserError(f"--target={text}: {name} is requested twice")
        if name not in names:
            raise UserError(
                f"--target={text}: the model has no property {name!r}, only {known}"
                f"{did_you_mean(name, names)}"
            )
        index = names.index(name)
        ends = {"min": statistics.property_min[index], "max": statistics.property_max[index]}
        low, colon, high = value.partition(":")
        numbers = [_number(end, ends, text) for end in ((low, high) if colon else (value, value))]
        if numbers[0] > numbers[1]:
            raise UserError(f"--target={text}: a range is LOWEST:HIGHEST, as in {high}:{low}")
        target[name] = (numbers[0], numbers[1])
    return target


def _number(value: str, ends: dict[str, float], text: str) -> float:
    try:
        number = ends[value] if value in ends else float(value)
    except ValueError:
        number = math.nan
    if not abs(number) <= MAX_PROPERTY:
        raise UserError(
            f'--target={text}: {value!r} is not a number in range, "min", "max" or "none"'
        )
    return number


def parse_elements(
    text: str | None, vocabulary: Sequence[int], flag: str
) -> tuple[str, ...] | None:
    """Reads a list of elements, "Ba,Ti,O" or "Ba-Ti-O", into sorted symbols; None stays None.

    Args:
      text: symbols separated by commas, for "chemical_system" also by dashes.
      vocabulary: atomic numbers that the model knows.
      flag: "elements" or "chemical_system".

    Raises:
      UserError: not an element, or one that the model never saw.
    """
    if text is None:
        return None
    known = [SYMBOLS[z] for z in vocabulary]
    separators = "[,-]" if flag == "chemical_system" else ","
    symbols = {part.strip() for part in re.split(separators, text)}
    for symbol in sorted(symbols):
        if symbol not in SYMBOLS[1:]:
            raise UserError(
                f"--{flag}={text}: {symbol!r} is not an element symbol; they are written as in "
                "--elements=Ba,Ti,O or --chemical_system=Ba-Ti-O"
            )
        if symbol not in known:
            raise UserError(
                f"--{flag}={text}: the model never saw {symbol}, only {','.join(known)}"
            )
    return tuple(sorted(symbols))
