"""potentials/neighbours.py against all images one by one, and what it refuses."""

import itertools

import numpy as np
import pytest

from crystal_diffusion_jax.potentials.neighbours import (
    CUTOFF,
    SHORT_CUTOFF,
    AtomGraph,
    CannotEvaluate,
    Capacity,
    atom_graph,
)

SKEWED = np.array([[3.13, 0.0, 0.0], [1.9, 3.4, 0.0], [-2.2, 1.7, 4.6]])


def directed(graph: AtomGraph) -> np.ndarray:
    """[2B, 5] first atom, second atom and image of all bonds and their reverses."""
    backward = graph.bonds[:, [1, 0, 2, 3, 4]] * [1, 1, -1, -1, -1]
    return np.concatenate([graph.bonds, backward])


def lengths(graph: AtomGraph, bonds: np.ndarray) -> np.ndarray:
    coords = graph.frac_coords
    difference = coords[bonds[:, 1]] + bonds[:, 2:] - coords[bonds[:, 0]]
    return np.linalg.norm(difference @ graph.lattice, axis=1)


def all_pairs(lattice: np.ndarray, coords: np.ndarray, cutoff: float) -> set[tuple[int, ...]]:
    """Every directed pair within the cutoff, from a block of images that is large enough."""
    found = set()
    for image in itertools.product(range(-9, 10), repeat=3):
        for i, j in itertools.product(range(len(coords)), repeat=2):
            distance = np.linalg.norm((coords[j] + image - coords[i]) @ lattice)
            if distance <= cutoff and (i != j or any(image)):
                found.add((i, j, *image))
    return found


@pytest.mark.parametrize("skin", [False, True])
@pytest.mark.parametrize("num_atoms", [1, 2, 3])
def test_bonds_are_all_pairs_within_the_cutoff(num_atoms: int, skin: bool) -> None:
    # Not wrapped: images refer to the coordinates as they are given.
    coords = np.random.default_rng(num_atoms).uniform(-1.5, 1.5, size=(num_atoms, 3))
    graph = atom_graph(SKEWED, coords, np.full(num_atoms, 14), skin)
    expected = all_pairs(SKEWED, coords, CUTOFF + 0.2 * skin)
    rows = directed(graph)
    assert {tuple(row) for row in rows.tolist()} == expected
    assert len(rows) == len(expected)
    is_short = lengths(graph, graph.bonds) <= SHORT_CUTOFF + 0.03 * skin
    assert is_short.tolist() == [True] * graph.num_short + [False] * (
        len(graph.bonds) - graph.num_short
    )


def test_angles_are_all_ordered_pairs_of_different_short_bonds_from_one_atom() -> None:
    coords = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.8], [0.3, 0.9, 0.1]])
    graph = atom_graph(SKEWED * 0.8, coords, np.full(3, 14))
    short = graph.bonds[: graph.num_short]
    start = [*short[:, 0], *short[:, 1]]
    pairs = itertools.permutations(range(len(start)), 2)
    expected = sorted(pair for pair in pairs if start[pair[0]] == start[pair[1]])
    assert graph.angles.tolist() == [list(pair) for pair in expected]
    # Among them those between an atom's own images +R and -R.
    own = np.flatnonzero(short[:, 0] == short[:, 1])
    assert {(int(b), int(b) + graph.num_short) for b in own} <= set(expected)
    assert len(own)


@pytest.mark.parametrize("constant", [3.0, 6.0, 2.0, 1.5 * 2**0.5])
def test_every_bond_at_exactly_a_cutoff_has_its_reverse(constant: float) -> None:
    # Rounding differs between the atoms of a cell that is not at the origin.
    coords = np.array([[0.1, 0.7, 0.3], [0.6, 0.2, 0.8]])
    graph = atom_graph(constant * np.eye(3), coords, np.array([11, 17]))
    rows = {tuple(row) for row in directed(graph).tolist()}
    assert all((j, i, -a, -b, -c) in rows for i, j, a, b, c in rows)
    inside = all_pairs(constant * np.eye(3), coords, CUTOFF - 1e-6)
    assert inside <= rows <= all_pairs(constant * np.eye(3), coords, CUTOFF + 1e-6)


@pytest.mark.parametrize(
    ("lattice", "coords", "numbers", "reason"),
    [
        (4 * np.eye(3), [[0, 0, 0], [1, 1, 1]], [6, 6], "atoms in one place"),
        (20 * np.eye(3), [[0, 0, 0]], [6], "isolated atom"),
        (20 * np.eye(3), [[0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]], [6] * 3, "of atom 2"),
        (0.5 * np.eye(3), [[0, 0, 0]], [6], "too dense"),
        (4 * np.eye(3), [[0, 0, 0]], [95], "element unknown to the potential: number 95"),
        (4 * np.eye(3), [[0, 0, 0]], [0], "element unknown"),
        (4 * np.eye(3), [[0, 0, np.nan]], [6], "non-finite"),
        (np.nan * np.eye(3), [[0, 0, 0]], [6], "non-finite"),
        (0.2 * np.eye(3), [[0, 0, 0]], [6], "volume"),
        (4 * np.eye(3), np.zeros((0, 3)), [], "no atoms"),
        (np.diag([0.01, 10.0, 10.0]), [[0, 0, 0]], [6], "too dense: 6.. bonds within 3 A at one"),
        (4 * np.eye(3), [[0, 0, 1e300]], [6], "coordinate beyond"),
        ([[2.5, 0, 0], [700, 2.5, 0], [700, 700, 2.5]], [[0, 0, 0]], [6], "collinear"),
    ],
)
def test_what_the_potential_cannot_see_is_refused_with_a_reason(
    lattice: np.ndarray, coords: list, numbers: list, reason: str
) -> None:
    with pytest.raises(CannotEvaluate, match=reason):
        atom_graph(np.array(lattice, float), np.array(coords, float), np.array(numbers, int))


def test_a_batch_keeps_a_row_of_padding_everywhere() -> None:
    size = Capacity(crystals=1, atoms=2, long_bonds=30, short_bonds=4, angles=12)
    assert size.fits(Capacity(2, 3, 31, 5, 13))
    for full in range(5):
        rows = [2, 3, 31, 5, 13]
        rows[full] -= 1
        assert not size.fits(Capacity(*rows))
    assert size + size == Capacity(2, 4, 60, 8, 24)


def test_the_memory_order_of_the_lattice_does_not_matter() -> None:
    coords = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.8]])
    # As pymatgen's `apply_strain` leaves it.
    one = atom_graph(SKEWED, coords, np.full(2, 14))
    other = atom_graph(np.asfortranarray(SKEWED), coords, np.full(2, 14))
    np.testing.assert_array_equal(one.bonds, other.bonds)
