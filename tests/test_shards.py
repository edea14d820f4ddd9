import dataclasses
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.config import DataConfig, ExperimentConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, dataset_statistics
from crystal_diffusion_jax.data.batches import Batch, PaddedCrystals
from crystal_diffusion_jax.data.shards.batches import ShardedBatches
from crystal_diffusion_jax.data.shards.dataset import INDEX, ShardedDataset
from crystal_diffusion_jax.data.shards.splits import holds_shards, open_splits
from crystal_diffusion_jax.data.shards.writer import write_shards
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.training import loop
from crystal_diffusion_jax.training.inputs import Inputs
from crystal_diffusion_jax.training.loop import train
from tests.smoke_run import CONFIG, splits

NUM_SHARDS, NUM_SLICES = 12, 4
SIZES = np.random.default_rng(1).choice([1, 2, 3, 5, 8, 9, 13], size=211)


def made_up(num_atoms: np.ndarray = SIZES) -> CrystalDataset:
    """Crystals of the given sizes; the first property of each is its row, the second constant."""
    rng = np.random.default_rng(0)
    count, total = len(num_atoms), int(num_atoms.sum())
    row = np.arange(count, dtype=np.float64)
    return CrystalDataset(
        lattice=rng.normal(size=(count, 3, 3)) + 5 * np.eye(3),
        num_atoms=num_atoms,
        frac_coords=rng.uniform(size=(total, 3)),
        atomic_numbers=rng.choice([6, 8, 22, 56], size=total),
        properties=np.stack([row, np.full(count, 0.1)], axis=1),
        property_names=("row", "constant"),
        material_ids=np.arange(count).astype(str),
    )


def in_parts(dataset: CrystalDataset, num_parts: int = 3) -> list[CrystalDataset]:
    return [dataset.take(rows) for rows in np.array_split(np.arange(len(dataset)), num_parts)]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> ShardedDataset:
    folder = tmp_path_factory.mktemp("shards") / "train"
    return write_shards(in_parts(made_up()), folder, NUM_SHARDS, NUM_SLICES)


def sharded_batches(written: ShardedDataset, batch_size: int = 16, **options) -> ShardedBatches:
    return ShardedBatches(written, written.statistics(True), batch_size, **({"seed": 0} | options))


def rows_of(batch: Batch, count: int = len(SIZES)) -> np.ndarray:
    """Which crystals a batch holds, from the z-scores of the property; -1 where it is filled."""
    row = np.arange(count)
    found = np.rint(batch.properties[..., 0] * row.std() + row.mean()).astype(int)
    return np.where(batch.weight > 0, found, -1)


def rows_in_shard(written: ShardedDataset, shard: int) -> np.ndarray:
    return written.read(shard, written.sizes).properties[:, 0].astype(int)


def assert_same(left: Batch, right: Batch) -> None:
    for field in dataclasses.fields(left.crystals):
        np.testing.assert_array_equal(
            getattr(left.crystals, field.name), getattr(right.crystals, field.name)
        )
    np.testing.assert_array_equal(left.properties, right.properties)
    np.testing.assert_array_equal(left.weight, right.weight)


def columns(batch: Batch, part: slice) -> Batch:
    """Some of the rows of each step."""
    arrays = {
        field.name: getattr(batch.crystals, field.name)[:, part]
        for field in dataclasses.fields(batch.crystals)
    }
    crystals = dataclasses.replace(batch.crystals, **arrays)
    return Batch(crystals, batch.properties[:, part], batch.weight[:, part])


def test_every_crystal_is_in_exactly_one_shard_in_single_precision(written):
    dataset, whole = made_up(), written.whole()
    rows = whole.properties[:, 0].astype(int)
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(dataset)))
    expected = dataset.take(rows)
    for name in ("num_atoms", "atomic_numbers", "properties"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(expected, name))
    for name in ("lattice", "frac_coords"):
        np.testing.assert_array_equal(
            getattr(whole, name).astype(np.float32), getattr(expected, name).astype(np.float32)
        )


def test_shards_and_slices_differ_by_at_most_one_crystal_of_each_size(written):
    counts = np.array(
        [
            [np.sum(SIZES[rows_in_shard(written, shard)] == size) for size in np.unique(SIZES)]
            for shard in range(NUM_SHARDS)
        ]
    )
    np.testing.assert_array_equal(written.counts, counts)
    assert np.ptp(counts, axis=0).max() <= 1
    by_slice = sum(counts[first : first + NUM_SLICES] for first in range(0, NUM_SHARDS, NUM_SLICES))
    assert np.ptp(by_slice, axis=0).max() <= 1


