"""docs/own_data.md as its reader follows it: CIFs and a csv to a model, crystals and a page."""

import csv
import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import dataset_statistics
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.samples_reader import read_request
from tests.tiny_run import perovskite

NUM_CRYSTALS = 60
PROPERTIES = ("formation_energy_per_atom", "band_gap")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(module: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module}.py", *arguments])
        importlib.import_module(f"crystal_diffusion_jax.cli.{module}").main()


def write_table(folder: Path, num_binary: int) -> Path:
    """CIF files of perovskites, of two atoms the first ones, and the csv that names them."""
    with open(folder / "properties.csv", "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", *PROPERTIES])
        for index in range(NUM_CRYSTALS):
            a, b = ("Ca", "Sr", "Ba")[index % 3], ("Ti", "Zr", "Hf")[index // 3 % 3]
            crystal = perovskite(a, b, 3.8 + 0.01 * index)
            if index < num_binary:
                places = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
                crystal = Structure(Lattice.cubic(2.8), [a, "O"], places)
            (folder / f"mine-{index}.cif").write_text(to_cif(crystal, 0.0))
            writer.writerow([f"mine-{index}", -3.0 + 0.02 * index, 0.05 * index])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Crystals of two sizes."""
    return write_table(tmp_path_factory.mktemp("mine"), num_binary=12)


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Path:
    """A model of both properties, each of which does half of what the tiny model's own does."""
    half = {
        name: leaf.repeat(2, axis=0) / 2 for name, leaf in tiny_model.params["property"].items()
    }
    given = {name: getattr(tiny_model.statistics, name) for name in vars(tiny_model.statistics)}
    twice = {name: 2 * value for name, value in given.items() if name.startswith("property_")}
    statistics = dataclasses.replace(
        tiny_model.statistics,
        **twice | {"property_names": PROPERTIES},
        num_atoms_by_property=2 * tiny_model.statistics.num_atoms_by_property,
    )
    both = dataclasses.replace(
        tiny_model, params=tiny_model.params | {"property": half}, statistics=statistics
    )
    folder = tmp_path_factory.mktemp("model") / "model"
    trained_model.save(both, folder)
    return folder


def sampled(model: Path, out: Path, target: str, *arguments: str) -> list[dict[str, float]]:
    """What was asked of each crystal, as the record and the extended XYZ file say it."""
    flags = [f"--model={model}", f"--out={out}", f"--target={target}", "--num=8", *arguments]
    run("sample", *flags)
    stored = read_request(out)
    assert stored is not None
    assert stored.request.num == 8
    rows = ase.db.connect(out / "samples.db").select(sort="index")
    asked = [{name: row[f"target_{name}"] for name in stored.request.target} for row in rows]
    frames = ase.io.read(out / "samples.extxyz", ":") if asked else []
    for entry, frame in zip(asked, frames, strict=True):
        for name, value in entry.items():
            assert frame.info[f"target_{name}"] == pytest.approx(value)
    return asked


def assert_asked(model: Path, folder: Path, both: str, one: str, drawn: str, *how: str) -> None:
    """Asks for both properties, for the second alone, and for a range of the first."""
    values = dict(part.split("=") for part in both.split(","))
    entries = sampled(model, folder / "both", both, *how)
    # Of both models more than 97 of a hundred crystals are written; of eight, one at least.
    assert entries
    for entry in entries:
        assert entry == {name: float(value) for name, value in values.items()}
    for entry in sampled(model, folder / "one", one, *how):
        assert set(entry) == {PROPERTIES[1]}
    found = sampled(model, folder / "range", drawn, *how)
    low, high = map(float, drawn.split("=")[1].split(":"))
    chosen = [entry[PROPERTIES[0]] for entry in found]
    assert all(low <= value <= high for value in chosen)
    assert len(set(chosen)) == len(chosen)


def test_the_data_are_checked_and_summed_up_without_training(folder, capsys):
    run("prepare", f"--root={folder}", f"--properties={','.join(PROPERTIES)}")
    said = capsys.readouterr().out
    table = (folder / "properties.csv").read_text().splitlines()[1:]
    energies = [float(line.split(",")[1]) for line in table]
    train, val = (re.search(rf"^{name} +(\d+) .*", said, re.M) for name in ("train", "val"))
    assert train is not None
    assert val is not None
    # Copies stay together, so of 12 different crystals a whole one or more are held out.
    assert int(train[1]) + int(val[1]) == NUM_CRYSTALS
    assert 4 <= int(val[1]) <= NUM_CRYSTALS // 10
    lows = [float(re.findall(r"(\S+) / \S+ / \S+", line[0])[1]) for line in (train, val)]
    assert min(lows) == pytest.approx(min(energies), abs=6e-4)
    assert "--config=own_data_finetune " in said  # as there are few


def test_the_statistics_are_those_of_the_training_crystals(folder):
    splits = load(DataConfig(root=str(folder), properties=PROPERTIES))
    statistics = dataset_statistics(splits["train"], scale_by_num_atoms=True)
    assert statistics.property_names == PROPERTIES
    assert [size for size, _ in statistics.num_atoms_histogram] == [2, 5]
    num_train = sum(count for _, count in statistics.num_atoms_histogram)
    assert num_train == NUM_CRYSTALS - len(splits["val"])
    energies, gaps = splits["train"].properties.T
    np.testing.assert_allclose(gaps, 2.5 * (energies + 3.0), atol=1e-9)  # of the same crystals
    np.testing.assert_allclose(statistics.property_mean, [energies.mean(), gaps.mean()])


def test_one_property_both_or_a_range_can_be_asked_for(model, tmp_path):
    assert_asked(
        model,
        tmp_path,
        "formation_energy_per_atom=0.8,band_gap=1.0",
        "band_gap=max",
        "formation_energy_per_atom=0.8:1.0",
        *("--guidance=1", "--num_steps=5"),
    )
    # The crystals of the first request, on a page.
    run("report", f"--structures={tmp_path / 'both'}", f"--out={tmp_path / 'page.html'}")
    assert_page_without_oracle(tmp_path / "page.html", "band_gap = 1")


def assert_page_without_oracle(page: Path, asked: str) -> None:
    text = page.read_text()
    assert asked in text
    assert re.search(r"no oracle for this property", text)


@pytest.mark.slow
def test_the_documented_commands_from_the_table_to_the_page(tmp_path):
    (tmp_path / "mine").mkdir()
    folder = write_table(tmp_path / "mine", num_binary=0)  # a second size takes another program
    workdir = tmp_path / "runs" / "mine"
    flags = [
        "--config=configs/own_data.py:smoke",  # the variant that takes seconds
        f"--workdir={workdir}",
        f"--config.data.root={folder}",
        f"--config.data.properties={PROPERTIES}",
        # Enough that nearly all cells are cells.
        "--config.training.num_steps=400",
        "--config.training.learning_rate=0.01",
        "--config.training.log_every=100",
        "--config.training.checkpoint_every=400",
    ]
    trained = subprocess.run(
        [sys.executable, "-m", "experiments.train", *flags], capture_output=True, text=True
    )
    assert trained.returncode == 0, trained.stderr
    description = json.loads((workdir / "model" / "model.json").read_text())
    statistics = description["statistics"]
    assert tuple(statistics["property_names"]) == PROPERTIES
    num_train = sum(count for _, count in statistics["num_atoms_histogram"])
    assert NUM_CRYSTALS * 9 // 10 <= num_train < NUM_CRYSTALS

    assert_asked(
        workdir,
        tmp_path,
        "formation_energy_per_atom=-2.0,band_gap=1.5",
        "band_gap=max",
        "formation_energy_per_atom=-2.5:-2.0",
        *("--guidance=1", "--num_atoms=5"),
    )
    system = ["--chemical_system=Ba-Ti-O", "--guidance=1", "--num_atoms=5"]
    sampled(workdir, tmp_path / "system", "band_gap=1.5", *system)
    for crystal in filter(None, read_structures(tmp_path / "system").structures):
        assert crystal.symbol_set == ("Ba", "O", "Ti")
        assert len(crystal) == 5
    run("report", f"--structures={tmp_path / 'both'}", f"--out={tmp_path / 'page.html'}")
    assert_page_without_oracle(tmp_path / "page.html", "band_gap = 1.5")


@pytest.mark.faults  # takes a minute
def test_few_crystals_are_fine_tuned_from_the_shipped_model(tmp_path):
    """The route that the page names first, for ten steps: sane crystals of the elements given."""
    (tmp_path / "mine").mkdir()
    folder = write_table(tmp_path / "mine", num_binary=0)
    flags = [
        "--config=own_data_finetune:smoke",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={folder}",
        "--config.data.properties=('band_gap',)",
    ]
    trained = subprocess.run(
        [sys.executable, "-m", "experiments.train", *flags], capture_output=True, text=True
    )
    assert trained.returncode == 0, trained.stderr
    assert "48 crystals in batches of (32,) padded to (5,) atoms" in trained.stdout
    assert "warning: 48 crystals are too few" in trained.stdout
    assert "> Trained on 48 crystals only." in (tmp_path / "run/model/README.md").read_text()
    out = tmp_path / "samples"
    flags = [f"--model={tmp_path / 'run'}", f"--out={out}", "--target=band_gap=1:2", "--num=8"]
    run("sample", *flags, "--solver=second_order")
    crystals = [crystal for crystal in read_structures(out).structures if crystal is not None]
    assert len(crystals) >= 6
    for crystal in crystals:
        assert set(crystal.symbol_set) <= {"Ca", "Sr", "Ba", "Ti", "Zr", "Hf", "O"}
        assert 6 < crystal.volume / len(crystal) < 80  # barium alone has 63
    run("report", f"--structures={out}", f"--out={tmp_path / 'page.html'}")
    assert '<p class="banner">Trained on 48 crystals only.' in (tmp_path / "page.html").read_text()
