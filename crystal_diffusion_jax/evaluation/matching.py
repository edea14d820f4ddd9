"""Which crystals are the same: pymatgen's StructureMatcher, prescreened and on all cores.

Two crystals can match only if their reduced compositions and the numbers of sites of their reduced
cells agree; the matcher itself says no to every other pair. So only such pairs are compared, and
each crystal is brought to its primitive Niggli cell once instead of once a pair.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import joblib
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.evaluation.compositions import Composition, reduced_composition

# The tolerances with which CDVAE judges its reconstructions (arXiv:2110.06197): lengths relative,
# sites in units of the cube root of the volume per atom, angles in degrees. They are wider than
# pymatgen's own (0.2, 0.3, 5), so that fewer crystals count as unique or new.
LTOL, STOL, ANGLE_TOL = 0.3, 0.5, 10.0
_MATCHER = StructureMatcher(LTOL, STOL, ANGLE_TOL)
# Crystals that one task compares with known ones; few, so that a set of a single composition
# spreads over all cores too.
_CHUNK = 4
# From about here on worker processes win back the seconds that starting them takes.
_MIN_CRYSTALS_FOR_WORKERS = 200

# A crystal in its reduced cell, or the reason why it could not be reduced.
_Reduced = Structure | str


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
    structures: Sequence[Structure], known: Sequence[Structure], progress: bool = True
) -> Matches:
    """Compares crystals with each other and with known crystals.

    Matching is not transitive, so groups are made as pymatgen's `group_structures` makes them:
    each crystal joins the first group whose first member it matches, or else begins one.

    Args:
      structures: S crystals.
      known: any number of crystals.
      progress: show a progress bar on stderr.
    """
    keys = [reduced_composition(s.atomic_numbers) for s in structures]
    known_by_key = _by_key(known, [reduced_composition(s.atomic_numbers) for s in known])
    candidates = [s for key in set(keys) for s in known_by_key.get(key, [])]
    num_jobs = 1 if len(structures) + len(candidates) < _MIN_CRYSTALS_FOR_WORKERS else -1
    parallel = joblib.Parallel(n_jobs=num_jobs, batch_size=1, return_as="generator")

    def run(tasks: list[Any], title: str) -> Iterable[Any]:
        return tqdm(parallel(tasks), total=len(tasks), desc=title, disable=not progress)

    both = [*structures, *candidates]
    chunks = [both[i : i + 50] for i in range(0, len(both), 50)]
    tasks = [joblib.delayed(_reduce_all)(chunk) for chunk in chunks]
    reduced = [item for items in run(tasks, "reduce") for item in items]
    failures = {i: r for i, r in enumerate(reduced[: len(structures)]) if isinstance(r, str)}

    buckets = _by_key(range(len(structures)), [_bucket(r) for r in reduced[: len(structures)]])
    buckets.pop(None, None)
    # A training crystal that resists comes in its Niggli cell, which most often is primitive.
    known_cells = [
        original if isinstance(cell, str) else cell
        for original, cell in zip(candidates, reduced[len(structures) :], strict=True)
    ]
    known_buckets = _by_key(known_cells, [_bucket(r) for r in known_cells])

    group = [-1] * len(structures)
    tasks = [joblib.delayed(_group)(ids, [reduced[i] for i in ids]) for ids in buckets.values()]
    for found, failed in run(tasks, "compare with each other"):
        failures |= failed
        for index, first in found.items():
            group[index] = first

    is_known = [False] * len(structures)
    tasks = [
        joblib.delayed(_find_known)(ids, [reduced[i] for i in ids], known_buckets[key])
        for key, all_ids in buckets.items()
        if key in known_buckets
        for ids in (all_ids[i : i + _CHUNK] for i in range(0, len(all_ids), _CHUNK))
    ]
    for found, failed in run(tasks, "compare with training set"):
        failures |= failed
        for index in found:
            is_known[index] = True
    for index in failures:
        group[index] = -1
    return Matches(group, is_known, failures)


def _by_key(items: Iterable[Any], keys: Iterable[Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return dict(groups)


def _bucket(reduced: _Reduced) -> tuple[Composition, int] | None:
    """What two crystals must have in common to be compared; None for a failed reduction."""
    if isinstance(reduced, str):
        return None
    return reduced_composition(reduced.atomic_numbers), len(reduced)


def _reduce_all(structures: Sequence[Structure]) -> list[_Reduced]:
    """The cells that StructureMatcher would make of them."""
    results: list[_Reduced] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for structure in structures:
            try:
                niggli = structure.get_reduced_structure(reduction_algo="niggli")
                results.append(niggli.get_primitive_structure())
            except Exception as error:  # of a hostile cell nearly anything may be raised
                results.append(f"no primitive cell found ({type(error).__name__})")
    return results


def _fit(reference: Structure, structure: Structure) -> bool:
    return bool(_MATCHER.fit(reference, structure, skip_structure_reduction=True))


def _group(
    indices: Sequence[int], reduced: Sequence[Structure]
) -> tuple[dict[int, int], dict[int, str]]:
    """Index -> index of the first of its group; index -> why the comparison failed."""
    firsts: list[tuple[int, Structure]] = []
    found: dict[int, int] = {}
    failed: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, structure in zip(indices, reduced, strict=True):
            try:
                same = next((i for i, first in firsts if _fit(first, structure)), None)
            except Exception as error:
                failed[index] = f"comparison failed ({type(error).__name__})"
                continue
            if same is None:
                firsts.append((index, structure))
            found[index] = index if same is None else same
    return found, failed


def _find_known(
    indices: Sequence[int], reduced: Sequence[Structure], known: Sequence[Structure]
) -> tuple[list[int], dict[int, str]]:
    """The indices of crystals that are the same as a known one; index -> why that failed."""
    found: list[int] = []
    failed: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, structure in zip(indices, reduced, strict=True):
            try:
                if any(_fit(other, structure) for other in known):
                    found.append(index)
            except Exception as error:
                failed[index] = f"comparison failed ({type(error).__name__})"
    return found, failed