def test_each_shard_is_a_sample_of_all_parts(written):
    # Each third of the crystals was one part; of 17 or 18 in a shard about 6 come from each.
    for shard in range(NUM_SHARDS):
        thirds = np.bincount(rows_in_shard(written, shard) * 3 // len(SIZES), minlength=3)
        assert thirds.min() >= 2


@pytest.mark.parametrize("num_parts", [1, 2, 7])
@pytest.mark.parametrize("scale_by_num_atoms", [False, True])
def test_the_index_has_the_statistics_of_the_whole(tmp_path, num_parts, scale_by_num_atoms):
    write_shards(in_parts(made_up(), num_parts), tmp_path / "train", NUM_SHARDS, NUM_SLICES)
    write_shards(in_parts(made_up(), num_parts), tmp_path / "val", 1, 1)
    found = open_splits(DataConfig(root=str(tmp_path)))["train"].statistics(scale_by_num_atoms)
    expected = dataset_statistics(made_up(), scale_by_num_atoms)
    for field in dataclasses.fields(expected):
        value, wanted = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("vocabulary", "property_names", "num_atoms_histogram"):
            assert value == wanted
        elif field.name in ("property_quantiles", "num_atoms_by_property"):
            assert value == ()  # they would need all values at once
        else:
            np.testing.assert_allclose(value, wanted, rtol=1e-12, err_msg=field.name)


def test_writing_holds_one_part_at_a_time(tmp_path):
    earlier: list[weakref.ref[CrystalDataset]] = []

    def parts() -> Iterator[CrystalDataset]:
        for _ in range(3):
            gc.collect()
            assert [part() for part in earlier] == [None] * len(earlier)
            part = made_up()
            earlier.append(weakref.ref(part))
            yield part
            del part

    assert len(write_shards(parts(), tmp_path / "train", NUM_SHARDS, NUM_SLICES)) == 3 * len(SIZES)


def test_in_each_turn_of_a_bucket_every_crystal_comes_exactly_once(written):
    source = sharded_batches(written)
    walked: dict[tuple[int, int], list[np.ndarray]] = {}  # by padded size and slice
    for index in range(120):
        group = source.group(index)
        size = group.crystals.mask.shape[-1]
        for one, rows in enumerate(np.split(rows_of(group)[0], NUM_SLICES)):
            walked.setdefault((size, one), []).append(rows)
    bounds = [0, *source.sizes]
    for (size, one), pieces in walked.items():
        in_bucket = (bounds[source.sizes.index(size)] < SIZES) & (size >= SIZES)
        own = [
            [
                row
                for shard in range(first, NUM_SHARDS, NUM_SLICES)
                for row in rows_in_shard(written, shard)
                if in_bucket[row]
            ]
            for first in range(NUM_SLICES)
        ]
        turn = max(len(rows) for rows in own)
        positions = np.concatenate(pieces)
        assert len(positions) >= 2 * turn
        for start in range(0, len(positions) - turn + 1, turn):
            rows = positions[start : start + turn]
            np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.sort(own[one]))


