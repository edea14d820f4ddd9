import dataclasses
import itertools

import numpy as np
import pytest

from crystal_diffusion_jax.data.arrays import CrystalDataset, dataset_statistics
from crystal_diffusion_jax.data.batches import (
    MAX_BUCKETS,
    Batch,
    Batches,
    bucket_sizes,
    evaluation_batches,
)
from crystal_diffusion_jax.errors import UserError


def made_up(num_atoms: np.ndarray) -> CrystalDataset:
    """Crystals of the given sizes; the property of each is its row."""
    rng = np.random.default_rng(0)
    count, total = len(num_atoms), int(num_atoms.sum())
    return CrystalDataset(
        lattice=rng.normal(size=(count, 3, 3)) + 5 * np.eye(3),
        num_atoms=num_atoms,
        frac_coords=rng.uniform(size=(total, 3)),
        atomic_numbers=rng.choice([6, 8, 22, 56], size=total),
        properties=np.arange(count, dtype=np.float64)[:, None],
        property_names=("row",),
        material_ids=np.arange(count).astype(str),
    )


SIZES = np.random.default_rng(1).integers(1, 10, size=53)


def batches(num_atoms: np.ndarray = SIZES, batch_size: int = 8, seed: int = 0) -> Batches:
    dataset = made_up(num_atoms)
    return Batches(dataset, dataset_statistics(dataset, True), batch_size, seed)


def rows_of(batch: Batch, num_atoms: np.ndarray = SIZES) -> np.ndarray:
    """Which crystals a batch holds, from the z-scores of the property."""
    row = np.arange(len(num_atoms))
    std = row.std() or 1.0
    return np.rint(batch.properties[:, 0] * std + row.mean()).astype(int)


def assert_same(left: Batch, right: Batch) -> None:
    for field in dataclasses.fields(left.crystals):
        np.testing.assert_array_equal(
            getattr(left.crystals, field.name), getattr(right.crystals, field.name)
        )
    np.testing.assert_array_equal(left.properties, right.properties)
    np.testing.assert_array_equal(left.weight, right.weight)


def test_a_batch_depends_on_seed_and_step_alone():
    first, second = batches(), batches()
    steps = [0, 1, 7, 40, 123, 10_000]
    forward = [first.batch(step) for step in steps]
    backward = [second.batch(step) for step in reversed(steps)]
    for left, right in zip(forward, reversed(backward), strict=True):
        assert_same(left, right)
    assert_same(first.batch(7), forward[2])


