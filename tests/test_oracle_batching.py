"""oracles/batching.py: triplets against their definition, and batches that lose nothing."""

import types

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.oracles import batching
from crystal_diffusion_jax.oracles.batching import CrystalGraph


def pack(
    graphs: list[CrystalGraph], bonds_per_batch: int
) -> list[tuple[list[int], types.SimpleNamespace]]:
    """Batches of NumPy arrays, which can be inspected without compiling anything."""
    return [
        (members, types.SimpleNamespace(**jax.device_get(vars(batch))))
        for members, batch in batching.pack(graphs, bonds_per_batch)
    ]


def random_graph(seed: int, num_atoms: int, num_bonds: int) -> CrystalGraph:
    """Atoms and bonds at random, bonds of an atom with itself and repeated bonds included."""
    rng = np.random.default_rng(seed)
    return CrystalGraph(
        lattice=4 * np.eye(3) + rng.normal(0, 0.1, (3, 3)),
        frac_coords=rng.random((num_atoms, 3)),
        atomic_numbers=rng.integers(1, 95, num_atoms),
        bonds=np.column_stack(
            [rng.integers(0, num_atoms, (num_bonds, 2)), rng.integers(-1, 2, (num_bonds, 3))]
        ),
    )


@pytest.mark.parametrize("seed", range(5))
def test_triplets_are_all_pairs_of_bonds_that_meet_and_do_not_return(seed: int) -> None:
    graph = random_graph(seed, num_atoms=4, num_bonds=20)
    expected = [
        (near, far)
        for near, (j, i) in enumerate(graph.bonds[:, :2])
        for far, (k, end) in enumerate(graph.bonds[:, :2])
        if end == j and k != i
    ]
    found = batching.triplets(graph.bonds)
    assert sorted(map(tuple, found.tolist())) == expected
    assert np.all(np.diff(found[:, 0]) >= 0)


@pytest.mark.parametrize("num_atoms", [1, 2])
def test_a_graph_can_have_no_triplets(num_atoms: int) -> None:
    # One atom alone, or two that only bond to each other.
    ends = [[0, 0]] if num_atoms == 1 else [[0, 1], [1, 0]]
    bonds = np.array([[*end, 0, 0, n] for end in ends for n in (-1, 1)])
    graph = CrystalGraph(np.eye(3), np.zeros((num_atoms, 3)), np.ones(num_atoms, int), bonds)
    assert batching.triplets(graph.bonds).shape == (0, 2)


def test_batches_have_room_for_all_triplets_and_little_more() -> None:
    graphs = [random_graph(seed, 1 + seed % 6, 1 + 7 * seed % 90) for seed in range(60)]
    listed = [len(batching.triplets(graph.bonds)) for graph in graphs]
    assert batching._num_triplets(graphs).tolist() == listed
    batches = pack(graphs, bonds_per_batch=512)
    (room,) = {len(batch.near_bond) for _, batch in batches}
    most = max(sum(listed[index] for index in members) for members, _ in batches)
    assert most <= room < most + 512 // 8
    (capacity,) = {len(batch.source) for _, batch in batches}
    assert capacity == 512


def test_every_crystal_is_in_exactly_one_batch_with_all_its_bonds() -> None:
    sizes = [(3, 30), (1, 2), (12, 500), (5, 31), (2, 400), (7, 77), (4, 40)]
    graphs = [random_graph(seed, *size) for seed, size in enumerate(sizes)]
    batches = pack(graphs, bonds_per_batch=512)
    assert [index for members, _ in batches for index in members] == list(range(len(graphs)))
    shapes = {tuple(map(np.shape, vars(batch).values())) for _, batch in batches}
    assert len(shapes) == 1
    for members, batch in batches:
        first_atom = 0
        for place, index in enumerate(members):
            graph = graphs[index]
            atoms = np.flatnonzero(batch.crystal == place)
            assert atoms.tolist() == list(range(first_atom, first_atom + len(graph.atomic_numbers)))
            np.testing.assert_array_equal(batch.atomic_numbers[atoms], graph.atomic_numbers)
            mine = np.isin(batch.target, atoms)
            ends = np.column_stack([batch.source, batch.target])[mine] - first_atom
            np.testing.assert_array_equal(ends, graph.bonds[:, :2])
            np.testing.assert_array_equal(batch.image[mine], graph.bonds[:, 2:])
            assert np.isin(batch.near_bond, np.flatnonzero(mine)).sum() == len(
                batching.triplets(graph.bonds)
            )
            first_atom += len(graph.atomic_numbers)


def test_one_huge_crystal_gets_a_batch_of_its_size() -> None:
    graphs = [random_graph(0, 5, 30), random_graph(1, 400, 3000)]
    batches = pack(graphs, bonds_per_batch=1024)
    assert [index for members, _ in batches for index in members] == [0, 1]
    assert batches[0][1].source.shape[0] >= 3000


def test_no_graphs_make_no_batches() -> None:
    assert pack([], bonds_per_batch=1024) == []


def test_atoms_many_cells_away_keep_their_digits() -> None:
    near = random_graph(0, num_atoms=4, num_bonds=20)
    cells = np.random.default_rng(0).integers(-5000, 5000, (4, 3))
    shift = cells[near.bonds[:, 1]] - cells[near.bonds[:, 0]]
    far = CrystalGraph(
        near.lattice,
        near.frac_coords + cells,
        near.atomic_numbers,
        np.column_stack([near.bonds[:, :2], near.bonds[:, 2:] + shift]),
    )
    ((_, of_near),) = pack([near], bonds_per_batch=512)
    ((_, of_far),) = pack([far], bonds_per_batch=512)
    np.testing.assert_array_equal(of_far.image, of_near.image)
    # At 5000 float64 keeps 1e-12 of a place within the cell; then both are rounded to float32.
    np.testing.assert_allclose(of_far.frac_coords, of_near.frac_coords, rtol=0, atol=1e-7)