def test_over_many_epochs_every_crystal_has_the_same_weight_in_all(written):
    source = sharded_batches(written)
    total = np.zeros(len(SIZES))
    for index in range(60 * len(SIZES) // 16):
        group = source.group(index)
        rows = rows_of(group)
        real = rows >= 0
        np.add.at(total, rows[real], group.weight[real] / rows.size)
    # One more or one less of 60 visits, and what the last epoch leaves unfinished.
    np.testing.assert_allclose(total, total.mean(), rtol=0.05)


def test_turns_are_shuffled_anew(written):
    source = sharded_batches(written, batch_size=4)
    firsts = [rows_of(source.group(index))[0].tolist() for index in range(80)]
    assert len({tuple(rows) for rows in firsts}) > 70


def test_a_group_follows_from_seed_and_index_alone(written):
    forward = sharded_batches(written, steps_per_group=3)
    groups = [forward.group(index) for index in range(10)]
    for index in (9, 2, 5):
        assert_same(sharded_batches(written, steps_per_group=3).group(index), groups[index])
    other = sharded_batches(written, steps_per_group=3, seed=1)
    assert any(
        rows_of(other.group(index)).tolist() != rows_of(groups[index]).tolist()
        for index in range(3)
    )


def test_a_group_holds_the_batches_of_its_steps_one_after_the_other(tmp_path):
    written = write_shards([made_up(np.full(64, 3))], tmp_path / "train", 8, 4)
    statistics = written.statistics(False)
    single = ShardedBatches(written, statistics, 8, seed=0)
    grouped = ShardedBatches(written, statistics, 8, seed=0, steps_per_group=5)
    for index in range(3):
        rows = rows_of(grouped.group(index), 64)
        expected = [rows_of(single.group(5 * index + step), 64)[0] for step in range(5)]
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_the_parts_of_all_devices_are_the_whole_batch(written, num_devices):
    whole = sharded_batches(written, steps_per_group=3)
    readers = [sharded_batches(written, steps_per_group=3) for _ in range(num_devices)]
    for index in range(12):
        expected = whole.group(index)
        width = expected.weight.shape[1] // num_devices
        for device, reader in enumerate(readers):
            part = reader.group(index, num_devices, range(device, device + 1))
            assert_same(part, columns(expected, slice(device * width, (device + 1) * width)))


def test_a_batch_holds_the_crystals_it_names_in_network_units(written):
    dataset, statistics = made_up(), written.statistics(True)
    source = sharded_batches(written, steps_per_group=2)
    for index in range(8):
        group = source.group(index)
        rows, size = rows_of(group), group.crystals.mask.shape[-1]
        real = rows >= 0
        expected = PaddedCrystals(dataset, statistics, size=13).batch(rows[real], real[real], size)
        for field in dataclasses.fields(group.crystals):
            np.testing.assert_allclose(
                getattr(group.crystals, field.name)[real],
                getattr(expected.crystals, field.name),
                rtol=1e-6,
            )
        np.testing.assert_allclose(group.weight[real], rows.shape[1] / 16)
        assert np.isfinite(group.crystals.lattice).all()
        assert group.crystals.mask.any(axis=-1).all()


def test_a_process_opens_the_shards_of_its_own_slices_only(written, tmp_path, monkeypatch):
    opened: list[str] = []

    def recorded(path, names):
        if path.parent == tmp_path:  # readers of other tests may still read ahead
            opened.append(path.name)
        return read_arrays(path, names)

    source = sharded_batches(copy_of(written, tmp_path))
    monkeypatch.setattr("crystal_diffusion_jax.data.shards.dataset.read_arrays", recorded)
    for index in range(200):
        source.group(index, NUM_SLICES, range(1, 3))
    own = {f"shard-{shard:05d}.npz" for shard in range(NUM_SHARDS) if shard % NUM_SLICES in (1, 2)}
    assert set(opened) == own
    # The crystals asked for are this many epochs; in each turn of a bucket a shard is read once.
    epochs = 200 * 16 / len(SIZES)
    assert len(opened) <= len(own) * len(source.sizes) * (epochs + 2)


def test_two_shards_of_each_slice_and_bucket_are_in_memory(written):
    gc.collect()
    before = {id(found) for found in gc.get_objects() if isinstance(found, PaddedCrystals)}
    source = sharded_batches(written)
    for index in range(100):
        source.group(index, NUM_SLICES, range(1))
    gc.collect()
    held = [
        found
        for found in gc.get_objects()
        if isinstance(found, PaddedCrystals) and id(found) not in before
    ]
    assert len(held) <= 2 * len(source.sizes) + 1  # and the crystal that fills batches


@pytest.mark.parametrize("num_crystals", [12, 13, 40])
def test_a_bucket_that_some_slices_lack_is_filled_with_weight_0(tmp_path, num_crystals):
    num_atoms = np.array([20] * 2 + [3] * (num_crystals - 2))
    written = write_shards([made_up(num_atoms)], tmp_path / "train", 4, 4)
    source = ShardedBatches(written, written.statistics(False), 4, seed=0)
    seen = [
        rows_of(source.group(index), num_crystals)[0].tolist() for index in range(8 * num_crystals)
    ]
    assert {row for rows in seen for row in rows} == {-1, *range(num_crystals)}
    assert all(max(rows) >= 0 for rows in seen)


def test_batches_that_slices_or_devices_cannot_share_are_refused(written):
    with pytest.raises(UserError, match="batch_size a multiple of 4"):
        sharded_batches(written, batch_size=18)
    with pytest.raises(UserError, match="3 devices cannot share the 4 slices"):
        sharded_batches(written).group(0, 3, range(1))
    assert all(size % NUM_SLICES == 0 for size in sharded_batches(written, 20).batch_sizes)


def copy_of(written: ShardedDataset, folder: Path) -> ShardedDataset:
    for path in written.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return dataclasses.replace(written, folder=folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_a_damaged_shard_is_refused_by_name(written, tmp_path, damage):
    copy = copy_of(written, tmp_path)
    damage(tmp_path / "shard-00005.npz")
    # In groups of 60 steps the first one of a bucket needs most shards.
    source = sharded_batches(copy, steps_per_group=60)
    with pytest.raises(UserError, match=r"shard-00005\.npz is missing or damaged"):
        source.group(0)


def arrays_of(dataset: ShardedDataset, name: str) -> dict[str, np.ndarray]:
    with np.load(dataset.folder / name, allow_pickle=False) as stored:
        return dict(stored)


def with_arrays(
    dataset: ShardedDataset, arrays: dict[str, np.ndarray], save: Callable[..., None] = np.savez
) -> ShardedDataset:
    """The same index but for the length of the first shard, which holds other arrays."""
    path = dataset.folder / dataset.shards[0].file
    save(path, **arrays)
    first = dataclasses.replace(dataset.shards[0], num_bytes=path.stat().st_size)
    return dataclasses.replace(dataset, shards=(first, *dataset.shards[1:]))


def test_a_shard_that_is_not_what_its_index_describes_is_refused(written, tmp_path):
    copy = copy_of(written, tmp_path)
    arrays = arrays_of(copy, copy.shards[0].file)
    assert len(with_arrays(copy, arrays).read(0, copy.sizes)) == sum(copy.shards[0].counts)
    size = next(n for n, count in zip(copy.sizes, copy.shards[0].counts, strict=True) if count)
    for name, change in (
        ("lattice", lambda array: array[:, :2]),
        ("lattice", lambda array: array[1:]),
        ("lattice", lambda array: array.astype("U")),
        ("frac_coords", lambda array: array[:, 1:]),
        ("atomic_numbers", lambda array: array.astype(np.float32)),
        ("properties", lambda array: array[:, :0]),
        ("properties", lambda array: array[:, 0]),
        ("properties", lambda array: np.full(array.shape, None, dtype=object)),
    ):
        key = f"{name}_{size}"
        other = with_arrays(copy, arrays | {key: change(arrays[key])})
        with pytest.raises(UserError, match=r"shard-00000\.npz is missing or damaged"):
            other.read(0, copy.sizes)
    bomb = with_arrays(copy, arrays | {"lattice_1": np.zeros((10**6, 3, 3))}, np.savez_compressed)
    with pytest.raises(UserError, match="would expand to"):
        bomb.read(0, copy.sizes)


@pytest.mark.parametrize(
    ("num_shards", "num_slices", "sentence"),
    [
        (6, 4, "6 shards are no multiple of 4 slices"),
        (0, 1, "0 shards"),
        (4, 0, "0 slices"),
        (300, 1, "of 300 shards would get none of 211 crystals"),
    ],
)
def test_numbers_of_shards_that_do_not_fit_are_refused(tmp_path, num_shards, num_slices, sentence):
    folder = tmp_path / "train"
    with pytest.raises(UserError, match=sentence):
        write_shards([made_up()], folder, num_shards, num_slices)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(UserError, match="is not empty"):
        write_shards([made_up()], tmp_path, 4, 4)
    assert (tmp_path / "precious").exists()


def test_parts_with_other_properties_are_refused_and_leave_nothing(tmp_path):
    other = dataclasses.replace(made_up(), property_names=("row", "else"))
    with pytest.raises(UserError, match="row, else after row, constant"):
        write_shards([made_up(), other], tmp_path, 4, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(written, tmp_path) -> Path:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        copy_of(written, tmp_path / split)
    return tmp_path


def test_a_folder_of_shards_is_told_from_other_data(folder):
    assert holds_shards(str(folder))
    assert not holds_shards(str(folder / "train"))
    assert not holds_shards("")


def test_properties_can_be_chosen_when_shards_are_opened(folder, written):
    opened = open_splits(DataConfig(root=str(folder), properties=("constant",)))
    assert set(opened) == {"train", "val"}
    np.testing.assert_array_equal(opened["val"].whole().properties, np.full((211, 1), 0.1))
    assert opened["train"].statistics(True).property_names == ("constant",)
    assert opened["train"].checksum() != written.checksum()
    assert open_splits(DataConfig(root=str(folder)))["train"].checksum() == written.checksum()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"properties": ("colour",)}, "has no property colour; it has row, constant"),
        ({"name": "perov5"}, "has no property heat_ref"),
        ({"max_num_atoms": 12}, "up to 13 atoms, more than max_num_atoms=12"),
    ],
)
def test_what_the_shards_do_not_have_is_refused(folder, options, sentence):
    with pytest.raises(UserError, match=sentence):
        open_splits(DataConfig(root=str(folder), **options))


