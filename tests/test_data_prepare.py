"""experiments/prepare.py and program.py: what the program gets, prints and ends with."""

import dataclasses
import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np
import pooch
import pytest

from crystal_diffusion_jax.cli import prepare, program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
from crystal_diffusion_jax.data.shards.splits import open_splits
from crystal_diffusion_jax.errors import UserError

CIF = (
    "data_Po\n_cell_length_a 3.35\n_cell_length_b 3.35\n_cell_length_c 3.35\n"
    "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
    "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
    "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n"
    "_atom_site_fract_y\n_atom_site_fract_z\nPo1 Po 0 0 0\n"
)
NUM_ROWS = {"train": 3, "val": 2, "test": 1}
CONTENT = {
    split: ("material_id,heat_ref,cif\n" + f'id,0.5,"{CIF}"\n' * size).encode()
    for split, size in NUM_ROWS.items()
}
SPEC = dataclasses.replace(
    KNOWN_DATASETS["perov5"],
    sha256={split: hashlib.sha256(CONTENT[split]).hexdigest() for split in SPLITS},
)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CRYSTAL_DIFFUSION_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a server that sends CONTENT in place of the network; the list of its requests."""
    urls: list[str] = []

    def answer(self: pooch.HTTPDownloader, url: str, output_file: str, *_: object) -> None:
        urls.append(url)
        content = {SPEC.url(split): CONTENT[split] for split in SPLITS}[url]
        Path(output_file).write_bytes(content)

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", answer)
    return urls


def run_prepare(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", *flags])
    prepare.main()


def test_prepare_downloads_prepares_and_sums_up(
    monkeypatch: pytest.MonkeyPatch,
    requests: list[str],
    cache_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(prepare, "KNOWN_DATASETS", {"perov5": SPEC})
    run_prepare(monkeypatch, "--dataset=perov5")
    output = capsys.readouterr().out
    assert len(requests) == 3
    assert (cache_folder / "data" / "perov5" / "train.csv").is_file()
    assert hashlib.sha256(CONTENT["train"]).hexdigest() in output
    assert "heat_ref (eV/cell)" in output
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line}
    assert {split: int(rows[split][1]) for split in SPLITS} == NUM_ROWS
    assert len(list((cache_folder / "prepared").iterdir())) == 3
    run_prepare(monkeypatch, "--dataset=perov5")
    assert len(requests) == 3


@pytest.mark.parametrize("place", ["root", "variable"])
def test_prepare_downloads_nothing_that_is_given(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[str],
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    (tmp_path / "perov5").mkdir()
    for split in SPLITS:
        (tmp_path / "perov5" / f"{split}.csv").write_bytes(CONTENT[split])
    flags = ["--dataset=perov5"]
    if place == "root":
        flags.append(f"--root={tmp_path / 'perov5'}")
    else:
        monkeypatch.setenv("CRYSTAL_DIFFUSION_DATA", str(tmp_path))
    run_prepare(monkeypatch, *flags)
    assert requests == []
    assert "train" in capsys.readouterr().out


def test_prepare_takes_packed_files_that_were_put_into_the_cache_by_hand(
    monkeypatch: pytest.MonkeyPatch, requests: list[str], cache_folder: Path
) -> None:
    monkeypatch.setattr(prepare, "KNOWN_DATASETS", {"perov5": SPEC})
    folder = cache_folder / "data" / "perov5"
    folder.mkdir(parents=True)
    for split in SPLITS:
        (folder / f"{split}.csv.gz").write_bytes(gzip.compress(CONTENT[split]))
    run_prepare(monkeypatch, "--dataset=perov5")
    assert requests == []


def test_prepare_goes_on_without_bad_rows_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.csv").write_bytes(CONTENT[split] + b"bad,0.5,nonsense\n")
    flags = ["--dataset=perov5", f"--root={tmp_path}"]
    with pytest.raises(UserError, match="--skip_bad_rows"):
        run_prepare(monkeypatch, *flags)
    run_prepare(monkeypatch, *flags, "--skip_bad_rows")
    assert "train" in capsys.readouterr().out


def write_parts(folder: Path) -> Path:
    """Three parts of train, one each a csv, a packed csv and arrays, and one of val."""
    folder.mkdir()
    (folder / "train-0.csv").write_bytes(CONTENT["train"])
    (folder / "train-1.csv.gz").write_bytes(gzip.compress(CONTENT["val"]))
    np.savez(
        folder / "train-2.npz",
        lattice=np.tile(3.0 * np.eye(3), (2, 1, 1)),
        num_atoms=np.array([1, 2]),
        frac_coords=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),
        atomic_numbers=np.array([84, 55, 17]),
        properties=np.array([[7.0, -1.0], [8.0, -2.0]]),
        property_names=np.array(["else", "heat_ref"]),
    )
    (folder / "val.csv").write_bytes(CONTENT["val"])
    return folder


def test_parts_of_all_kinds_become_shards_that_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, out = write_parts(tmp_path / "parts"), tmp_path / "shards"
    flags = [f"--parts={parts}", "--properties=heat_ref", f"--out={out}"]
    run_prepare(monkeypatch, *flags, "--shards=4", "--slices=2")
    said = capsys.readouterr().out
    assert "train: 7 crystals of 1 to 2 atoms in 4 shards of 2 slices" in said
    assert f"--config.data.root={out}" in said
    splits = open_splits(DataConfig(root=str(out)))
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 7, "val": 2}
    whole = splits["train"].whole()
    assert sorted(whole.properties[:, 0]) == [-2.0, -1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert sorted(whole.atomic_numbers.tolist()) == [17, 55, *[84] * 6]


def test_a_known_data_set_becomes_shards(
    monkeypatch: pytest.MonkeyPatch, requests: list[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(prepare, "KNOWN_DATASETS", {"perov5": SPEC})
    run_prepare(monkeypatch, "--dataset=perov5", "--shards=3", f"--out={tmp_path / 'shards'}")
    splits = open_splits(DataConfig(name="perov5", root=str(tmp_path / "shards")))
    assert {split: len(dataset) for split, dataset in splits.items()} == NUM_ROWS
    assert splits["train"].num_slices == 1  # the only power of two that divides 3


def test_a_bad_row_in_a_part_is_named_and_leaves_no_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, out = write_parts(tmp_path / "parts"), tmp_path / "shards"
    with gzip.open(parts / "train-1.csv.gz", "ab") as file:
        file.write(b"bad,0.5,nonsense\n")
    flags = [f"--parts={parts}", "--properties=heat_ref", f"--out={out}", "--shards=2"]
    with pytest.raises(UserError, match=r"train-1\.csv\.gz row 3"):
        run_prepare(monkeypatch, *flags)
    assert list((out / "train").iterdir()) == []
    run_prepare(monkeypatch, *flags, "--skip_bad_rows", "--max_num_atoms=1")
    assert len(open_splits(DataConfig(root=str(out)))["train"]) == 6


def test_arrays_that_are_no_data_set_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = write_parts(tmp_path / "parts")
    arrays = dict(np.load(parts / "train-2.npz", allow_pickle=False))
    flags = [f"--parts={parts}", "--shards=2", f"--out={tmp_path / 'shards'}"]
    (parts / "train-0.csv").unlink()
    (parts / "train-1.csv.gz").unlink()
    with pytest.raises(UserError, match=r"train-2\.npz has no property colour"):
        run_prepare(monkeypatch, *flags, "--properties=colour")
    spoilt = [
        {"lattice": arrays["lattice"][:1]},
        {"properties": np.full((2, 2), np.nan)},
        {"frac_coords": arrays["frac_coords"] + 1.0},
        {"atomic_numbers": np.array([0, 1, 2])},
    ]
    for change in spoilt:
        np.savez(parts / "train-2.npz", **(arrays | change))
        with pytest.raises(UserError, match=rf"train-2\.npz.*{next(iter(change))}"):
            run_prepare(monkeypatch, *flags, "--properties=heat_ref")
    thousand = {"num_atoms": np.array([1, 1001]), "frac_coords": np.zeros((1002, 3))}
    absurd = [
        ({"lattice": np.tile(1e200 * np.eye(3), (2, 1, 1))}, "crystal 1: cell vector longer than"),
        ({"lattice": np.tile(np.diag([3, 3, 0.01]), (2, 1, 1))}, "crystal 1: .* shorter than 0.1"),
        ({"lattice": np.ones((2, 3, 3))}, "crystal 1: volume below 0.1"),
        ({"properties": np.array([[7.0, -1.0], [8.0, 1e300]])}, "crystal 2: a property beyond"),
        (thousand | {"atomic_numbers": np.ones(1002, int)}, "crystal 2: more than 1000 atoms"),
    ]
    for change, reason in absurd:
        np.savez(parts / "train-2.npz", **(arrays | change))
        with pytest.raises(UserError, match=rf"train-2\.npz.*{reason}"):
            run_prepare(monkeypatch, *flags, "--properties=heat_ref")
    (parts / "train-2.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"train-2\.npz does not hold the arrays"):
        run_prepare(monkeypatch, *flags, "--properties=heat_ref")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "nothing to prepare"),
        (["--dataset=perov5", "--shards=4"], "--shards and --out need one another"),
        (["--parts=x", "--shards=4", "--out=y"], "--parts needs --properties"),
        (["--parts=x", "--properties=a"], "--parts needs --properties=NAME,NAME, --shards"),
        (["--dataset=perov5", "--parts=x"], "exclude one another"),
        (["--dataset=perov5", "--slices=4"], "--slices needs --shards"),
        (["--parts=/missing", "--properties=a", "--shards=4", "--out=y"], "is no folder"),
        (["--parts=.", "--properties=a", "--shards=4", "--out=y"], "has no files train"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        run_prepare(monkeypatch, *flags)


def test_a_mistake_ends_the_program_with_a_sentence_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", "--dataset=perov5", "--root=/missing"])
    with pytest.raises(SystemExit) as caught:
        program.run(prepare.main)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: root='/missing' is not a folder")


def test_an_interrupt_ends_the_program_with_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        program.run(interrupted)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
