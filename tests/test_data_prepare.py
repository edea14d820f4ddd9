"""experiments/prepare.py and program.py: what the program gets, prints and ends with."""

import dataclasses
import gzip
import hashlib
import sys
from pathlib import Path

import pooch
import pytest

from crystal_diffusion_jax.cli import prepare, program
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
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


def test_prepare_reads_own_data_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train-0.csv").write_bytes(CONTENT["train"])
    (tmp_path / "train-1.csv.gz").write_bytes(gzip.compress(CONTENT["val"]))
    (tmp_path / "val.csv").write_bytes(CONTENT["val"])
    run_prepare(monkeypatch, f"--root={tmp_path}", "--properties=heat_ref")
    output = capsys.readouterr().out
    assert f"--config.data.root={tmp_path}" in output
    rows = {line.split()[0]: line.split() for line in output.splitlines()[:3]}
    assert {split: int(rows[split][1]) for split in ("train", "val")} == {"train": 5, "val": 2}


def test_prepare_writes_the_data_without_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = CIF.replace("_cell_length_c 3.35", "_cell_length_c 6.7").replace("Po", "Te")
    text = f'material_id,heat_ref,cif\nown,0.7,"{wider}"\n' + f'id,0.5,"{CIF}"\n' * 3
    (tmp_path / "train.csv").write_text(text)
    (tmp_path / "val.csv").write_text(text.replace("Te", "Se"))
    flags = (f"--root={tmp_path}", "--properties=heat_ref")
    run_prepare(monkeypatch, *flags, f"--unique={tmp_path / 'unique'}")
    assert "unique has them without copies: train 2 of 4, val 1 of 4" in capsys.readouterr().out
    run_prepare(monkeypatch, f"--root={tmp_path / 'unique'}", "--properties=heat_ref")
    found = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[:3]}
    assert {split: int(found[split][1]) for split in ("train", "val")} == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--oracle", "--unique=x"], "--unique needs data"),
        (["--dataset=mp20", "--properties=a"], "--properties is for your own data"),
        (["--root=x"], "both root .* and properties"),
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