def test_an_index_that_is_damaged_newer_or_missing_is_refused(folder):
    index = folder / "val" / INDEX
    text = index.read_text()
    for damaged in ("{", "{}", text.replace('"sizes"', '"size"'), "[]"):
        index.write_text(damaged)
        with pytest.raises(UserError, match=r"index\.json is damaged"):
            open_splits(DataConfig(root=str(folder)))
    fields = json.loads(text)
    shard, *others = fields["shards"]
    changes: list[dict[str, Any]] = [
        {"shards": [shard | {"counts": shard["counts"][1:]}, *others]},
        {"shards": [shard | {"counts": [10**18] * len(shard["counts"])}, *others]},
        {"shards": [shard | {"counts": ["1"] * len(shard["counts"])}, *others]},
        {"shards": [shard | {"file": "../val/shard-00000.npz"}, *others]},
        {"shards": [shard | {"file": "/dev/zero"}, *others]},
        {"shards": []},
        {"shards": [None]},
        {"num_slices": 0},
        {"num_slices": len(fields["shards"]) + 1},
        {"sizes": fields["sizes"][::-1]},
        {"sizes": [10**9 + size for size in fields["sizes"]]},
        {"columns": [-1] * len(fields["columns"])},
        {"property_mean": [None] * len(fields["property_mean"])},
        {"lattice_scales": [1.0]},
        {"lattice_scales": [1.0, 0.0]},
        {"vocabulary": [119]},
    ]
    for change in changes:
        index.write_text(json.dumps(fields | change))
        with pytest.raises(UserError, match=r"index\.json is damaged"):
            open_splits(DataConfig(root=str(folder)))
    index.write_text(json.dumps(fields | {"format_version": 99}))
    with pytest.raises(UserError, match="newer version"):
        open_splits(DataConfig(root=str(folder)))
    index.unlink()
    with pytest.raises(UserError, match="no shards of val"):
        open_splits(DataConfig(root=str(folder)))


