"""docs/own_data.md as its reader follows it: CIFs and a csv to a model, crystals and a page."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest

NUM_CRYSTALS = 300
PROPERTIES = ("formation_energy_per_atom", "band_gap")
DATA = Path(os.environ.get("CRYSTAL_DIFFUSION_DATA", "../shared/data")) / "mp20" / "train.csv.gz"

pytestmark = pytest.mark.skipif(
    not DATA.is_file(), reason="needs MP-20 in $CRYSTAL_DIFFUSION_DATA or ../shared/data"
)


def run(module: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """CIF files and the csv that names them."""
    folder = tmp_path_factory.mktemp("mine")
    with gzip.open(DATA, "rt") as file, open(folder / "properties.csv", "w", newline="") as table:
        rows = csv.DictReader(file)
        writer = csv.writer(table)
        writer.writerow(["file", *PROPERTIES])
        for _, row in zip(range(NUM_CRYSTALS), rows, strict=False):
            (folder / f"{row['material_id']}.cif").write_text(row["cif"])
            writer.writerow([row["material_id"], *(row[name] for name in PROPERTIES)])
    return folder


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    # The documented command, with the variant that takes seconds.
    run(
        "train",
        "--config=configs/own_data.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.root={folder}",
        f"--config.data.properties={PROPERTIES}",
        # Enough that most cells are cells.
        "--config.training.num_steps=400",
        "--config.training.learning_rate=0.01",
        "--config.training.checkpoint_every=400",
    )
    return workdir


def sampled(model: Path, out: Path, target: str, *arguments: str) -> list[dict[str, float]]:
    """What was asked of each crystal, as the record and the extended XYZ file say it."""
    run("sample", f"--model={model}", f"--out={out}", f"--target={target}", "--num=8", *arguments)
    record = json.loads((out / "samples.json").read_text())
    asked = [entry["target"] for entry in record["structures"]]
    frames = ase.io.read(out / "samples.extxyz", ":") if asked else []
    for entry, frame in zip(asked, frames, strict=True):
        for name, value in entry.items():
            assert frame.info[f"target_{name}"] == pytest.approx(value)
    return asked


def test_the_data_are_checked_and_summed_up_without_training(folder):
    said = run("prepare", f"--root={folder}", f"--properties={','.join(PROPERTIES)}")
    table = (folder / "properties.csv").read_text().splitlines()[1:]
    energies = [float(line.split(",")[1]) for line in table]
    train, val = (re.search(rf"^{name} +(\d+) .*", said, re.M) for name in ("train", "val"))
    assert train is not None
    assert val is not None
    assert (int(train[1]), int(val[1])) == (NUM_CRYSTALS * 9 // 10, NUM_CRYSTALS // 10)
    lows = [float(re.findall(r"(\S+) / \S+ / \S+", line[0])[1]) for line in (train, val)]
    assert min(lows) == pytest.approx(min(energies), abs=6e-4)
    assert "--config=configs/own_data.py" in said


def test_the_model_knows_both_properties_of_nine_tenths_of_the_crystals(model):
    description = json.loads((model / "model" / "model.json").read_text())
    statistics = description["statistics"]
    assert tuple(statistics["property_names"]) == PROPERTIES
    assert sum(count for _, count in statistics["num_atoms_histogram"]) == NUM_CRYSTALS * 9 // 10


def test_one_property_both_or_a_range_can_be_asked_for(model, tmp_path):
    both = sampled(
        model,
        tmp_path / "both",
        "formation_energy_per_atom=-2.0,band_gap=1.5",
        "--guidance=1",
        "--num_atoms=6",
    )
    assert all(entry == {"formation_energy_per_atom": -2.0, "band_gap": 1.5} for entry in both)
    one = sampled(model, tmp_path / "one", "band_gap=max", "--num_atoms=6")
    assert all(set(entry) == {"band_gap"} for entry in one)
    drawn = sampled(
        model, tmp_path / "range", "formation_energy_per_atom=-2.5:-2.0", "--num_atoms=6"
    )
    assert min(len(both), len(one), len(drawn)) >= 2
    values = [entry["formation_energy_per_atom"] for entry in drawn]
    assert all(-2.5 <= value <= -2.0 for value in values)
    assert len(set(values)) == len(values)


def test_elements_and_sizes_can_be_fixed(model, tmp_path):
    out = tmp_path / "system"
    sampled(model, out, "none", "--chemical_system=Ba-O", "--num_atoms=6")
    record = json.loads((out / "samples.json").read_text())
    for entry in record["structures"]:
        assert set(entry["species"]) == {"Ba", "O"}
        assert len(entry["species"]) == 6
    reasons = {rejected["reason"] for rejected in record["rejected"]}
    assert len(record["structures"]) + len(record["rejected"]) == 8
    assert all("cell" in r or "volume" in r or "system" in r for r in reasons)


def test_the_page_shows_the_crystals_and_says_that_there_is_no_judge(model, tmp_path):
    out = tmp_path / "any"
    sampled(model, out, "band_gap=1.0", "--num_atoms=6")
    run("report", f"--structures={out}", f"--out={tmp_path / 'page.html'}")
    page = (tmp_path / "page.html").read_text()
    assert "band_gap = 1" in page
    assert re.search(r"[Nn]o (published network|judge)", page)
