"""Copies: crystals that are the same to pymatgen's StructureMatcher, directly or through others.

The matcher's tolerances are pymatgen's defaults (lengths 0.2, sites 0.3, angles 5 degrees, cells
scaled to one volume per atom), so another cell, orientation, origin or size is a copy. Matching is
not transitive; a group of copies is a connected component, so that a split between groups parts no
two crystals that match.
"""

import contextlib
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers
from crystal_diffusion_jax.structures.comparing import fit, or_error, reduce
from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition
from crystal_diffusion_jax.structures.conversion import restore_structure

_MATCHER = StructureMatcher()
# Below it the comparisons take less time than the start of worker processes.
_MIN_CRYSTALS_FOR_WORKERS = 300
_TIME_LIMIT = 60.0  # seconds; a pair takes about a millisecond
_CHUNK = 20

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Map = Callable[[Iterable[_Item]], Iterable[_Result | TaskFailure]]
# One crystal's lattice, fractional coordinates and atomic numbers.
_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def find_copies(
    datasets: Sequence[CrystalDataset], progress: bool = True, unknown_is_copy: bool = True
) -> np.ndarray:
    """[M] for each of the M crystals of all data sets the first one of its group.

    Crystals whose reduced compositions or numbers of atoms in the reduced cell differ never match,
    so only those that agree in both are compared.

    Args:
      datasets: whose crystals are compared, with those of the others, too.
      progress: show progress bars on stderr.
      unknown_is_copy: what a pair counts as that cannot be compared, or not in time.
    """
    crystals = [arrays for dataset in datasets for arrays in crystal_arrays(dataset)]
    by_composition: dict[ReducedComposition, list[int]] = defaultdict(list)
    for row, (_, _, numbers) in enumerate(crystals):
        by_composition[reduced_composition(numbers)].append(row)
    alike = {key: rows for key, rows in by_composition.items() if len(rows) > 1}
    rows = [row for members in alike.values() for row in members]
    with contextlib.ExitStack() as stack:

        def mapped(function: Callable[[_Item], _Result]) -> _Map[_Item, _Result]:
            if len(rows) < _MIN_CRYSTALS_FOR_WORKERS:
                return functools.partial(map, function)
            return stack.enter_context(Workers(function, _TIME_LIMIT, _CHUNK)).map

        show = functools.partial(tqdm, total=len(rows), disable=not (progress and rows))
        found = show(mapped(_reduced)(crystals[row] for row in rows), desc="reduced cells")
        cells: dict[int, Structure] = {}
        for row, cell in zip(rows, found, strict=True):
            # A crystal that cannot be reduced is compared as it is.
            cells[row] = cell if isinstance(cell, Structure) else restore_structure(*crystals[row])
        buckets: dict[tuple[ReducedComposition, int], list[int]] = defaultdict(list)
        for key, members in alike.items():
            for row in members:
                buckets[key, len(cells[row])].append(row)
        compare = mapped(functools.partial(_is_same, cells))

        def same(pairs: Sequence[tuple[int, int]]) -> list[bool]:
            return [
                found if isinstance(found, bool) else unknown_is_copy for found in compare(pairs)
            ]

        with show(desc="copies") as bar:
            return _components(len(crystals), list(buckets.values()), same, bar.update)


def crystal_arrays(dataset: CrystalDataset) -> Iterator[_Arrays]:
    """Lattice, fractional coordinates and atomic numbers of each crystal."""
    for m, (start, end) in enumerate(itertools.pairwise(dataset.offsets.tolist())):
        atoms = slice(start, end)
        yield dataset.lattice[m], dataset.frac_coords[atoms], dataset.atomic_numbers[atoms]


def _components(
    num_crystals: int,
    buckets: Sequence[Sequence[int]],
    same: Callable[[Sequence[tuple[int, int]]], list[bool]],
    advance: Callable[[int], object],
) -> np.ndarray:
    """[num_crystals] the first member of each one's connected component.

    In each round one crystal of each bucket is compared with all of the bucket that have no group
    yet; those that match join its group and are compared with the rest in later rounds.
    """
    group = np.arange(num_crystals)
    waiting = [list(bucket) for bucket in buckets]  # without a group
    joined: list[list[int]] = [[] for _ in buckets]  # in a group, to be compared with the waiting
    while any(waiting):
        current = []
        for rest, new in zip(waiting, joined, strict=True):
            if rest and not new:
                new.append(rest.pop(0))
                advance(1)
            current.append(new.pop() if rest else -1)
        pairs = [(one, other) for one, rest in zip(current, waiting, strict=True) for other in rest]
        matched = dict(zip(pairs, same(pairs), strict=True))
        for one, rest, new in zip(current, waiting, joined, strict=True):
            for other in [other for other in rest if matched[one, other]]:
                group[other] = group[one]
                new.append(other)
                rest.remove(other)
                advance(1)
    return group


def _reduced(crystal: _Arrays) -> Structure | str:
    return reduce(restore_structure(*crystal))


@or_error
def _is_same(cells: Mapping[int, Structure], pair: tuple[int, int]) -> bool:
    one, other = pair
    return fit(_MATCHER, cells[one], cells[other])
