"""oracles/bonds.py: every structure gets its bonds or a reason, once."""

import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.oracles import bonds, graph
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers
from tests.hostile_reads import npy

GOOD = Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]])
SALT = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
DENSE = Structure(Lattice.cubic(0.5), ["Cu"], [[0, 0, 0]])
FAR_LAYERS = Structure(Lattice.tetragonal(3.0, 1000.0), ["Si"], [[0, 0, 0]])
PYMATGEN = importlib.metadata.version("pymatgen")
AMERICIUM = Structure(Lattice.cubic(4.0), ["Am"], [[0, 0, 0]])


pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path))
    return tmp_path / "bonds"


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of structures that are sent to the workers from now on."""
    counts: list[int] = []
    compute = bonds.map_in_processes

    def counting(function: Any, cells: list[Any], *args: Any, **options: Any) -> Any:
        counts.append(len(cells))
        return compute(function, cells, *args, **options)

    monkeypatch.setattr(bonds, "map_in_processes", counting)
    return counts


def test_failures_keep_their_place_and_stop_nothing() -> None:
    lost = Structure(Lattice.cubic(4.0), ["Cu", "Cu"], [[0.0, 0.0, 0.0], [0.5, 0.5, 5e9]])
    graphs = bonds.build([AMERICIUM, GOOD, DENSE, SALT, lost], progress=False)
    assert list(graphs.found) == [1, 3]
    assert list(graphs.failures) == [0, 2, 4]
    for index, structure in ((1, GOOD), (3, SALT)):
        np.testing.assert_array_equal(
            graphs.found[index].bonds, graph.bonds(*graph.arrays(structure))
        )


def test_bonds_are_computed_once_for_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    first = bonds.build([GOOD, SALT], progress=False)
    counts = computed(monkeypatch)
    again = bonds.build([SALT, GOOD], progress=False)
    assert counts == [0]
    np.testing.assert_array_equal(again.found[0].bonds, first.found[1].bonds)
    moved = SALT.copy()
    moved.translate_sites([0], [0.01, 0, 0])
    bonds.build([moved, GOOD], progress=False)
    assert counts == [0, 1]


def test_damaged_files_of_the_cache_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    first = bonds.build([GOOD], progress=False)
    (path,) = cache.rglob("*.npy")
    good = path.read_bytes()
    counts = computed(monkeypatch)
    contents = (b"damaged", b"", good[:-1], good.replace(b"<i4", b"<f4"), npy("(0, 5)"))
    for content in contents:
        path.write_bytes(content)
        anew = bonds.build([GOOD], progress=False)
        np.testing.assert_array_equal(anew.found[0].bonds, first.found[0].bonds)
        assert path.read_bytes() == good
    assert counts == [1] * len(contents)


def after_an_update(distribution: str) -> str:
    # Of the part of pymatgen that CrystalNN is in; the names of the two look alike.
    return {"pymatgen": PYMATGEN, "pymatgen-core": "2999.1.1"}[distribution]


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (graph, "GRAPH_VERSION", graph.GRAPH_VERSION + 1),
        (importlib.metadata, "version", after_an_update),
    ],
)
def test_a_refused_structure_is_refused_at_once_until_something_changes(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, value: object
) -> None:
    first = bonds.build([FAR_LAYERS, GOOD], progress=False)
    assert first.failures[0].startswith("too dense or too thin")
    counts = computed(monkeypatch)
    again = bonds.build([GOOD, FAR_LAYERS], progress=False)
    assert again.failures == {1: first.failures[0]}
    monkeypatch.setattr(module, name, value)
    anew = bonds.build([FAR_LAYERS, GOOD], progress=False)
    assert anew.failures == first.failures
    assert counts == [0, 2]


def test_an_unexpected_error_is_named_and_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lattice: np.ndarray, *_: object) -> np.ndarray:
        if lattice[0, 0] == 4.1:
            raise OverflowError("Python integer 5000000000 out of bounds\nfor int32")
        return np.zeros((1, 5), dtype=np.int32)

    monkeypatch.setattr(graph, "bonds", fail)
    graphs = bonds.build([SALT, GOOD], progress=False)
    assert list(graphs.found) == [1]
    expected = "no bonds: OverflowError Python integer 5000000000 out of bounds"
    assert graphs.failures == {0: expected}
    counts = computed(monkeypatch)
    bonds.build([SALT, GOOD], progress=False)
    assert counts == [1]


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="CRYSTAL_DIFFUSION_CACHE"):
        graphs = bonds.build([GOOD], progress=False)
    assert list(graphs.found) == [0]


def test_a_structure_that_kills_its_process_is_the_only_one_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose_copper(self: Workers, items: Iterable[Any]) -> Iterator[Any]:
        for cell in items:
            lost = cell[2][0] == 29
            yield TaskFailure("ended its process") if lost else np.zeros((1, 5), dtype=np.int32)

    monkeypatch.setattr(Workers, "map", lose_copper)
    graphs = bonds.build([GOOD, DENSE, SALT], progress=False)
    assert list(graphs.found) == [0, 2]
    assert graphs.failures == {1: "CrystalNN failed: ended its process"}
    counts = computed(monkeypatch)
    bonds.build([DENSE, SALT], progress=False)
    assert counts == [1]  # the next time there may be memory enough


@pytest.mark.slow
def test_bonds_found_in_processes_are_those_found_in_this_one() -> None:
    graphs = bonds.build([GOOD, SALT], progress=False)
    for index, structure in enumerate((GOOD, SALT)):
        np.testing.assert_array_equal(
            graphs.found[index].bonds, graph.bonds(*graph.arrays(structure))
        )
