"""oracles/graph.py: CrystalNN's bonds under the original rule, and what has no bonds."""

from collections import Counter

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.oracles import graph
from crystal_diffusion_jax.oracles.voronoi import Around
from tests import golden

NOTHING = Around(np.zeros(0, dtype=np.int64), np.zeros((0, 3), dtype=np.int64))


def bonds_of(structure: Structure) -> np.ndarray:
    return graph.bonds(*graph.arrays(structure))


@pytest.mark.parametrize(
    ("structure", "coordination"),
    [
        (Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]]), 6),
        (Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]), 12),
        (Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.4), ["Si"], [[0, 0, 0]]), 4),
        (
            Structure.from_spacegroup(
                "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
            ),
            6,
        ),
    ],
    ids=["simple cubic", "fcc", "diamond", "rock salt"],
)
def test_coordination_numbers_of_textbook_crystals(structure: Structure, coordination: int) -> None:
    found = bonds_of(structure)
    # Bonds of an atom to its own images are listed twice, as in the training of the networks.
    times = 2 if len(structure) == 1 else 1
    assert Counter(found[:, 1].tolist()) == dict.fromkeys(
        range(len(structure)), coordination * times
    )
    vectors = structure.frac_coords[found[:, 0]] + found[:, 2:] - structure.frac_coords[found[:, 1]]
    distances = np.linalg.norm(vectors @ structure.lattice.matrix, axis=1)
    shortest = min(site.nn_distance for site in structure.get_neighbors(structure[0], 4.0))
    np.testing.assert_allclose(distances, shortest)


def test_the_union_of_neighbor_lists_has_each_bond_in_both_directions() -> None:
    listed = [
        (0, 1, 0, 0, 1),  # seen from both ends
        (1, 0, 0, 0, -1),
        (2, 0, 1, 0, 0),  # seen from one end only
        (1, 1, 0, 1, 0),  # to its own image, on both sides
        (1, 1, 0, -1, 0),
    ]
    expected = [
        (1, 0, 0, 0, 1),
        (0, 1, 0, 0, -1),
        (0, 2, 1, 0, 0),
        (2, 0, -1, 0, 0),
        *[(1, 1, 0, 1, 0), (1, 1, 0, -1, 0)] * 2,
    ]
    assert graph.directed_bonds(listed).tolist() == sorted(map(list, expected))


@pytest.mark.parametrize("oracle", ["perov5", "carbon24", "mp20"])
def test_bonds_are_those_of_the_original_program(oracle: str) -> None:
    # Noise of 1e-12 of the lattice and of the coordinates changes no bond of any of the golden
    # crystals: none hangs on a rounding.
    crystals = golden.crystals(oracle)
    own = [c for c in crystals if (np.array(c["edges_j"]) == np.array(c["edges_i"])).any()]
    for crystal in crystals[:4] + own:
        expected = golden.graph(crystal).bonds
        found = bonds_of(golden.structure(crystal))
        assert found.tolist() == sorted(expected.tolist())


def test_images_refer_to_coordinates_as_they_come() -> None:
    structure = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    # The last one is as far away as an atom may be.
    for shift in ([3, -7, 0], [0, 0, -1], [999_999, -1_000_000, 0]):
        cells = np.array([[0, 0, 0], shift])
        moved = Structure(structure.lattice, structure.species, structure.frac_coords + cells)
        found = bonds_of(moved)
        found[:, 2:] += cells[found[:, 0]] - cells[found[:, 1]]
        assert sorted(found.tolist()) == bonds_of(structure).tolist()


