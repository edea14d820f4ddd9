"""Which crystals are the same: pymatgen's StructureMatcher, prescreened, on all cores.

Two crystals can match only if their reduced compositions and the numbers of sites of their reduced
cells agree; the matcher rejects every other pair. So only such pairs are compared, and each crystal
is reduced to its primitive Niggli cell once instead of once per pair. A crystal that takes too long
or crashes its process fails alone.
"""

import functools
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers, map_in_processes
from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition

# The tolerances of CDVAE's reconstruction task (arXiv:2110.06197): lengths relative, sites in units
# of the cube root of the volume per atom, angles in degrees. They are wider than pymatgen's default
# (0.2, 0.3, 5), so that fewer crystals count as unique or novel.
LTOL, STOL, ANGLE_TOL = 0.3, 0.5, 10.0
_MATCHER = StructureMatcher(LTOL, STOL, ANGLE_TOL)
# For the displacement of cells that are primitive already.
_DISPLACEMENT = StructureMatcher(LTOL, STOL, ANGLE_TOL, primitive_cell=False)
# Displacements in the matcher's unit, which is about 2 A. The tolerances above let many different
# structures of carbon match, displaced by 0.1 and more; the same one is displaced by less than
# 0.01. Nothing nearer than that need be found, which takes long where there are hundreds.
_MAX_DISPLACEMENT = 0.1
_SAME_DISPLACEMENT = 0.01

# Seconds for the reduction of a crystal, for its comparison with one other, and for that with the
# training set. Measured: up to 0.1 s to reduce a crystal of Carbon-24 and 8 s for 432 distorted
# atoms; 0.002 s to compare two of Carbon-24, so 2 s with a thousand.
TIME_LIMIT = 60.0

Key = TypeVar("Key", bound=Hashable)
_Item = TypeVar("_Item")


class Matches(NamedTuple):
    """Outcome of the comparison of S crystals with each other and with known ones.

    Attributes:
      group: S indices: that of the first crystal which is the same, or else the crystal's own; -1
        where the comparison failed.
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

    Matching is not transitive, so groups are those of pymatgen's `group_structures`: each crystal
    joins the first group whose first member it matches, or else starts one.

    Args:
      structures: S crystals.
      known: any number of crystals.
      progress: show progress bars on stderr.
      time_limit: seconds; a crystal that takes longer to reduce or to compare is a failure.
    """
    keys = [reduced_composition(s.atomic_numbers) for s in structures]
    rows_by_key = _by_key(range(len(known)), [reduced_composition(s.atomic_numbers) for s in known])
    candidate_rows = [row for key in set(keys) for row in rows_by_key.get(key, [])]
    candidates = [known[row] for row in candidate_rows]
    reduced = list(
        map_in_processes(
            reduce, [*structures, *candidates], "reduction", time_limit, progress=progress
        )
    )
    cells: dict[int, Structure] = {}
    failures: dict[int, str] = {}
    for index, outcome in enumerate(reduced[: len(structures)]):
        if isinstance(outcome, Structure):
            cells[index] = outcome
        else:
            failures[index] = f"no primitive cell found: {_reason(outcome)}"
    # A known crystal that cannot be reduced stays in its Niggli cell, usually a primitive one.
    known_cells = [
        outcome if isinstance(outcome, Structure) else original
        for original, outcome in zip(candidates, reduced[len(structures) :], strict=True)
    ]
    buckets = _by_key(cells, map(_bucket, cells.values()))
    groups = _group(cells, list(buckets.values()), progress, time_limit)

    known_buckets = _by_key(known_cells, map(_bucket, known_cells))
    pairs = [(i, key) for key in buckets if key in known_buckets for i in buckets[key]]
    is_same = functools.partial(is_same_as_any, cells, known_buckets)
    title = "comparison with the training set"
    is_known = [False] * len(structures)
    outcomes = map_in_processes(is_same, pairs, title, time_limit, progress=progress)
    for (index, _), same in zip(pairs, outcomes, strict=True):
        if isinstance(same, bool):
            is_known[index] = same
        else:
            groups[index] = same

    nearest = [-1] * len(structures)
    rows_by_bucket = _by_key(candidate_rows, map(_bucket, known_cells))
    twins = [(index, key) for index, key in pairs if is_known[index]]
    displacement = functools.partial(nearest_place, cells, known_buckets)
    title = "displacement from the training set"
    places = map_in_processes(displacement, twins, title, time_limit, progress=progress)
    for (index, key), place in zip(twins, places, strict=True):
        if isinstance(place, int):
            nearest[index] = rows_by_bucket[key][place]

    group = [-1] * len(structures)
    for index, first in groups.items():
        if isinstance(first, int):
            group[index] = first
        else:
            failures[index] = f"comparison failed: {_reason(first)}"
    return Matches(group, is_known, nearest, failures)


