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

from crystal_diffusion_jax.data.locate import cache_folder
from crystal_diffusion_jax.oracle import graph
from crystal_diffusion_jax.oracle.batching import CrystalGraph

# Structures handed to a process at a time.
_CHUNK = 4

# Lattice, fractional coordinates and atomic numbers: what a process gets instead of a structure.
_Cell = tuple[np.ndarray, np.ndarray, np.ndarray]


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
    """Bond graphs of all structures that have one; computed ones are kept in the user's cache.

    Args:
      structures: S of them.
      progress: show a progress bar on stderr.
    """
    cells: dict[int, _Cell] = {}
    bonds: dict[int, np.ndarray] = {}
    failures: dict[int, str] = {}
    for index, structure in enumerate(structures):
        try:
            cells[index] = graph.arrays(structure)
        except graph.NoGraph as reason:
            failures[index] = str(reason)
            continue
        cached = _fetch(_path(cells[index]))
        if cached is not None:
            bonds[index] = cached
    missing = {index: cell for index, cell in cells.items() if index not in bonds}
    not_cached: OSError | None = None
    with tqdm(
        total=len(missing), desc="bonds", unit="crystal", disable=not (progress and missing)
    ) as bar:
        for index, outcome in _compute(missing):
            bar.update()
            if isinstance(outcome, str):
                failures[index] = outcome
                continue
            bonds[index] = outcome
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
    found = {index: CrystalGraph(*cells[index], bonds[index]) for index in sorted(bonds)}
    return Graphs(found, failures)


def _compute(cells: Mapping[int, _Cell]) -> Iterator[tuple[int, np.ndarray | str]]:
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
                yield index, "CrystalNN ended its process (out of memory, or a fault in qhull)"


def _in_processes(cells: Sequence[_Cell]) -> Iterator[np.ndarray | str]:
    """`_bonds_or_reason` of each cell, in their order; never in this process."""
    parallel = joblib.Parallel(
        n_jobs=max(2, joblib.cpu_count()), batch_size=_CHUNK, return_as="generator"
    )
    return iter(parallel(joblib.delayed(_bonds_or_reason)(*cell) for cell in cells))


def _bonds_or_reason(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> np.ndarray | str:
    try:
        return graph.bonds(lattice, frac_coords, atomic_numbers)
    except graph.NoGraph as reason:
        return str(reason)


def _path(cell: _Cell) -> Path:
    """The cache's file for a crystal, named by everything that its bonds depend on."""
    digest = hashlib.sha256()
    digest.update(f"{graph.GRAPH_VERSION} {importlib.metadata.version('pymatgen')}".encode())
    lattice, frac_coords, atomic_numbers = cell
    for array in (lattice.astype("<f8"), frac_coords.astype("<f8"), atomic_numbers.astype("<i8")):
        digest.update(str(array.shape).encode() + array.tobytes())
    key = digest.hexdigest()
    return cache_folder() / "bonds" / key[:2] / f"{key}.npy"


def _fetch(path: Path) -> np.ndarray | None:
    """Cached bonds; None where there are none, or the file is damaged."""
    try:
        bonds: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    return bonds if bonds.ndim == 2 and bonds.shape[1] == 5 and len(bonds) > 0 else None


def _store(path: Path, bonds: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            np.save(file, bonds, allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
