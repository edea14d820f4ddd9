"""data/load.py and locate.py: from a name or a path to checked data sets."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import load as loading
from crystal_diffusion_jax.data import locate
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.data.perovskites import abx3_dataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import workers


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's own data or cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(folder))
    monkeypatch.delenv("CRYSTAL_DIFFUSION_DATA", raising=False)
    return folder


SALTS = [(a, b) for a in ("Na", "K", "Rb", "Li") for b in ("F", "Cl", "Br", "I", "H")]


def rock_salt(edge: float, salt: tuple[str, str] = ("Na", "Cl")) -> str:
    """The cubic cell of eight atoms, without its symmetry, which takes long to read."""
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    sites = [*corners, *(corners + np.array([0.5, 0.0, 0.0]))]
    species = [salt[0]] * 4 + [salt[1]] * 4
    return str(CifWriter(Structure(Lattice.cubic(edge), species, sites)))


SITES = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
CIFS = [rock_salt(5.0 + 0.1 * i, salt) for i, salt in enumerate(SALTS)]


def table(
    num_rows: int, column: str = "energy", first: float = 0.0, bad: tuple[int, ...] = ()
) -> str:
    """A csv whose row i (from 1) has the id m<i> and the property first + i."""
    lines = [f"material_id,{column},cif"]
    for row in range(1, num_rows + 1):
        cif = "nonsense" if row in bad else CIFS[row % len(CIFS)]
        lines.append(f'm{row},{first + row},"{cif}"')
    return "\n".join(lines) + "\n"


def write_splits(folder: Path, column: str = "energy", **sizes: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        (folder / f"{split}.csv").write_text(table(size, column))
    return folder


# Where known data come from


def test_the_places_are_searched_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    def num_train(root: str = "") -> int:
        return len(load(DataConfig("perov5", root), progress=False)["train"])

    write_splits(cache_folder / "data" / "perov5", "heat_ref", train=1, val=1)
    write_splits(tmp_path / "shared" / "perov5", "heat_ref", train=2, val=1)
    write_splits(tmp_path / "own", "heat_ref", train=3, val=1)
    assert num_train() == 1
    monkeypatch.setenv("CRYSTAL_DIFFUSION_DATA", str(tmp_path / "elsewhere"))
    assert num_train() == 1
    monkeypatch.setenv("CRYSTAL_DIFFUSION_DATA", str(tmp_path / "shared"))
    assert num_train() == 2
    assert num_train(str(tmp_path / "own")) == 3


def test_data_that_are_nowhere_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_DATA", str(tmp_path / "shared"))
    with pytest.raises(UserError) as caught:
        load(DataConfig("mp20"))
    for part in (
        str(tmp_path / "shared" / "mp20"),
        str(cache_folder / "data" / "mp20"),
        "python -m experiments.prepare --dataset=mp20",
    ):
        assert part in str(caught.value)


def test_a_wrong_root_never_falls_through_to_the_next_place(
    tmp_path: Path, cache_folder: Path
) -> None:
    write_splits(cache_folder / "data" / "perov5", "heat_ref", train=1, val=1)
    with pytest.raises(UserError, match="not a folder"):
        load(DataConfig("perov5", root=str(tmp_path / "mistyped")))


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "own", "heat_ref", train=1, test=1)
    with pytest.raises(UserError, match=r"no val\.csv"):
        load(DataConfig("perov5", root=str(root)))


def test_of_known_data_only_the_splits_that_are_asked_for_are_read(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "own", "heat_ref", train=4, val=2)
    (root / "test.csv").write_text(table(1, "heat_ref", bad=(1,)))
    config = DataConfig("perov5", root=str(root))
    splits = load(config, progress=False, splits=("train", "val"))
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 4, "val": 2}
    with pytest.raises(UserError, match=r"1 of 7 rows(.|\n)*test\.csv row 1"):
        load(config, progress=False)


def test_worker_processes_are_started_early_for_a_large_table_that_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[None] = []
    monkeypatch.setattr(workers, "start_server", lambda: starts.append(None))
    root = write_splits(tmp_path / "own", "heat_ref", train=4, val=2)
    config = DataConfig("perov5", root=str(root))
    load(config, progress=False)
    assert len(starts) == 0
    size = (root / "train.csv").stat().st_size
    monkeypatch.setattr(loading, "_LARGE", size - 1)
    (root / "train.csv").write_text(table(4, "heat_ref", first=1.0))
    for _ in range(2):
        load(config, progress=False)
        assert len(starts) == 1


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYSTAL_DIFFUSION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert locate.cache_folder() == Path("/xdg/crystal-diffusion-jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert locate.cache_folder() == Path("/home/someone/.cache/crystal-diffusion-jax")


# The user's own data


def test_one_table_is_split_at_random_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table(20))
    splits = load(DataConfig(root=str(path), properties=("energy",), val_fraction=0.25), False)
    assert {name: len(part) for name, part in splits.items()} == {"train": 15, "val": 5}
    ids = [material_id for part in splits.values() for material_id in part.material_ids]
    assert sorted(ids) == sorted(f"m{row}" for row in range(1, 21))
    for part in splits.values():  # a row keeps its own property: m7 has 7
        np.testing.assert_array_equal(
            part.properties[:, 0], [float(material_id[1:]) for material_id in part.material_ids]
        )


def _chain(num: int) -> np.ndarray:
    """[num + 1, 3] sites one above the other."""
    return np.arange(num + 1)[:, None] / (num + 1) * np.array([0.0, 0.0, 1.0])


def test_the_only_crystal_with_an_element_stays_in_train(tmp_path: Path) -> None:
    salts = [Structure(Lattice.cubic(3.0), ["Na", *["Cl"] * n], _chain(n)) for n in range(1, 7)]
    others = [("K", "Br"), ("Li", "F"), ("Rb", "I"), ("Ag", "Cl")]
    salts += [Structure(Lattice.cubic(3.5), pair, SITES) for pair in others]
    lines = ["material_id,energy,cif"]
    for row, structure in enumerate(salts):
        lines.append(f'{row},{row},"{CifWriter(structure)}"')
    (tmp_path / "salts.csv").write_text("\n".join(lines))
    held_out = set()
    for seed in range(20):  # each of the six is left out of all with probability 2^-20
        config = DataConfig(
            root=str(tmp_path / "salts.csv"), properties=("energy",), val_fraction=0.3, seed=seed
        )
        splits = load(config, progress=False)
        assert len(splits["val"]) == 3
        assert set(splits["train"].atomic_numbers) == {11, 17, 19, 35, 3, 9, 37, 53, 47}
        held_out |= set(splits["val"].material_ids)
    assert held_out == {str(row) for row in range(6)}


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table(20))

    def val_ids(seed: int) -> list[str]:
        config = DataConfig(root=str(path), properties=("energy",), seed=seed)
        return list(load(config, progress=False)["val"].material_ids)

    assert val_ids(1) == val_ids(1)
    assert len({tuple(val_ids(seed)) for seed in range(10)}) > 1


def test_a_folder_of_cif_files_with_a_csv_is_read(tmp_path: Path) -> None:
    for name, cif in zip("abc", CIFS[:3], strict=True):
        (tmp_path / f"{name}.cif").write_text(cif)
    (tmp_path / "values.csv").write_text("filename,energy,gap\na.cif,1,5\nb,2,6\nc,3,7\n")
    config = DataConfig(root=str(tmp_path), properties=("gap", "energy"))
    splits = load(config, progress=False)
    rows = np.concatenate([splits["train"].properties, splits["val"].properties])
    edges = np.concatenate([splits["train"].lattice[:, 0, 0], splits["val"].lattice[:, 0, 0]])
    order = np.argsort(edges)
    np.testing.assert_array_equal(rows[order], [[5, 1], [6, 2], [7, 3]])


def test_a_split_in_several_files_is_read_as_one(tmp_path: Path) -> None:
    # test_old.csv does not count beside test.csv.
    root = write_splits(tmp_path / "own", train_0=2, val=1, test=1, test_old=3)
    (root / "train_1.csv.gz").write_bytes(gzip.compress((root / "train_0.csv").read_bytes()))
    splits = load(DataConfig(root=str(root), properties=("energy",)), progress=False)
    assert {name: len(part) for name, part in splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert splits["train"].properties[:, 0].tolist() == [1.0, 2.0, 1.0, 2.0]


def test_cif_files_need_exactly_one_csv(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIFS[0])
    config = DataConfig(root=str(tmp_path), properties=("energy",))
    with pytest.raises(UserError, match="found: none"):
        load(config)
    (tmp_path / "one.csv").write_text("file,energy\na,1\n")
    (tmp_path / "two.csv").write_text("file,energy\na,1\n")
    with pytest.raises(UserError, match=r"found: one\.csv, two\.csv"):
        load(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="perov"), "Unknown data set 'perov': choose one of perov5"),
        (DataConfig(root="x"), "both root .* and properties"),
        (DataConfig(properties=("energy",)), "both root .* and properties"),
        (DataConfig(root="/missing.csv", properties=("energy",)), "does not exist"),
        (DataConfig(root=__file__, properties=("energy",)), "neither a folder nor a .csv"),
        (DataConfig("abx3", root="x"), "takes no root"),
        (DataConfig("abx3", properties=("gap",)), "no property gap"),
        (DataConfig("abx3", max_num_atoms=4), "more than max_num_atoms=4"),
    ],
)
def test_a_wrong_setting_is_refused(config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(config)


def test_too_few_rows_to_split_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table(1))
    with pytest.raises(UserError, match="too few"):
        load(DataConfig(root=str(path), properties=("energy",)), progress=False)


def test_the_built_in_data_are_split_without_loss() -> None:
    whole = abx3_dataset()
    splits = load(DataConfig("abx3"))
    assert list(splits) == ["train", "val", "test"]
    assert len(splits["val"]) == len(splits["test"]) == round(0.1 * len(whole))
    ids = [material_id for part in splits.values() for material_id in part.material_ids]
    assert sorted(ids) == sorted(whole.material_ids)


# Bad rows


def test_bad_rows_are_refused_with_the_first_ten_and_the_total(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "own", train=2, val=2)
    (root / "train.csv").write_text(table(11, bad=tuple(range(2, 11))))
    (root / "val.csv").write_text(table(4, bad=(1, 2, 3)))
    with pytest.raises(UserError) as caught:
        load(DataConfig(root=str(root), properties=("energy",)), progress=False)
    message = str(caught.value)
    assert "12 of 15 rows" in message
    assert str(root) in message
    listed = [
        line.split(":")[0].strip() for line in message.splitlines() if "neither a CIF" in line
    ]
    assert listed == [f"train.csv row {row} (m{row})" for row in range(2, 11)] + [
        "val.csv row 1 (m1)"
    ]
    assert "and 2 more" in message
    assert "--config.data.skip_bad_rows=True" in message


def test_dropped_rows_are_told_also_when_the_data_are_cached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table(12, bad=(3, 8)))
    config = DataConfig(root=str(path), properties=("energy",), skip_bad_rows=True)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="crystal_diffusion_jax"):
            splits = load(config, progress=False)
        assert sum(len(part) for part in splits.values()) == 10
        (line,) = caplog.messages
        assert "dropped 2 bad rows of 12" in line
        assert "mine.csv row 3 (m3): neither a CIF" in line


def test_cif_files_without_a_row_are_listed_after_the_rows(tmp_path: Path) -> None:
    for name in ("a", "stray"):
        (tmp_path / f"{name}.cif").write_text("nonsense")
    rows = "".join(f"lost{row},1\n" for row in range(1, 6))
    (tmp_path / "values.csv").write_text(f"file,energy\n{rows}a,1\n")
    with pytest.raises(UserError) as caught:
        load(DataConfig(root=str(tmp_path), properties=("energy",)), progress=False)
    listed = [line.split(" (")[0].strip() for line in str(caught.value).splitlines()[1:-1]]
    assert listed == [f"values.csv row {row}" for row in range(1, 7)] + ["stray.cif"]


def test_crystals_over_the_size_limit_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table(3))
    config = DataConfig(root=str(path), properties=("energy",), max_num_atoms=7)
    with pytest.raises(UserError, match=r"3 of 3 rows(.|\n)*too many atoms: 8, the limit is 7"):
        load(config, progress=False)


def test_data_without_any_usable_row_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.csv"
    config = DataConfig(root=str(path), properties=("energy",), skip_bad_rows=True)
    for text in (table(2, bad=(1, 2)), table(0)):
        path.write_text(text)
        with pytest.raises(UserError, match="no usable crystal"):
            load(config, progress=False)
    assert "dropped 2 bad rows of 2" in caplog.text
