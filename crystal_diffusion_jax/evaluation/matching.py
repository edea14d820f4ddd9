"""Which crystals are the same: pymatgen's StructureMatcher, prescreened, on all cores.

Two crystals can match only if their reduced compositions and the numbers of sites of their reduced
cells agree; the matcher rejects every other pair. So only such pairs are compared. A crystal that
takes too long or crashes its process fails alone.
"""

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from pymatgen.core import Structure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from crystal_diffusion_jax.evaluation.comparing import is_same, is_same_as_any, nearest_place
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers, map_in_processes
from crystal_diffusion_jax.structures.comparing import reduce
from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition

# Seconds for the reduction of a crystal, for its comparison with one other, and for that with the
# training set. Measured: up to 0.1 s to reduce a crystal of Carbon-24 and 8 s for 432 distorted
# atoms; 0.002 s to compare two of Carbon-24, so 2 s with a thousand.
TIME_LIMIT = 60.0

Key = TypeVar("Key", bound=Hashable)
_Item = TypeVar("_Item")


class Matches(NamedTuple):
    """Outcome of the comparison of S crystals with each other and with known ones.

    Attributes:
      group: S indices: that of the first crystal in the crystal's group; -1 where the comparison
        failed.
      known: S bool, whether a known crystal is the same; meaningless where the comparison failed.
      nearest: S indices of known crystals: of those that are the same the one with the smallest
        displacement of the atoms, or one that is hardly displaced (0.02 A); -1 without one within
        about 0.2 A.
      failures: index -> why the comparison failed.
    """

    group: list[int]
    known: list[bool]
    nearest: list[int]
    failures: dict[int, str]


def match(
    structures: Sequence[Structure],
    known: Sequence[Structure],
    progress: bool = True,
    time_limit: float = TIME_LIMIT,
) -> Matches:
    """Compares crystals with each other and with known crystals.

    Matching is neither transitive nor quite symmetric. Groups are the connected components of the
    graph in which two crystals are joined that match in either direction, so they do not depend on
    the order of the crystals (those of pymatgen's `group_structures` do): two members of a group
    may not match, but a chain of matches leads from one to the other.

    Args:
      structures: S crystals.
      known: any number of crystals.
      progress: show progress bars on stderr.
      time_limit: seconds; a crystal that takes longer to reduce or to compare is a failure.
    """
    keys = [reduced_composition(s.atomic_numbers) for s in structures]
    rows_by_key = by_key(range(len(known)), [reduced_composition(s.atomic_numbers) for s in known])
    candidate_rows = [row for key in set(keys) for row in rows_by_key.get(key, [])]
    candidates = [known[row] for row in candidate_rows]
    cells, known_cells, failures = reduce_all(
        dict(enumerate(structures)), candidates, progress, time_limit
    )
    buckets = by_key(cells, map(bucket, cells.values()))
    groups, lost = _group(cells, list(buckets.values()), progress, time_limit)

    known_buckets = by_key(known_cells, map(bucket, known_cells))
    pairs = [(i, key) for key in buckets if key in known_buckets for i in buckets[key]]
    is_in_training = functools.partial(is_same_as_any, cells, known_buckets)
    title = "comparison with the training set"
    is_known = [False] * len(structures)
    outcomes = map_in_processes(is_in_training, pairs, title, time_limit, progress=progress)
    for (index, _), same in zip(pairs, outcomes, strict=True):
        if isinstance(same, bool):
            is_known[index] = same
        else:
            lost[index] = same

    nearest = [-1] * len(structures)
    rows_by_bucket = by_key(candidate_rows, map(bucket, known_cells))
    twins = [(index, key) for index, key in pairs if is_known[index]]
    displacement = functools.partial(nearest_place, cells, known_buckets)
    title = "displacement from the training set"
    places = map_in_processes(displacement, twins, title, time_limit, progress=progress)
    for (index, key), place in zip(twins, places, strict=True):
        if isinstance(place, int):
            nearest[index] = rows_by_bucket[key][place]

    group = [-1] * len(structures)
    firsts: dict[int, int] = {}
    for index, first in sorted(groups.items()):
        # The comparison with the training set comes later, and may fail too, that of the first of
        # a group as well.
        if index not in lost:
            group[index] = firsts.setdefault(first, index)
    failures |= {i: f"comparison failed: {reason(failure)}" for i, failure in lost.items()}
    return Matches(group, is_known, nearest, failures)


