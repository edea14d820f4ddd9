"""Targets and elements as users write them."""

import contextlib
import math
import re
from collections.abc import Sequence

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.data.values import BOOLEANS
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.request import Target
from crystal_diffusion_jax.structures.compositions import SYMBOLS
from crystal_diffusion_jax.structures.limits import MAX_PROPERTY


def parse_target(text: str, statistics: DatasetStatistics) -> Target:
    """Reads "min", "max", "none", a number, a range or a class; NAME=... for several properties.

    Args:
      text: for example "min", "0.44", "-2.5:-2.0", "kind=metal" or "band_gap=1.5:2,density=max".
        Names of properties and classes may hold commas and equal signs.
      statistics: statistics of the training data, whose ends "min" and "max" are.

    Returns:
      Range of each requested property, in its own unit; the number of a class; empty for "none".

    Raises:
      UserError: a malformed target, or a property or class that the model does not know.
    """
    if text == "none":
        return {}
    target: Target = {}
    for name, value in _parts(text, statistics.property_names):
        if name in target:
            raise UserError(f"--target={text}: {name} is requested twice")
        target[name] = parse_value(value, name, statistics, f"--target={text}")
    return target


def parse_value(
    text: str, name: str, statistics: DatasetStatistics, where: str
) -> tuple[float, float]:
    """Reads what is requested of one property: "min", "max", a number, a range or a class.

    Args:
      text: for example "min", "0.44", "-2.5:-2.0" or "metal".
      name: of the property.
      statistics: statistics of the training data.
      where: flag or row, for messages.

    Returns:
      Lowest and highest value, in the property's own unit; twice the number of a class.

    Raises:
      UserError: it is none of these.
    """
    if name in statistics.class_names:
        number = _class(text, name, statistics.class_names[name], where)
        return number, number
    return _range(text, name, statistics, where)


def requested_classes(target: Target, statistics: DatasetStatistics) -> dict[str, str]:
    """The name of each class in a target."""
    return {
        name: classes[int(target[name][0])]
        for name, classes in statistics.class_names.items()
        if name in target
    }


def _parts(text: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Splits NAME=VALUE,NAME=VALUE at the known names; a single property needs no name."""
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    starts = list(re.finditer(f"(?:^|,) *({'|'.join(longest_first)})=", text)) if names else []
    if not starts and len(names) == 1 and "=" not in text:
        return [(names[0], text)]
    bounds = [start.start() for start in starts] + [len(text)]
    parts = [
        (start[1], text[start.end() : end]) for start, end in zip(starts, bounds[1:], strict=True)
    ]
    # What is no known name at the beginning, or begins like another part within a value.
    values = [text[: bounds[0]], *(value for _, value in parts)]
    known = ", ".join(names)
    for place, value in enumerate(values):
        unknown = value if place == 0 else value.partition(",")[2]
        name, equals, _ = unknown.partition("=")
        if equals:
            raise UserError(
                f"--target={text}: the model has no property {name.strip()!r}, only {known}"
                f"{did_you_mean(name.strip(), names)}"
            )
    if values[0]:
        raise UserError(
            f"--target={text}: this model knows the properties {known}; "
            "name one of them, as in --target=NAME=VALUE"
        )
    return parts


def _range(value: str, name: str, statistics: DatasetStatistics, where: str) -> tuple[float, float]:
    index = statistics.property_names.index(name)
    ends = {"min": statistics.property_min[index], "max": statistics.property_max[index]}
    low, colon, high = value.partition(":")
    numbers = [_number(end, ends, where) for end in ((low, high) if colon else (value, value))]
    if numbers[0] > numbers[1]:
        raise UserError(f"{where}: a range is LOWEST:HIGHEST, as in {high}:{low}")
    return numbers[0], numbers[1]


def _class(value: str, name: str, classes: tuple[str, ...], where: str) -> float:
    """The number of a class that is given by its name or number."""
    asked = value.strip()
    if asked in classes:
        return float(classes.index(asked))
    if classes == BOOLEANS and asked.title() in classes:
        return float(classes.index(asked.title()))
    with contextlib.suppress(ValueError):
        number = float(asked)
        if number in range(len(classes)):
            return number
    raise UserError(
        f"{where}: {name} is one of {', '.join(classes)}, not {asked!r}"
        f"{did_you_mean(asked, classes)}"
    )


def _number(value: str, ends: dict[str, float], where: str) -> float:
    try:
        number = ends[value] if value in ends else float(value)
    except ValueError:
        number = math.nan
    if not abs(number) <= MAX_PROPERTY:
        raise UserError(f'{where}: {value!r} is not a number in range, "min", "max" or "none"')
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
