"""Which reduced cells are the same to pymatgen's StructureMatcher, and which is displaced least."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.structures.comparing import CELL_MATCHER, MATCHER, fit, or_error

# Displacements in the matcher's unit, which is about 2 A. The tolerances above let many different
# structures of carbon match, displaced by 0.1 and more; the same one is displaced by less than
# 0.01. Nothing nearer than that need be found, which takes long where there are hundreds.
_MAX_DISPLACEMENT = 0.1
_SAME_DISPLACEMENT = 0.01

Key = TypeVar("Key", bound=Hashable)


@or_error
def is_same(cells: Mapping[int, Structure], pair: tuple[int, int]) -> bool:
    """Whether two cells match in either direction, or why that is unknown."""
    one, other = (cells[index] for index in pair)
    return fit(MATCHER, one, other) or fit(MATCHER, other, one)


@or_error
def is_same_as_any(
    cells: Mapping[int, Structure], others: Mapping[Key, Sequence[Structure]], pair: tuple[int, Key]
) -> bool:
    """Whether cell `pair[0]` matches any of the others at `pair[1]`, or why that is unknown."""
    index, key = pair
    return any(fit(MATCHER, other, cells[index]) for other in others[key])


@or_error
def nearest_place(
    cells: Mapping[int, Structure], others: Mapping[Key, Sequence[Structure]], pair: tuple[int, Key]
) -> int | None:
    """Place, among others at `pair[1]`, of the one from which cell `pair[0]` is displaced least.

    None where that is far, and the name of an error where it is unknown.
    """
    index, key = pair
    volumes = [other.volume for other in others[key]]
    # First where it most likely is.
    order = np.argsort(np.abs(np.log(volumes) - np.log(cells[index].volume)), kind="stable")
    least, nearest = _MAX_DISPLACEMENT, None
    for place in order.tolist():
        other = others[key][place]
        if fit(MATCHER, other, cells[index]) and (
            found := CELL_MATCHER.get_rms_dist(other, cells[index])
        ):
            if found[0] < least:
                least, nearest = found[0], place
            if least < _SAME_DISPLACEMENT:
                break
    return nearest