def test_another_seed_gives_another_order():
    orders = [
        [rows_of(batches(seed=seed).batch(step)).tolist() for step in range(4)] for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize(
    "num_atoms", [SIZES, np.array([5] * 9), np.array([1, 2, 2, 9])], ids=["mixed", "equal", "few"]
)
def test_after_as_many_epochs_as_the_batch_size_every_crystal_was_seen_equally_often(
    batch_size, num_atoms
):
    # B epochs of n crystals are n batches of B, for the whole set and for each of its buckets.
    source = batches(num_atoms, batch_size)
    seen = np.concatenate(
        [rows_of(source.batch(step), num_atoms) for step in range(len(num_atoms))]
    )
    np.testing.assert_array_equal(np.bincount(seen, minlength=len(num_atoms)), batch_size)


def test_counts_within_a_bucket_never_differ_by_more_than_one():
    # A bucket walks through whole permutations: at any moment at most one of them is unfinished.
    source = batches()
    bucket = np.searchsorted(source.sizes, SIZES)
    counts = np.zeros(len(SIZES), int)
    for step in range(60):
        counts += np.bincount(rows_of(source.batch(step)), minlength=len(SIZES))
        for index in range(len(source.sizes)):
            assert np.ptp(counts[bucket == index]) <= 1


def test_epochs_are_shuffled_anew():
    source = batches(np.full(8, 3))
    epochs = [rows_of(source.batch(step), np.full(8, 3)) for step in range(5)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_holds_the_crystals_it_names_in_network_units():
    dataset = made_up(SIZES)
    statistics = dataset_statistics(dataset, True)
    offsets = dataset.offsets
    batch = Batches(dataset, statistics, 16, seed=3).batch(5)
    assert batch.properties.dtype == batch.crystals.lattice.dtype == np.float32
    for member, row in enumerate(rows_of(batch)):
        count, atoms = SIZES[row], slice(offsets[row], offsets[row + 1])
        mask = np.arange(batch.crystals.mask.shape[1]) < count
        np.testing.assert_array_equal(batch.crystals.mask[member], mask)
        scale = statistics.lattice_scale * count ** (1 / 3)
        np.testing.assert_allclose(
            batch.crystals.lattice[member], dataset.lattice[row] / scale, rtol=1e-6
        )
        np.testing.assert_allclose(
            batch.crystals.frac_coords[member, mask], dataset.frac_coords[atoms], atol=1e-7
        )
        elements = np.array(statistics.vocabulary)[batch.crystals.species[member, mask]]
        np.testing.assert_array_equal(elements, dataset.atomic_numbers[atoms])
    z_scores = (dataset.properties - dataset.properties.mean()) / dataset.properties.std()
    np.testing.assert_allclose(batch.properties, z_scores[rows_of(batch)], rtol=1e-5)
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_a_batch_is_padded_to_the_smallest_bucket_that_holds_its_crystals():
    source = batches()
    assert len(source.sizes) <= MAX_BUCKETS
    for step in range(40):
        batch = source.batch(step)
        largest = SIZES[rows_of(batch)].max()
        assert batch.crystals.mask.shape[1] == min(size for size in source.sizes if size >= largest)


def wasted(sizes: tuple[int, ...], num_atoms: np.ndarray) -> int:
    """Atom pairs computed when each crystal goes into the smallest size that holds it."""
    return sum(min(size for size in sizes if size >= n) ** 2 for n in num_atoms)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_buckets", [1, 2, 3, 4])
def test_no_other_choice_of_buckets_wastes_less(seed, max_buckets):
    rng = np.random.default_rng(seed)
    num_atoms = rng.choice(rng.integers(1, 30, size=8), size=40)
    sizes = bucket_sizes(num_atoms, max_buckets)
    candidates = np.unique(num_atoms).tolist()
    best = min(
        wasted(subset, num_atoms)
        for length in range(1, max_buckets + 1)
        for subset in itertools.combinations(candidates, length)
        if subset[-1] == candidates[-1]
    )
    assert wasted(sizes, num_atoms) == best
    assert len(sizes) <= max_buckets
    assert list(sizes) == sorted(set(sizes))


def test_under_a_quarter_of_the_pairs_is_padding_when_sizes_are_spread_over_1_to_24():
    num_atoms = np.arange(1, 25)
    computed = wasted(bucket_sizes(num_atoms), num_atoms)
    assert (computed - (num_atoms**2).sum()) / computed < 0.25


def test_crystals_of_one_size_need_one_bucket():
    assert bucket_sizes(np.full(100, 5)) == (5,)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_evaluation_counts_every_crystal_exactly_once(batch_size):
    dataset = made_up(SIZES)
    parts = evaluation_batches(dataset, dataset_statistics(dataset, False), batch_size)
    counts = np.zeros(len(SIZES))
    for part in parts:
        assert len(part.weight) == batch_size
        np.add.at(counts, rows_of(part), part.weight)
        assert (part.crystals.mask.sum(axis=1) == SIZES[rows_of(part)]).all()
    np.testing.assert_array_equal(counts, 1.0)


@pytest.mark.parametrize("num_atoms", [[3], [1, 7], [2, 2, 5]])
def test_fewer_crystals_than_the_batch_size_still_fill_batches(num_atoms):
    num_atoms = np.array(num_atoms)
    source = batches(num_atoms, batch_size=16)
    seen = set()
    for step in range(3 * len(num_atoms)):
        batch = source.batch(step)
        assert batch.weight.shape == (16,)
        seen |= set(rows_of(batch, num_atoms).tolist())
    assert seen == set(range(len(num_atoms)))


@pytest.mark.parametrize("element", [1, 7, 92])
def test_an_element_that_training_never_had_is_refused_by_number(element):
    train = made_up(SIZES)
    statistics = dataset_statistics(train, False)
    validation = made_up(np.array([3, 4]))
    validation.atomic_numbers[5] = element
    with pytest.raises(UserError, match=rf"atomic numbers \[{element}\].*training split"):
        evaluation_batches(validation, statistics, 4)


def test_a_coordinate_just_below_one_stays_inside_the_cell_in_float32():
    dataset = made_up(np.array([2]))
    dataset.frac_coords[0] = 1.0 - 1e-12
    batch = evaluation_batches(dataset, dataset_statistics(dataset, False), 1)[0]
    np.testing.assert_array_equal(batch.crystals.frac_coords[0, 0], 0.0)
