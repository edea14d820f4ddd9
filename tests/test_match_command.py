"""experiments/match.py: from files to scores."""

import csv
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax.cli import match as program
from crystal_diffusion_jax.data import load as data_load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import (
    Relaxation,
    RelaxedCrystal,
    RelaxSettings,
)
from crystal_diffusion_jax.potentials.relaxed_store import RelaxedStore
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.store import Samples, add_columns
from tests.commands import exit_status, read_strictly
from tests.crystal_sets import dataset
from tests.test_prediction import BARIUM, CHLORIDE, SALT, SWAPPED, perovskite
from tests.test_store import REQUEST, batch

pytestmark = pytest.mark.usefixtures("in_this_process")

TRAIN = dataset([perovskite("Sr", "Ti", 3.9), CHLORIDE, SWAPPED])
TEST = dataset([BARIUM, SALT, CHLORIDE], ids=["a", "b", "c"])


def cif(structure: Structure) -> str:
    return str(CifWriter(structure))


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("material_id", "cif"), *rows])
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int | str | None]:
    """Runs the program with the small data set; gives its exit status."""
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data_load, "load", lambda config: {"train": TRAIN, "test": TEST})
    return functools.partial(exit_status, monkeypatch, program.main)


def test_predictions_of_others_as_a_csv(tmp_path, run, capsys) -> None:
    rows = [("b", cif(SALT)), ("a", cif(SWAPPED)), ("a", cif(BARIUM)), ("b", "no crystal")]
    predictions = write_csv(tmp_path / "predictions.csv", rows)
    out = tmp_path / "match.json"
    assert run(f"--structures={predictions}", "--dataset=perov5", "--k=1,2", f"--out={out}") == 0
    content = read_strictly(out)
    assert (content["format_version"], content["answers"]) == (1, "material_id")
    assert content["counts"] == {
        "references": 2,
        "unanswered": 1,
        "polymorphs": 1,
        "predictions": 4,
        "left_out": {},
    }
    scores = content["predictions"]["scores"]
    assert scores["match"]["1"]["value"] == pytest.approx(0.5)
    assert (scores["match"]["2"]["k"], scores["match"]["2"]["n"]) == (2, 2)
    assert content["predictions"]["predictions"] == {"min": 2, "max": 2}
    assert content["templates"]["scores"]["match"]["1"]["n"] == 2
    assert content["leakage"]["composition"]["k"] == 2
    printed = capsys.readouterr().out
    assert "match @1" in printed
    assert "1 more have no prediction and are left out" in printed


def test_templates_alone_from_csv_files(tmp_path, run) -> None:
    reference = write_csv(tmp_path / "reference.csv", [("a", cif(BARIUM))])
    train = write_csv(tmp_path / "train.csv", [("t", cif(perovskite("Sr", "Ti", 3.9)))])
    out = tmp_path / "match.json"
    assert run(f"--reference={reference}", f"--train={train}", f"--out={out}") == 0
    content = read_strictly(out)
    assert content["predictions"] is None
    assert content["templates"]["scores"]["match"]["1"]["k"] == 1


def test_relaxed_predictions_of_a_folder(tmp_path, run, capsys) -> None:
    predictions = write_csv(tmp_path / "p.csv", [("a", cif(SWAPPED)), ("b", "no crystal")])
    found = read_structures(predictions)
    settings = RelaxSettings("ase:tests.odd_calculators.Nothing")
    store = RelaxedStore(tmp_path, found, settings)
    outcome = Relaxation(BARIUM, -1.0, -2.0, 7, True, np.zeros(len(BARIUM)), None)
    store.add([(0, RelaxedCrystal(found.names[0], outcome))])
    out = tmp_path / "match.json"
    flags = ("--dataset=perov5", f"--relaxed={tmp_path}", f"--out={out}")
    assert run(f"--structures={predictions}", *flags) == 0
    content = read_strictly(out)
    assert content["predictions"]["scores"]["match"]["1"]["k"] == 0
    matched = content["relaxed"]["scores"]["match"]["1"]
    assert (matched["k"], matched["n"]) == (1, 2)
    failures = [{"index": 1, "name": "b", "reason": found.failures[1]}]
    assert content["relaxed"]["failures"] == {"count": 1, "list": failures}
    printed = capsys.readouterr().out
    assert "relaxed, lowest energy first" in printed
    assert f"1 relaxed predictions count as no match:\n  b: {found.failures[1]}" in printed
    assert run(*flags) == 2
    assert "--relaxed needs --structures" in capsys.readouterr().err
    other = write_csv(tmp_path / "other.csv", [("a", cif(BARIUM))])
    assert run(f"--structures={other}", *flags) == 2
    assert "holds the relaxation of other crystals" in capsys.readouterr().err


def test_unknown_ids_and_bad_values_end_in_one_sentence(tmp_path, run, capsys) -> None:
    predictions = write_csv(tmp_path / "p.csv", [("a", cif(BARIUM)), ("aa", cif(SALT))])
    good = (f"--structures={predictions}", "--dataset=perov5", f"--out={tmp_path / 'm.json'}")
    for arguments, message in (
        (good, "row 2 of the predictions: material_id aa is not in perov5 test"),
        ((*good, "--k=0"), "--k=0: give whole numbers from 1"),
        ((*good, "--k=one"), "--k=one: give whole numbers"),
        ((*good, "--split=val"), "perov5 has no val.csv"),
        ((*good, "--reference=missing.csv"), "missing.csv is not a .csv"),
        ((good[0], good[2]), "give --dataset, or --reference"),
        ((f"--reference={predictions}", good[2]), "give --structures, or --train"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err


def test_samples_answer_by_their_column(tmp_path) -> None:
    folder = tmp_path / "csp"
    Samples(folder, dataclasses.replace(REQUEST, num=4)).add(batch([0, 1, 3]))
    assert read_structures(folder).material_ids == []
    # Identifiers of MP-20 are words, those of Perov-5 whole numbers.
    add_columns(folder, {"material_id": ["mp-1", 2734, None, None]})
    inputs = read_structures(folder)
    assert inputs.material_ids == ["mp-1", "2734", "", ""]
    assert [each is None for each in inputs.structures] == [False, False, True, False]


def test_the_python_interface_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_load, "load", lambda config, progress: {"train": TRAIN, "test": TEST})
    outcome = cdj.match([BARIUM, SALT], "perov5", material_ids=["a", "b"])
    assert outcome.predictions is not None
    assert outcome.predictions.scores["match"][1].value == 1
    assert outcome.templates is not None
    assert cdj.match([SALT], "perov5", templates=False).templates is None
    relaxed = [Relaxation(SALT, -1.0, -1.0, 0, True, np.zeros(2), None)]
    judged = cdj.match([CHLORIDE], "perov5", material_ids=["b"], relaxed=relaxed)
    assert judged.relaxed is not None
    assert judged.relaxed.scores["match"][1].value == 1
    with pytest.raises(UserError, match="relaxed is a folder, but the crystals are not"):
        cdj.match([SALT], "perov5", relaxed="relaxed/csp")
    with pytest.raises(UserError, match="1 relaxations for 2 crystals"):
        cdj.match([BARIUM, SALT], "perov5", relaxed=relaxed)
    with pytest.raises(UserError, match="2 material_ids for 1 crystals"):
        cdj.match([SALT], "perov5", material_ids=["a", "b"])
    with pytest.raises(UserError, match="perov5 has no split 'val'"):
        cdj.match([SALT], "perov5", "val")
