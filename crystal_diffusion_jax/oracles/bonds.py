"""Bonds of many structures: on all cores, with a time limit each, and cached.

No structure is fatal: any failure, even of a whole worker process, becomes the reason why that one
structure has no graph.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.oracles import graph
from crystal_diffusion_jax.oracles.batching import CrystalGraph
from crystal_diffusion_jax.runtime.user_cache import cache_folder, write_cached
from crystal_diffusion_jax.runtime.workers import TaskFailure, map_in_processes

TIME_LIMIT = 120.0  # seconds for one structure

# Lattice, fractional coordinates and atomic numbers: what a worker gets instead of a structure.
Cell = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class NoBonds:
    """A crystal without bonds.

    Attributes:
      reason: "reason" or "reason: details".
      permanent: whether another attempt would fail in the same way.
    """

    reason: str
    permanent: bool


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

    Bonds, or the reason why there are none, are cached in the user's cache folder.

    Args:
      structures: S of them.
      progress: show a progress bar on stderr.
    """
    # The distribution that holds CrystalNN; `pymatgen` itself has next to no code.
    rule = f"{graph.GRAPH_VERSION} {importlib.metadata.version('pymatgen-core')}"
    folder = cache_folder() / "bonds"
    cells: dict[int, Cell] = {}
    paths: dict[int, Path] = {}
    outcomes: dict[int, np.ndarray | NoBonds] = {}
    failures: dict[int, str] = {}
    for index, structure in enumerate(structures):
        try:
            cells[index] = graph.arrays(structure)
        except graph.NoGraph as reason:
            failures[index] = str(reason)
            continue
        key = _key(cells[index], rule)
        paths[index] = folder / key[:2] / f"{key}.npy"
        cached = _read_cached(paths[index])
        if cached is not None:
            outcomes[index] = cached
    missing = [index for index in cells if index not in outcomes]
    computed = map_in_processes(
        find_bonds, [cells[index] for index in missing], "bonds", TIME_LIMIT, progress=progress
    )
    not_cached: OSError | None = None
    for index, outcome in zip(missing, computed, strict=True):
        if isinstance(outcome, TaskFailure):
            outcome = NoBonds(f"CrystalNN failed: {outcome.reason}", permanent=False)
        outcomes[index] = outcome
        try:
            _write_cached(paths[index], outcome)
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
        if isinstance(outcome, NoBonds):
            failures[index] = outcome.reason
        else:
            found[index] = CrystalGraph(*cells[index], outcome)
    return Graphs(found, dict(sorted(failures.items())))


def find_bonds(cell: Cell) -> np.ndarray | NoBonds:
    """Bonds of one crystal, see `graph.bonds`, or why there are none."""
    try:
        return graph.bonds(*cell)
    except graph.NoGraph as reason:
        return NoBonds(str(reason), permanent=True)
    except Exception as error:  # the failure of one crystal must not stop the others
        return NoBonds(f"no bonds: {graph.in_one_line(error)}", permanent=False)


def _key(cell: Cell, rule: str) -> str:
    """A hash of all that the bonds depend on."""
    digest = hashlib.sha256(rule.encode())
    lattice, frac_coords, atomic_numbers = cell
    for array in (lattice.astype("<f8"), frac_coords.astype("<f8"), atomic_numbers.astype("<i8")):
        digest.update(str(array.shape).encode() + array.tobytes())
    return digest.hexdigest()


def _read_cached(path: Path) -> np.ndarray | NoBonds | None:
    """None where nothing is cached or the file is damaged."""
    try:
        content = path.read_bytes()
        shape, dtype, start = _header(content[: content.index(b"\n") + 1])
        stored = np.frombuffer(content, dtype, offset=start).reshape(shape)
    except (OSError, ValueError):
        return None
    if stored.ndim == 0 and stored.dtype.kind == "U":
        return NoBonds(str(stored), permanent=True)
    has_bonds = stored.dtype.kind == "i" and stored.ndim == 2 and stored.shape[1] == 5
    return stored if has_bonds and len(stored) > 0 else None


@functools.lru_cache(maxsize=4096)
def _header(header: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and length of an npy file's header, which `np.load` parses as Python each time.

    Raises:
      ValueError: it is damaged.
    """
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject:
        raise ValueError("not written here")
    return shape, dtype, len(header)


def _write_cached(path: Path, outcome: np.ndarray | NoBonds) -> None:
    if isinstance(outcome, NoBonds) and not outcome.permanent:
        return
    # A reason is stored as a zero-dimensional array of text.
    array = np.array(outcome.reason) if isinstance(outcome, NoBonds) else outcome
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_cached(path, content.getvalue())
