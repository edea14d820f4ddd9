"""Which crystals are the same: pymatgen's StructureMatcher, prescreened, bounded, on all cores.

Two crystals can match only if their reduced compositions and the numbers of sites of their reduced
cells agree; the matcher itself says no to every other pair. So only such pairs are compared, and
each crystal is brought to its primitive Niggli cell once instead of once a pair. No crystal holds
up the others: what takes too long, or ends its process, is the failure of that crystal alone.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from crystal_diffusion_jax.runtime.time_limit import Interrupt, processor_time_limit
from crystal_diffusion_jax.runtime.workers import in_processes
from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition

# The tolerances with which CDVAE judges its reconstructions (arXiv:2110.06197): lengths relative,
# sites in units of the cube root of the volume per atom, angles in degrees. They are wider than
# pymatgen's own (0.2, 0.3, 5), so that fewer crystals count as unique or new.
LTOL, STOL, ANGLE_TOL = 0.3, 0.5, 10.0
_MATCHER = StructureMatcher(LTOL, STOL, ANGLE_TOL)
# Crystals handed to a process at a time: to be reduced; to be compared with known ones, few, so
# that a set of a single composition spreads over all cores too.
_REDUCED_AT_ONCE = 20
_COMPARED_AT_ONCE = 4

# Seconds of processor time for the reduction of a crystal, for its comparison with the rest of the
# set, and for that with known crystals. Measured: up to 0.1 s to reduce a crystal of Carbon-24 and
# 8 s for 432 distorted atoms; 0.002 s to compare two of Carbon-24, so 2 s with a thousand.
TIME_LIMIT = 20.0

# Place of the same crystal among others, -1 without one, or the reason why that is not known.
_Place = int | str


class Matches(NamedTuple):
    """Outcome of the comparison of S crystals with each other and with known ones.

    Attributes:
      group: S indices: that of the first crystal which is the same, or else the crystal's own; -1
        where the comparison failed.
      known: S bool, whether a known crystal is the same; meaningless where the comparison failed.
      failures: index -> why the comparison failed.
    """

    group: list[int]
    known: list[bool]
    failures: dict[int, str]


def match(
    structures: Sequence[Structure],
    known: Sequence[Structure],
    progress: bool = True,
    time_limit: float = TIME_LIMIT,
) -> Matches:
    """Compares crystals with each other and with known crystals.

    Matching is not transitive, so groups are made as pymatgen's `group_structures` makes them:
    each crystal joins the first group whose first member it matches, or else begins one.

    Args:
      structures: S crystals.
      known: any number of crystals.
      progress: show progress bars on stderr.
      time_limit: a crystal that takes longer to reduce, or to compare, is a failure.
    """
    keys = [reduced_composition(s.atomic_numbers) for s in structures]
    known_by_key = _by_key(known, [reduced_composition(s.atomic_numbers) for s in known])
    candidates = [s for key in set(keys) for s in known_by_key.get(key, [])]
    both = [*structures, *candidates]
    tasks: list[Any] = [(structure, time_limit) for structure in both]
    reduced = list(in_processes(_reduce, tasks, "reduction", _REDUCED_AT_ONCE, progress))
    cells: dict[int, Structure] = {}
    failures: dict[int, str] = {}
    for index, outcome in enumerate(reduced[: len(structures)]):
        if isinstance(outcome, str):
            failures[index] = outcome
        else:
            cells[index] = outcome
    # A training crystal that resists comes in its Niggli cell, which most often is primitive.
    known_cells = [
        original if isinstance(outcome, str) else outcome
        for original, outcome in zip(candidates, reduced[len(structures) :], strict=True)
    ]
    known_buckets = _by_key(known_cells, map(_bucket, known_cells))
    buckets = _by_key(cells, map(_bucket, cells.values()))

    group = [-1] * len(structures)
    tasks = [([cells[i] for i in members], time_limit) for members in buckets.values()]
    groups = in_processes(_group, tasks, "comparison with each other", progress=progress)
    for members, task, found in zip(buckets.values(), tasks, groups, strict=True):
        if isinstance(found, str):  # one of them ended the process
            cells_of_group, _ = task
            found = _group(cells_of_group, time_limit, _first_same_elsewhere)
        for index, place in zip(members, found, strict=True):
            if isinstance(place, str):
                failures[index] = place
            else:
                group[index] = members[place]

    is_known = [False] * len(structures)
    compared = [i for key, members in buckets.items() if key in known_buckets for i in members]
    tasks = [(cells[i], known_buckets[_bucket(cells[i])], time_limit) for i in compared]
    title = "comparison with the training set"
    places = in_processes(_first_same, tasks, title, _COMPARED_AT_ONCE, progress)
    for index, place in zip(compared, places, strict=True):
        if isinstance(place, str):
            failures.setdefault(index, place)
        else:
            is_known[index] = place >= 0
    for index in failures:
        group[index] = -1
    return Matches(group, is_known, failures)


def _by_key(items: Iterable[Any], keys: Iterable[Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return dict(groups)


def _bucket(reduced: Structure) -> tuple[ReducedComposition, int]:
    """What two crystals must have in common to be compared."""
    return reduced_composition(reduced.atomic_numbers), len(reduced)


def _reduce(structure: Structure, time_limit: float) -> Structure | str:
    """The cell that StructureMatcher would make of it, or the reason why there is none."""
    try:
        with warnings.catch_warnings(), processor_time_limit(time_limit):
            warnings.simplefilter("ignore")
            # Wrapped, as far-away coordinates cost time without end in places no signal reaches.
            inside = Structure.from_sites(structure, to_unit_cell=True)
            return inside.get_reduced_structure("niggli").get_primitive_structure()
    except Interrupt as interrupt:
        return f"reduction takes too long: {interrupt.reason}"
    except Exception as error:  # of a hostile cell nearly anything may be raised
        return f"no primitive cell found: {type(error).__name__}"


def _first_same(structure: Structure, others: Sequence[Structure], time_limit: float) -> _Place:
    """The first of the others that matches."""
    try:
        with warnings.catch_warnings(), processor_time_limit(time_limit):
            warnings.simplefilter("ignore")
            fits = (place for place, other in enumerate(others) if _fit(other, structure))
            return next(fits, -1)
    except Interrupt as interrupt:
        return f"comparison takes too long: {interrupt.reason}"
    except Exception as error:
        return f"comparison failed: {type(error).__name__}"


def _first_same_elsewhere(
    structure: Structure, others: Sequence[Structure], time_limit: float
) -> _Place:
    """`_first_same` in a process of its own, which it may end."""
    task = (structure, others, time_limit)
    (place,) = in_processes(_first_same, [task], "comparison with each other", progress=False)
    return place


def _fit(reference: Structure, structure: Structure) -> bool:
    return bool(_MATCHER.fit(reference, structure, skip_structure_reduction=True))


def _group(
    cells: Sequence[Structure],
    time_limit: float,
    find: Callable[[Structure, Sequence[Structure], float], _Place] = _first_same,
) -> list[_Place]:
    """For each cell the place of the first of its group, or why the comparison failed."""
    firsts: list[int] = []
    found: list[_Place] = []
    for place, cell in enumerate(cells):
        same = find(cell, [cells[first] for first in firsts], time_limit)
        if isinstance(same, str):
            found.append(same)
            continue
        if same < 0:
            firsts.append(place)
        found.append(place if same < 0 else firsts[same])
    return found