def in_shards(folder: Path) -> ExperimentConfig:
    """The smoke run with its data in shards."""
    write_shards(in_parts(splits()["train"]), folder / "train", 8, 4)
    write_shards([splits()["val"]], folder / "val", 1, 1)
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, root=str(folder)))


def test_training_reads_the_shards_and_knows_its_data(tmp_path, monkeypatch):
    config, workdir = in_shards(tmp_path / "shards"), tmp_path / "run"
    begun: list[Inputs] = []
    monkeypatch.setattr(loop, "_train", lambda config, inputs, *rest: begun.append(inputs))
    train(config, open_splits(config.data), workdir, lambda line: None)
    assert isinstance(begun[0].batches, ShardedBatches)
    assert begun[0].num_train == len(splits()["train"])
    assert sum(batch.weight.sum() for batch in begun[0].validation) == len(splits()["val"])
    with pytest.raises(UserError, match="other data"):
        train(CONFIG, splits(), workdir, lambda line: None)
    assert len(begun) == 1


@pytest.mark.slow
def test_training_from_shards_runs_to_its_end(tmp_path):
    config, workdir = in_shards(tmp_path / "shards"), tmp_path / "run"
    lines: list[str] = []
    model = train(config, open_splits(config.data), workdir, lines.append)
    assert (model / "weights.npz").is_file()
    train(config, open_splits(config.data), workdir, lines.append)
    assert any("trained already" in line for line in lines)
