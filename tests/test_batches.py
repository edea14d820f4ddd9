import dataclasses
import itertools

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.data import buckets
from crystal_diffusion_jax.data.arrays import CrystalDataset, dataset_statistics
from crystal_diffusion_jax.data.batches import (
    Batch,
    Batches,
    evaluation_batches,
    tail_oversampling,
)
from crystal_diffusion_jax.data.buckets import (
    MAX_BUCKETS,
    batch_sizes,
    bucket_sizes,
    choose_buckets,
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


@pytest.fixture(autouse=True)
def _several_sizes(monkeypatch):
    """Few crystals have several padded sizes, as many crystals do."""
    monkeypatch.setattr(buckets, "_CRYSTALS_PER_BUCKET", 1)


def batches(num_atoms: np.ndarray = SIZES, batch_size: int = 8, seed: int = 0) -> Batches:
    dataset = made_up(num_atoms)
    return Batches(dataset, dataset_statistics(dataset, True), batch_size, seed)


def batch_of(source: Batches, step: int) -> Batch:
    """The batch of a group of one step, without the axis of steps."""
    group = source.group(step)
    assert len(group.weight) == 1
    return jax.tree.map(lambda array: array[0], group)


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
    forward = [batch_of(first, step) for step in steps]
    backward = [batch_of(second, step) for step in reversed(steps)]
    for left, right in zip(forward, reversed(backward), strict=True):
        assert_same(left, right)
    assert_same(batch_of(first, 7), forward[2])


def test_another_seed_gives_another_order():
    orders = [
        [rows_of(batch_of(batches(seed=seed), step)).tolist() for step in range(4)]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize(
    "num_atoms", [SIZES, np.array([5] * 9), np.array([1, 2, 2, 9])], ids=["mixed", "equal", "few"]
)
def test_after_a_multiple_of_the_batch_sizes_in_epochs_every_crystal_was_seen_equally_often(
    batch_size, num_atoms
):
    # After a multiple of all batch sizes no bucket is in the middle of a batch.
    source = batches(num_atoms, batch_size)
    epochs = int(np.lcm.reduce(source.batch_sizes))
    bucket = np.searchsorted(source.sizes, num_atoms)
    steps = sum(
        epochs * np.sum(bucket == index) // size for index, size in enumerate(source.batch_sizes)
    )
    seen = np.concatenate([rows_of(batch_of(source, step), num_atoms) for step in range(steps)])
    np.testing.assert_array_equal(np.bincount(seen, minlength=len(num_atoms)), epochs)


def test_counts_within_a_bucket_never_differ_by_more_than_one():
    # A bucket walks through whole permutations: at any moment at most one of them is unfinished.
    source = batches()
    bucket = np.searchsorted(source.sizes, SIZES)
    counts = np.zeros(len(SIZES), int)
    for step in range(60):
        counts += np.bincount(rows_of(batch_of(source, step)), minlength=len(SIZES))
        for index in range(len(source.sizes)):
            assert np.ptp(counts[bucket == index]) <= 1


def test_repeated_crystals_come_that_often_in_each_epoch():
    num_atoms, repeats = np.full(12, 3), np.array([3, 1, 1, 1, 1, 2] * 2)
    dataset = made_up(num_atoms)
    source = Batches(
        dataset, dataset_statistics(dataset, False), 6, 0, steps_per_group=3, repeats=repeats
    )
    for epoch in range(3):  # 18 crystals each
        steps = [jax.tree.map(lambda x, s=s: x[s], source.group(epoch)) for s in range(3)]
        rows = np.concatenate([rows_of(batch, num_atoms) for batch in steps])
        np.testing.assert_array_equal(np.bincount(rows, minlength=12), repeats)


def test_repeated_crystals_weigh_the_same_whatever_their_size():
    """A step's loss is the weighted mean over its crystals; what each adds goes by its repeats."""
    dataset, total = made_up(SIZES), np.zeros(len(SIZES))
    repeats = np.where(np.arange(len(SIZES)) % 5 == 0, 4, 1)
    source = Batches(dataset, dataset_statistics(dataset, True), 8, 0, repeats=repeats)
    for step in range(2000):
        batch = batch_of(source, step)
        np.add.at(total, rows_of(batch), batch.weight / len(batch.weight))
    np.testing.assert_allclose(total / total.sum(), repeats / repeats.sum(), rtol=0.05)


def test_tails_are_the_lowest_and_the_highest_twentieth_of_any_property():
    values = np.random.default_rng(0).permuted(np.tile(np.arange(100.0), (2, 1)), axis=1).T
    constant, mostly_zero = np.full(100, 0.1), np.maximum(np.arange(100.0) - 60, 0)
    columns = [values, constant[:, None], mostly_zero[:, None]]
    repeats = tail_oversampling(np.concatenate(columns, axis=1), 7)
    extreme = ((values < 5) | (values >= 95)).any(axis=1) | (mostly_zero >= 35)
    np.testing.assert_array_equal(repeats, np.where(extreme, 7, 1))


def test_epochs_are_shuffled_anew():
    source = batches(np.full(8, 3))
    epochs = [rows_of(batch_of(source, step), np.full(8, 3)) for step in range(5)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_holds_the_crystals_it_names_in_network_units():
    dataset = made_up(SIZES)
    statistics = dataset_statistics(dataset, True)
    offsets = dataset.offsets
    source = Batches(dataset, statistics, 16, seed=3)
    batch = batch_of(source, 5)
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
    np.testing.assert_allclose(batch.weight, len(batch.weight) / 16)


def test_a_group_holds_the_batches_of_its_steps_one_after_the_other():
    num_atoms = np.full(40, 3)
    dataset = made_up(num_atoms)
    statistics = dataset_statistics(dataset, True)
    single = Batches(dataset, statistics, 4, seed=1)
    grouped = Batches(dataset, statistics, 4, seed=1, steps_per_group=5)
    for index in range(4):
        group = grouped.group(index)
        assert group.weight.shape == (5, 4)
        for step in range(5):
            one = jax.tree.map(lambda array, step=step: array[step], group)
            assert_same(one, batch_of(single, 5 * index + step))


@pytest.mark.parametrize("multiple", [3, 5, 64])
def test_a_batch_is_filled_up_to_a_multiple_with_crystals_of_weight_0(multiple):
    plain, filled = batches().group(2), batches().group(2, multiple)
    size = plain.weight.shape[1]
    assert filled.weight.shape[1] % multiple == 0
    assert filled.weight.shape[1] - size < multiple
    np.testing.assert_array_equal(filled.weight[:, size:], 0.0)
    assert_same(jax.tree.map(lambda array: array[:, :size], filled), plain)


def columns(batch: Batch, part: slice, axis: int) -> Batch:
    """Some of the crystals of a batch, or of each step of a group."""
    return jax.tree.map(lambda array: array[part] if axis == 0 else array[:, part], batch)


@pytest.mark.parametrize(
    ("num_devices", "part"),
    [(1, range(1)), (2, range(1, 2)), (4, range(3)), (6, range(2, 6)), (64, range(63, 64))],
)
def test_the_parts_of_a_group_are_cut_from_the_whole_batch(num_devices, part):
    dataset = made_up(SIZES)
    source = Batches(dataset, dataset_statistics(dataset, True), 10, seed=0, steps_per_group=3)
    for index in range(8):
        whole = source.group(index, num_devices)
        width = whole.weight.shape[1] // num_devices
        own = slice(part.start * width, part.stop * width)
        assert_same(source.group(index, num_devices, part), columns(whole, own, axis=1))


@pytest.mark.parametrize("part", [range(1), range(1, 4)])
def test_the_parts_of_validation_are_cut_from_the_whole_batches(part):
    arguments = (made_up(SIZES), dataset_statistics(made_up(SIZES), False), 8)
    whole, cut = evaluation_batches(*arguments), evaluation_batches(*arguments, 4, part)
    assert len(whole) == len(cut)
    for batch, own in zip(whole, cut, strict=True):
        assert_same(own, columns(batch, slice(2 * part.start, 2 * part.stop), axis=0))


@pytest.mark.parametrize("batch_size", [16, 256, 1000])
def test_batches_of_all_sizes_cost_about_the_same_and_hold_batch_size_on_average(batch_size):
    sizes, counts = (4, 9, 16, 25), (400, 300, 200, 100)
    found = np.array(batch_sizes(sizes, counts, batch_size))
    cost = found * np.array(sizes) ** 1.5
    unit = max(1, batch_size // 16)
    assert np.ptp(cost) <= 2 * unit * 25**1.5
    per_epoch = np.array(counts) / found
    assert abs(np.sum(counts) / np.sum(per_epoch) - batch_size) <= unit


def test_crystals_of_one_size_come_in_batches_of_exactly_the_size_asked_for():
    assert batch_sizes((5,), (77,), 37) == (37,)


@pytest.mark.parametrize("batch_size", [1, 8, 32, 256])
@pytest.mark.parametrize("count", [1, 2, 36, 300, 4_000])
@pytest.mark.parametrize("at_least", [1, 500])
def test_no_step_draws_a_crystal_twice(monkeypatch, batch_size, count, at_least):
    monkeypatch.setattr(buckets, "_CRYSTALS_PER_BUCKET", at_least)
    num_atoms = np.random.default_rng(count).integers(1, 21, size=count)
    sizes, per_step = choose_buckets(num_atoms, batch_size)
    counts = np.bincount(np.searchsorted(sizes, num_atoms), minlength=len(sizes))
    assert sizes == bucket_sizes(num_atoms, len(sizes))
    assert (np.array(per_step) <= counts).all()
    assert len(sizes) <= max(1, count // at_least)
    if len(sizes) == 1:
        assert per_step == (min(batch_size, count),)


def test_few_crystals_share_one_size_and_many_have_four(monkeypatch):
    """36 crystals once had batches of 864, 464, 240 and 144."""
    monkeypatch.setattr(buckets, "_CRYSTALS_PER_BUCKET", 500)
    num_atoms = np.tile(np.arange(1, 21), 2)[:36]
    assert choose_buckets(num_atoms, 256) == ((20,), (36,))
    assert choose_buckets(np.repeat(num_atoms, 30), 32)[0] == (12, 20)
    assert len(choose_buckets(np.repeat(num_atoms, 300), 256)[0]) == MAX_BUCKETS


def test_the_bucket_of_a_step_is_the_one_that_its_group_has():
    dataset = made_up(SIZES)
    source = Batches(dataset, dataset_statistics(dataset, True), 10, seed=0, steps_per_group=3)
    for step in range(60):
        size = source.group(step // 3).crystals.mask.shape[-1]
        assert source.sizes[source.bucket(step)] == size


def test_over_an_epoch_every_crystal_has_the_same_weight_in_all():
    # Many small crystals per step, or few large ones in more steps: the sum is what counts.
    source = batches(batch_size=16)
    total = np.zeros(len(SIZES))
    for step in range(100 * len(SIZES) // 16):
        batch = batch_of(source, step)
        np.add.at(total, rows_of(batch), batch.weight / len(batch.weight))
    # One more or one less of 100 visits, and a group that the last epoch leaves unfinished.
    np.testing.assert_allclose(total, total.mean(), rtol=0.03)


def test_a_batch_is_padded_to_the_smallest_bucket_that_holds_its_crystals():
    source = batches()
    assert len(source.sizes) <= MAX_BUCKETS
    for step in range(40):
        batch = batch_of(source, step)
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
    for step in range(40 * len(num_atoms)):
        batch = batch_of(source, step)
        assert len(batch.weight) in source.batch_sizes
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