def _group(
    cells: Mapping[int, Structure],
    buckets: Sequence[Sequence[int]],
    progress: bool,
    time_limit: float,
) -> tuple[dict[int, int], dict[int, str | TaskFailure]]:
    """For each crystal the first of its group, and why the comparison of others failed.

    In round r each crystal is compared with the r-th after it in its bucket, unless a chain of
    matches connects them already. Where a comparison fails, it is not known which of both is to
    blame: a crystal is after its second failure, and both are if it remains the only one.
    """
    places = {index: place for place, index in enumerate(cells)}
    matches: list[tuple[int, int]] = []
    failed: list[tuple[int, int, str | TaskFailure]] = []
    lost: dict[int, str | TaskFailure] = {}
    title = "comparison with each other"
    most = sum(len(members) * (len(members) - 1) // 2 for members in buckets)
    with (
        Workers(functools.partial(is_same, cells), time_limit) as workers,
        tqdm(total=most, desc=title, disable=not (progress and most)) as bar,
    ):
        distance = 0
        while True:
            distance += 1
            part = _components(places, matches)
            buckets = [
                members
                for members in buckets
                if len(members) > distance and len({part[places[i]] for i in members}) > 1
            ]
            if not buckets:
                break
            near = [
                p for members in buckets for p in zip(members, members[distance:], strict=False)
            ]
            pairs = [
                (i, j)
                for i, j in near
                if part[places[i]] != part[places[j]] and i not in lost and j not in lost
            ]
            for (i, j), same in zip(pairs, workers.map(pairs), strict=True):
                if same is True:
                    matches.append((i, j))
                elif same is not False:
                    failed.append((i, j, same))
            times = Counter(index for i, j, _ in failed for index in (i, j))
            for i, j, reason in failed:
                lost |= {index: reason for index in (i, j) if times[index] > 1}
            bar.update(len(near))
        bar.update(most - bar.n)
    for i, j, reason in failed:
        if i not in lost and j not in lost and part[places[i]] != part[places[j]]:
            lost |= {i: reason, j: reason}
    found: dict[int, int] = {}
    firsts: dict[int, int] = {}
    for index in cells:
        if index not in lost:
            found[index] = firsts.setdefault(int(part[places[index]]), index)
    return found, lost


def _components(places: Mapping[int, int], matches: Sequence[tuple[int, int]]) -> np.ndarray:
    """[len(places)] number of the connected component at each place."""
    rows, columns = np.array([[places[i], places[j]] for i, j in matches], int).reshape(-1, 2).T
    shape = (len(places), len(places))
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=shape)
    part: np.ndarray = connected_components(graph, directed=False, return_labels=True)[1]
    return part


def reduce_all(
    structures: Mapping[int, Structure],
    known: Sequence[Structure],
    progress: bool,
    time_limit: float,
) -> tuple[dict[int, Structure], list[Structure], dict[int, str]]:
    """Reduces crystals and the known ones that they are compared with.

    Args:
      structures: crystals by index.
      known: any number of crystals.
      progress: show a progress bar on stderr.
      time_limit: seconds for a crystal.

    Returns:
      The reduced cells by index, those of the known crystals, and why others have none.
    """
    outcomes = map_in_processes(
        reduce, [*structures.values(), *known], "reduction", time_limit, progress=progress
    )
    cells: dict[int, Structure] = {}
    failures: dict[int, str] = {}
    for index, cell in zip(structures, itertools.islice(outcomes, len(structures)), strict=True):
        if isinstance(cell, Structure):
            cells[index] = cell
        else:
            failures[index] = f"no primitive cell found: {reason(cell)}"
    # A known crystal that cannot be reduced stays in its Niggli cell, usually a primitive one.
    known_cells = [
        cell if isinstance(cell, Structure) else original
        for cell, original in zip(outcomes, known, strict=True)
    ]
    return cells, known_cells, failures


def bucket(reduced: Structure) -> tuple[ReducedComposition, int]:
    """What two crystals must have in common to be compared."""
    return reduced_composition(reduced.atomic_numbers), len(reduced)


def by_key(items: Iterable[_Item], keys: Iterable[Key]) -> dict[Key, list[_Item]]:
    """The items of each key, in order."""
    groups: dict[Key, list[_Item]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return dict(groups)


def reason(failure: str | TaskFailure) -> str:
    """Why a crystal or a pair failed, in words."""
    return failure.reason if isinstance(failure, TaskFailure) else failure