def test_the_compiled_search_gets_all_atoms_within_one_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It walks through all cells between two atoms, and a signal cannot stop it.
    given = []

    def listen(structure: Structure) -> list[Around]:
        given.append(structure.frac_coords)
        return [Around(np.array([1]), np.array([[0, 0, 1]])), NOTHING]

    monkeypatch.setattr(graph, "neighbors", listen)
    found = graph.bonds(
        4.0 * np.eye(3), np.array([[0.25, 0.5, -2.75], [1000.5, 0.0, 0.0]]), np.array([55, 17])
    )
    np.testing.assert_array_equal(given, [[[0.25, 0.5, 0.25], [0.5, 0.0, 0.0]]])
    # Wrapped, atom 1 at z = 0 + 1 is 0.75 above atom 0 at 0.25; unwrapped, at 0 - 2 above -2.75.
    assert found.tolist() == [[0, 1, 1000, 0, 2], [1, 0, -1000, 0, -2]]


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4.0), [], []), "no atoms"),
        (Structure(Lattice.cubic(4.0), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]), "partial occupancy"),
        (Structure(Lattice.cubic(4.0), ["Po"], [[0, 0, np.nan]]), "non-finite numbers"),
        (Structure(Lattice.cubic(np.inf), ["Po"], [[0, 0, 0]]), "non-finite numbers"),
        (Structure(Lattice.cubic(4.0), ["Po"], [[0, 0, 5e9]]), "over 1000000 cells away"),
        (Structure(Lattice.cubic(4.0), ["Po"], [[0, -1e300, 0]]), "over 1000000 cells away"),
        (Structure(Lattice.cubic(4.0), ["Am"], [[0, 0, 0]]), "element unknown to the networks: Am"),
        (Structure(Lattice.cubic(4.0), ["X"], [[0, 0, 0]]), "element unknown to the networks: X"),
        (Structure(Lattice.cubic(0.2), ["Po"], [[0, 0, 0]]), r"volume below 0\.1 A\^3"),
    ],
)
def test_structures_outside_the_networks_domain_have_a_reason(
    structure: Structure, reason: str
) -> None:
    with pytest.raises(graph.NoGraph, match=reason):
        graph.arrays(structure)


@pytest.mark.parametrize(
    ("lattice", "frac_coords", "limit"),
    [
        # 7,000 and 57,000 atoms within the search radius.
        (1.0 * np.eye(3), np.random.default_rng(0).random((5, 3)), "4000 atoms within"),
        (0.5 * np.eye(3), np.random.default_rng(0).random((5, 3)), "4000 atoms within"),
        # Radii of hundreds of Angstrom until a layer finds its own image.
        (np.diag([3.0, 3.0, 1000.0]), np.diag([0.5, 0.5, 0.0]), "4000 atoms within"),
        # Few atoms in the sphere, many in the box around it.
        (np.diag([0.02, 0.02, 1000.0]), np.zeros((1, 3)), "200000 atoms to search"),
    ],
    ids=["1 A^3", "0.1 A^3", "far layers", "needle"],
)
def test_cells_that_would_take_minutes_are_refused(
    lattice: np.ndarray, frac_coords: np.ndarray, limit: str
) -> None:
    with pytest.raises(graph.NoGraph, match=f"too dense or too thin a cell: over {limit}"):
        graph.bonds(lattice, frac_coords, np.full(len(frac_coords), 14))


def test_an_error_of_pymatgen_becomes_a_one_line_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(structure: Structure) -> None:
        raise RuntimeError("infinite vertex in the Voronoi construction\n" + 100 * "details\n")

    monkeypatch.setattr(graph, "neighbors", fail)
    with pytest.raises(graph.NoGraph) as caught:
        graph.bonds(3.0 * np.eye(3), np.zeros((1, 3)), np.array([14]))
    expected = "CrystalNN failed: RuntimeError infinite vertex in the Voronoi construction"
    assert str(caught.value) == expected


def test_running_out_of_memory_is_no_failure_of_a_crystal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(structure: Structure) -> None:
        raise MemoryError

    monkeypatch.setattr(graph, "neighbors", fail)
    with pytest.raises(MemoryError):
        graph.bonds(3.0 * np.eye(3), np.zeros((1, 3)), np.array([14]))


def test_an_atom_without_neighbors_has_no_bonds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "neighbors", lambda structure: [NOTHING])
    with pytest.raises(graph.NoGraph, match="no bonds"):
        graph.bonds(3.0 * np.eye(3), np.zeros((1, 3)), np.array([14]))