def _group(
    cells: Mapping[int, Structure],
    buckets: Sequence[Sequence[int]],
    progress: bool,
    time_limit: float,
) -> dict[int, int | str | TaskFailure]:
    """For each crystal the first member of its group, or why that is unknown.

    In each round the first crystal of each bucket starts a group, and all others of the bucket are
    compared with it. Those that do not match wait for the next round.
    """
    found: dict[int, int | str | TaskFailure] = {}
    is_same = functools.partial(is_same_as_any, cells, {i: [cells[i]] for i in cells})
    title = "comparison with each other"
    with (
        Workers(is_same, time_limit) as workers,
        tqdm(total=len(cells), desc=title, disable=not (progress and cells)) as bar,
    ):
        while buckets:
            for first, *_ in buckets:
                found[first] = first
            pairs = [(other, first) for first, *others in buckets for other in others]
            for (other, first), same in zip(pairs, workers.map(pairs), strict=True):
                if same is True:
                    found[other] = first
                elif same is not False:
                    found[other] = same
            buckets = [[i for i in members if i not in found] for members in buckets]
            buckets = [members for members in buckets if members]
            bar.update(len(found) - bar.n)
    return found


def reduce(structure: Structure) -> Structure | str:
    """The cell that StructureMatcher would make of it, or why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Wrapped, because pymatgen takes very long with coordinates far outside the cell.
            inside = Structure.from_sites(structure, to_unit_cell=True)
            return inside.get_reduced_structure("niggli").get_primitive_structure()
    except Exception as error:  # an odd cell may raise nearly anything
        return type(error).__name__


def is_same_as_any(
    cells: Mapping[int, Structure], others: Mapping[Key, Sequence[Structure]], pair: tuple[int, Key]
) -> bool | str:
    """Whether cell `pair[0]` matches any of the others at `pair[1]`, or why that is unknown."""
    index, key = pair
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return any(_fit(other, cells[index]) for other in others[key])
    except Exception as error:
        return type(error).__name__


def nearest_place(
    cells: Mapping[int, Structure], others: Mapping[Key, Sequence[Structure]], pair: tuple[int, Key]
) -> int | None:
    """Place, among others at `pair[1]`, of the one from which cell `pair[0]` is displaced least.

    None where that is unknown, or far.
    """
    index, key = pair
    volumes = [other.volume for other in others[key]]
    # First where it most likely is.
    order = np.argsort(np.abs(np.log(volumes) - np.log(cells[index].volume)), kind="stable")
    least, nearest = _MAX_DISPLACEMENT, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for place in order.tolist():
                other = others[key][place]
                if _fit(other, cells[index]) and (
                    found := _DISPLACEMENT.get_rms_dist(other, cells[index])
                ):
                    if found[0] < least:
                        least, nearest = found[0], place
                    if least < _SAME_DISPLACEMENT:
                        break
    except Exception:
        return None
    return nearest


def _fit(reference: Structure, structure: Structure) -> bool:
    return bool(_MATCHER.fit(reference, structure, skip_structure_reduction=True))


def _bucket(reduced: Structure) -> tuple[ReducedComposition, int]:
    """What two crystals must have in common to be compared."""
    return reduced_composition(reduced.atomic_numbers), len(reduced)


def _by_key(items: Iterable[_Item], keys: Iterable[Key]) -> dict[Key, list[_Item]]:
    groups: dict[Key, list[_Item]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return dict(groups)


def _reason(failure: str | TaskFailure) -> str:
    return failure.reason if isinstance(failure, TaskFailure) else failure
