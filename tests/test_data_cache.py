"""data/prepared.py: cached data come back as they were, and only when nothing has changed."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import load as loading
from crystal_diffusion_jax.data import locate, prepared, read
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.data.tables import BadRow
from crystal_diffusion_jax.runtime.files import file_sha256
from crystal_diffusion_jax.structures.compositions import SYMBOLS
from tests.crystal_sets import assert_same
from tests.hostile_arrays import objects

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's own cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(folder))
    return folder


def polonium(edge: float, symbol: str = "Po") -> str:
    """CIF of a simple cubic crystal."""
    return (
        f"data_{symbol}\n_cell_length_a {edge}\n_cell_length_b {edge}\n_cell_length_c {edge}\n"
        "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
        "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
        "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        f"{symbol}1 0 0 0\n"
    )


def table(num_rows: int, first: int = 0) -> str:
    """Crystals of different elements."""
    rows = (
        f'm{row},{row},"{polonium(3 + 0.1 * row, SYMBOLS[1 + row])}"\n'
        for row in range(first, first + num_rows)
    )
    return "material_id,energy,cif\n" + "".join(rows)


def write_splits(folder: Path, **sizes: int) -> Path:
    folder.mkdir()
    first = 0
    for split, size in sizes.items():
        (folder / f"{split}.csv").write_text(table(size, first))
        first += size
    return folder


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on only cached data can be loaded."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(read, "read", refuse)


def test_prepared_data_are_loaded_without_parsing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = write_splits(tmp_path / "own", train=3, val=2)
    config = DataConfig(root=str(root), properties=("energy",))
    first = load(config, progress=False)
    request.getfixturevalue("no_parser")
    second = load(config, progress=False)
    for split in first:
        assert_same(first[split], second[split])
    moved = root.rename(tmp_path / "moved")
    for split, dataset in load(DataConfig(root=str(moved), properties=("energy",))).items():
        assert_same(first[split], dataset)


def test_anything_that_changes_the_arrays_is_prepared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("cif,energy,gap\ntext,1,2\n")
    source = locate.own_sources(str(path))[locate.UNSPLIT]
    keys = {
        loading.content_key(source, ("energy",), 0),
        loading.content_key(source, ("energy", "gap"), 0),
        loading.content_key(source, ("gap", "energy"), 0),
        loading.content_key(source, ("energy",), 5),
    }
    path.write_text("cif,energy,gap\ntext,1,3\n")
    keys.add(loading.content_key(source, ("energy",), 0))
    monkeypatch.setattr(loading, "READER_VERSION", loading.READER_VERSION + 1)
    keys.add(loading.content_key(source, ("energy",), 0))
    for library in ("pymatgen-core", "gemmi", "spglib"):
        versions = {"pymatgen-core": "1", "gemmi": "1", "spglib": "1"} | {library: "2999.1.1"}
        monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
        keys.add(loading.content_key(source, ("energy",), 0))
    assert len(keys) == 9


def test_a_changed_cif_file_is_prepared_anew(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(polonium(3.0))
    (tmp_path / "values.csv").write_text("file,energy\na,1\n")
    source = locate.own_sources(str(tmp_path))[locate.UNSPLIT]
    before = loading.content_key(source, ("energy",), 0)
    (tmp_path / "a.cif").write_text(polonium(4.0))
    assert loading.content_key(source, ("energy",), 0) != before


@pytest.mark.parametrize("content", [b"", b"no array"])
def test_damaged_groups_are_found_again(cache_folder: Path, content: bytes) -> None:
    def groups(*found: int) -> list[int]:
        return prepared.prepare_groups("key", 3, lambda: np.array(found)).tolist()

    assert groups(0, 0, 1) == groups(0, 1, 2) == [0, 0, 1]
    (cached,) = (cache_folder / "copies").iterdir()
    cached.write_bytes(content)
    assert groups(0, 1, 2) == groups(0, 0, 1) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("frac_coords.npy", damage) for damage in ("cut", "bits", "empty", "text", "gone")),
        ("material_ids.npy", "bits"),
        ("meta.json", "bits"),
        ("meta.json", "gone"),
    ],
)
def test_a_damaged_cache_file_is_made_again(
    tmp_path: Path, cache_folder: Path, damage: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_splits(tmp_path / "own", train=5, val=1)
    config = DataConfig(root=str(root), properties=("energy",))
    # Copies, as what follows would change the maps.
    first = {name: d.take(np.arange(len(d))) for name, d in load(config, progress=False).items()}
    tables = set((cache_folder / "prepared").iterdir())
    assert len(tables) == 2
    cached = next(folder for folder in tables if len(np.load(folder / "num_atoms.npy")) == 5) / name
    content = cached.read_bytes()
    middle = len(content) // 2
    flipped = bytes(255 - byte for byte in content[middle : middle + 200])
    cached.write_bytes(
        {
            "cut": content[:middle],
            "bits": content[:middle] + flipped + content[middle + 200 :],
            "empty": b"",
            "text": b"not an array",
            "gone": b"",
        }[damage]
    )
    if damage == "gone":
        cached.unlink()
    again = load(config, progress=False)
    for split in first:
        assert_same(first[split], again[split])
    assert "damaged" in caplog.text
    caplog.clear()
    load(config, progress=False)
    assert caplog.text == ""
    assert set((cache_folder / "prepared").iterdir()) == tables


def test_a_cache_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "file" / "cache"))
    root = write_splits(tmp_path / "own", train=3, val=2, test=1)
    with pytest.warns(UserWarning, match="CRYSTAL_DIFFUSION_CACHE") as warned:
        splits = load(DataConfig(root=str(root), properties=("energy",)), progress=False)
    assert len({str(warning.message) for warning in warned}) == 1
    assert len(splits["train"]) == 3


def test_cached_data_load_without_jax_and_pymatgen(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "own", train=2, val=1)
    load(DataConfig(root=str(root), properties=("energy",)), progress=False)
    program = (
        "import sys\n"
        "from crystal_diffusion_jax.data.load import DataConfig, load\n"
        f"load(DataConfig(root={str(root)!r}, properties=('energy',)))\n"
        "print([name for name in ('jax', 'pymatgen', 'absl') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system with the given options as the cache's folder."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        return place

    yield mount
    if place.is_mount():
        # Lazily: arrays that are mapped from it may not have been collected yet.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("options", ["size=4k", "ro"], ids=["full disk", "read-only"])
def test_a_cache_without_room_or_permission_costs_one_warning_and_leaves_no_half(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mounted: Callable[[str], Path],
    options: str,
) -> None:
    folder = mounted(options)
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(folder))
    root = write_splits(tmp_path / "own", train=30, val=2, test=1)
    config = DataConfig(root=str(root), properties=("energy",))
    with pytest.warns(UserWarning, match="CRYSTAL_DIFFUSION_CACHE") as warned:
        splits = load(config, progress=False)
    assert len({str(warning.message) for warning in warned}) == 1
    assert caplog.text == ""
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 30,
        "val": 2,
        "test": 1,
    }
    # A small table may have found room; none is left half-written.
    kept = list((folder / "prepared").glob("*"))
    assert len(kept) < 3
    for path in kept:
        prepared.read_folder(path)
    if options != "ro":
        subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
        again = load(config, progress=False)
        for split in splits:
            assert_same(splits[split], again[split])
        assert len(list((folder / "prepared").iterdir())) == 3


def test_a_random_split_is_cached_too_and_read_as_maps(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table(10))
    config = DataConfig(root=str(path), properties=("energy",))
    monkeypatch.setattr(loading, "_CHUNK", 4)
    first = load(config, progress=False)
    request.getfixturevalue("no_parser")
    second = load(config, progress=False)
    for split in ("train", "val"):
        assert_same(first[split], second[split])
        assert isinstance(second[split].frac_coords.base, np.memmap)
        assert not second[split].frac_coords.flags.writeable
    assert len(first["train"]) == 9


def test_what_killed_runs_left_behind_is_removed_after_a_day(
    tmp_path: Path, cache_folder: Path
) -> None:
    days_old = {"preparing-old": 2, "preparing-new": 0.5}
    for name, days in days_old.items():
        (cache_folder / "prepared" / name).mkdir(parents=True)
        then = time.time() - 24 * 3600 * days
        os.utime(cache_folder / "prepared" / name, (then, then))
    path = tmp_path / "mine.csv"
    path.write_text(table(5))
    load(DataConfig(root=str(path), properties=("energy",)), progress=False)
    left = {path.name for path in (cache_folder / "prepared").glob("preparing-*")}
    assert left == {"preparing-new"}


def test_a_table_without_crystals_and_many_bad_rows_is_kept_within_bounds(tmp_path: Path) -> None:
    bad = BadRow("a.csv", 1, "a-1", "no reason")
    prepared.write_folder(tmp_path, ("energy", "gap"), [bad] * 5000)
    table = prepared.read_folder(tmp_path)
    assert (len(table.dataset), len(table.bad_rows), table.num_bad_rows) == (0, 1000, 5000)
    assert table.bad_rows[0] == bad
    assert table.dataset.properties.shape == (0, 2)
    assert table.dataset.frac_coords.shape == (0, 3)


def test_objects_in_cached_arrays_are_never_unpickled(tmp_path: Path) -> None:
    prepared.write_folder(tmp_path, (), [])
    mark = tmp_path / "executed"
    np.save(tmp_path / "lattice.npy", objects(mark), allow_pickle=True)
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["sha256"]["lattice"] = file_sha256(tmp_path / "lattice.npy")
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="Python objects"):
        prepared.read_folder(tmp_path)
    assert not mark.exists()
