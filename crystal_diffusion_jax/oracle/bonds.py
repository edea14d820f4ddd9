"""Bonds of many structures: on all cores, each bounded in time, and remembered.

No single structure is ever fatal: whatever goes wrong with one becomes the reason why it has no
graph, even when it takes a whole process with it.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from crystal_diffusion_jax.oracle import graph
from crystal_diffusion_jax.oracle.batching import CrystalGraph
from crystal_diffusion_jax.runtime.archives import read_array
from crystal_diffusion_jax.runtime.user_cache import cache_folder

# Structures handed to a process at a time.
_CHUNK = 4
# Of a cached file; a thousand atoms of forty bonds each take a megabyte.
_MAX_BYTES = 2**24

# Lattice, fractional coordinates and atomic numbers: what a process gets instead of a structure.
_Cell = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Failure:
    """Why a crystal has no bonds, and whether it would have none the next time either."""

    reason: str
    lasting: bool


_Outcome = np.ndarray | _Failure


@dataclasses.dataclass(frozen=True)
class Graphs:
    """Bond graphs of S structures, by index.

    Attributes:
      found: the graphs.
      failures: for the other structures, why they have none.
    """

    found: Mapping[int, CrystalGraph]
    failures: Mapping[int, str]


def build(structures: Sequence[graph.Structure], progress: bool = True) -> Graphs:
    """Bond graphs of all structures that have one.

    What was computed once, bonds or the reason why there are none, is kept in the user's cache.

    Args:
      structures: S of them.
      progress: show a progress bar on stderr.
    """
    cells: dict[int, _Cell] = {}
    outcomes: dict[int, _Outcome] = {}
    failures: dict[int, str] = {}
    for index, structure in enumerate(structures):
        try:
            cells[index] = graph.arrays(structure)
        except graph.NoGraph as reason:
            failures[index] = str(reason)
            continue
        cached = _fetch(_path(cells[index]))
        if cached is not None:
            outcomes[index] = cached
    missing = {index: cell for index, cell in cells.items() if index not in outcomes}
    not_cached: OSError | None = None
    with tqdm(
        total=len(missing), desc="bonds", unit="crystal", disable=not (progress and missing)
    ) as bar:
        for index, outcome in _compute(missing):
            bar.update()
            outcomes[index] = outcome
            if isinstance(outcome, _Failure) and not outcome.lasting:
                continue
            try:
                _store(_path(cells[index]), outcome)
            except OSError as error:
                not_cached = error
    if not_cached is not None:
        warnings.warn(
            f"Bonds are not cached and will be computed again next time ({not_cached}): set "
            "CRYSTAL_DIFFUSION_CACHE to a folder that can be written.",
            stacklevel=3,
        )
    found = {}
    for index, outcome in sorted(outcomes.items()):
        if isinstance(outcome, _Failure):
            failures[index] = outcome.reason
        else:
            found[index] = CrystalGraph(*cells[index], outcome)
    return Graphs(found, dict(sorted(failures.items())))


def _compute(cells: Mapping[int, _Cell]) -> Iterator[tuple[int, _Outcome]]:
    """(index, bonds or the reason why there are none) of each cell."""
    waiting = dict(cells)
    try:
        for index, outcome in zip(cells, _in_processes(list(cells.values())), strict=True):
            del waiting[index]
            yield index, outcome
    except BrokenProcessPool:
        # A crystal ended its process: the rest one by one, to find out which it was.
        for index, cell in waiting.items():
            try:
                yield index, next(_in_processes([cell]))
            except BrokenProcessPool:
                reason = "CrystalNN ended its process (out of memory, or a fault in qhull)"
                yield index, _Failure(reason, lasting=False)


def _in_processes(cells: Sequence[_Cell]) -> Iterator[_Outcome]:
    """`_bonds_or_reason` of each cell, in their order; never in this process."""
    parallel = joblib.Parallel(
        n_jobs=max(2, joblib.cpu_count()), batch_size=_CHUNK, return_as="generator"
    )
    return iter(parallel(joblib.delayed(_bonds_or_reason)(*cell) for cell in cells))


def _bonds_or_reason(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> _Outcome:
    try:
        return graph.bonds(lattice, frac_coords, atomic_numbers)
    except graph.NoGraph as reason:
        return _Failure(str(reason), lasting=True)
    except Exception as error:  # one crystal's surprise must not stop the others
        return _Failure(f"no bonds: {graph.in_one_line(error)}", lasting=False)


def _path(cell: _Cell) -> Path:
    """The cache's file for a crystal, named by everything that its bonds or reason depend on."""
    digest = hashlib.sha256()
    # The distribution that CrystalNN is in; `pymatgen` itself has next to no code.
    pymatgen = importlib.metadata.version("pymatgen-core")
    digest.update(f"{graph.GRAPH_VERSION} {pymatgen} {graph.TIME_LIMIT}".encode())
    lattice, frac_coords, atomic_numbers = cell
    for array in (lattice.astype("<f8"), frac_coords.astype("<f8"), atomic_numbers.astype("<i8")):
        digest.update(str(array.shape).encode() + array.tobytes())
    key = digest.hexdigest()
    return cache_folder() / "bonds" / key[:2] / f"{key}.npy"


def _fetch(path: Path) -> _Outcome | None:
    """Cached bonds or reason; None where there is neither, or the file is damaged."""
    try:
        stored = read_array(path, _MAX_BYTES)
    except (OSError, ValueError):
        return None
    if stored.ndim == 0 and stored.dtype.kind == "U":
        return _Failure(str(stored), lasting=True)
    whole = stored.dtype.kind == "i" and stored.ndim == 2 and stored.shape[1] == 5
    return stored if whole and len(stored) > 0 else None


def _store(path: Path, outcome: _Outcome) -> None:
    # A reason is an array as well: one text without dimensions.
    array = np.array(outcome.reason) if isinstance(outcome, _Failure) else outcome
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
