"""The report of crystals that were relaxed: from a folder of `relax`, and from their samples.db."""

import contextlib
import dataclasses
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import report
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import (
    Relaxation,
    RelaxedCrystal,
    RelaxSettings,
    failed,
)
from crystal_diffusion_jax.potentials.relaxed_samples import (
    read_relaxed_samples,
    sample_columns,
    sample_data,
)
from crystal_diffusion_jax.potentials.relaxed_store import RelaxedStore
from crystal_diffusion_jax.report.crystals import require_same_atoms
from crystal_diffusion_jax.report.shortlist import read_shortlist
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.samples_reader import read_request
from crystal_diffusion_jax.structures.store import add_columns
from tests import make_tiny_model
from tests.page_contents import data_of
from tests.test_store import crystal, defective, finish

SETTINGS = RelaxSettings("ase:lab.Potential", fixed_cell=True, fmax=0.02, max_steps=70)
# Compounds, and compounds beside elements.
PHASES = ("BaO (0.400) + TiO2 (0.600)", "Ba (0.200) + O2 (0.200) + TiO2 (0.600)")


def outcome(index: int, initial: Structure) -> RelaxedCrystal:
    """A relaxation that depends on the index alone; number 5 fails, number 3 changes."""
    if index == 5:
        return RelaxedCrystal("sample 5", failed("the cell explodes: 3e5 A^3", -4.5, 12))
    relaxed = Structure(1.02 * initial.lattice.matrix, initial.species, 0.9 * initial.frac_coords)
    found = Relaxation(
        relaxed, -5.0, -5.0 - index / 8, 10 + index, index != 2, np.full(5, 0.5), None
    )
    return RelaxedCrystal(
        f"sample {index}",
        found,
        np.nan if index == 3 else 0.25,
        -0.125,
        -1.5,
        index / 64,
        PHASES[index == 7],
    )


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Eight requested samples, of which three were rejected."""
    folder = tmp_path / "samples"
    finish(folder, sample=defective)
    return folder


def relax(samples: Path, out: Path, last: int) -> list[RelaxedCrystal]:
    """Writes what relaxing the crystals up to the last one gives, to a folder and to samples.db."""
    inputs = read_structures(samples)
    out.mkdir()
    store = RelaxedStore(out, inputs, SETTINGS)
    found = [
        (index, outcome(index, structure))
        for index, structure in enumerate(inputs.structures[: last + 1])
        if structure is not None
    ]
    store.add(found)
    phases = {index: each.decomposition for index, each in found}
    store.add_columns({"decomposition": [phases.get(i, "") for i in range(len(inputs.names))]})
    return store.relaxed()


def add_to_samples(samples: Path, relaxed: list[RelaxedCrystal]) -> None:
    add_columns(samples, sample_columns(relaxed, SETTINGS), sample_data(relaxed))


def page(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["report", f"--out={out}", *arguments])
    report.main()
    return out.read_text()


def column(text: str, key: str) -> list[Any]:
    (found,) = [each for each in data_of(text)["columns"] if each["key"] == key]
    values: list[Any] = found["values"]
    return values


def test_the_folder_and_the_samples_tell_the_same(samples, tmp_path, monkeypatch):
    relaxed = relax(samples, tmp_path / "relaxed", last=7)
    flags = (f"--structures={samples}", f"--relaxed={tmp_path / 'relaxed'}")
    by_folder = page(monkeypatch, tmp_path / "a.html", *flags)
    without = page(monkeypatch, tmp_path / "b.html", flags[0])
    assert "relaxed" not in data_of(without)["crystals"][0]
    add_to_samples(samples, relaxed)
    by_samples = page(monkeypatch, tmp_path / "b.html", flags[0])
    assert data_of(by_folder) == data_of(by_samples)
    caption = (
        "atoms only moved downhill in the energy of an interatomic potential (ase:lab.Potential)"
    )
    for text in (by_folder, by_samples):
        assert caption in text
        assert "<b>37.5 %</b>converged<br><span>3 of 8</span>" in text
        assert "<b>0.250 Å</b>median RMSD<br><span>3 of 8</span>" in text
        assert "<b>37.5 %</b>above hull &lt; 0.1 eV/atom<br><span>3 of 8</span>" in text

    # Numbers 1, 4 and 6 were rejected; 5 failed; 3 changed.
    assert column(by_folder, "index") == [0, 2, 3, 5, 7]
    assert column(by_folder, "energy_gain") == [0.0, 0.25, 0.375, None, 0.875]
    assert column(by_folder, "displacement") == [0.25, 0.25, None, None, 0.25]
    assert column(by_folder, "decomposes_into") == [PHASES[0]] * 3 + ["", PHASES[1]]
    assert column(by_folder, "compounds_only") == [True, True, True, None, False]
    assert column(by_folder, "steps") == [10, 12, 13, 12, 17]
    assert column(by_folder, "not_relaxed")[3] == "the cell explodes: 3e5 A^3"
    drawn = ["relaxed" in crystal for crystal in data_of(by_folder)["crystals"]]
    assert drawn == [True, True, True, False, True]


def test_a_model_that_is_gone_or_another_one_now_is_said(samples, tmp_path, monkeypatch):
    said = "is no longer there, or is another one now"
    assert said in page(monkeypatch, tmp_path / "a.html", f"--structures={samples}")
    stored = read_request(samples)
    assert stored is not None
    tiny = trained_model.load(make_tiny_model.FOLDER)
    for digest, found in ((tiny.weights_sha256, True), ("0" * 64, False)):
        asked = dataclasses.replace(
            stored.request, model=str(make_tiny_model.FOLDER), model_sha256=digest
        )
        there = report._find_model(dataclasses.replace(stored, request=asked))
        assert (there is not None) == found


def test_the_stages_that_a_folder_counted_itself_are_shown(samples, tmp_path, monkeypatch):
    counts = {"asked": 8, "below the hull & new": 3, "on the shortlist": 1}
    steps = [{"stage": "s", "name": "n", "text": x, "count": n} for x, n in counts.items()]
    (samples / "funnel.json").write_text(json.dumps({"steps": steps, "notes": []}))
    text = page(monkeypatch, tmp_path / "page.html", f"--structures={samples}")
    assert text.count('<span class="stage">') == 3
    assert '<span class="stage">below the hull &amp; new</span>' in text
    assert '<span class="bar" style="width: 37.5%"></span><span class="count">3</span>' in text


def test_the_shortlist_is_shown_first(samples, tmp_path, monkeypatch):
    assert read_shortlist(samples) == read_shortlist(tmp_path) == ({}, {})
    add_columns(samples, {"rank": [None, None, 2, None, None, 1, None, None]})
    assert read_shortlist(samples) == ({2: 2, 5: 1}, {})
    assert read_shortlist(samples / "samples.db") == ({2: 2, 5: 1}, {})
    text = page(monkeypatch, tmp_path / "page.html", f"--structures={samples}")
    assert column(text, "index") == [0, 2, 3, 5, 7]
    assert column(text, "rank") == [None, 2, None, 1, None]
    assert data_of(text)["order"][:2] == [3, 1]
    assert "Order: the shortlist by rank, then the others, those without flags first" in text


def test_a_rank_that_is_no_number_is_damage(samples):
    add_columns(samples, {"rank": [None, None, 2, None, None, 1, None, None]})
    with contextlib.closing(sqlite3.connect(samples / "samples.db")) as db:
        db.execute("UPDATE number_key_values SET value = 9e999 WHERE key = 'rank'")
        db.commit()
    with pytest.raises(UserError, match=r"samples\.db is damaged"):
        read_shortlist(samples)


def test_crystals_that_are_not_relaxed_yet_are_counted_in_a_remark(samples, tmp_path, monkeypatch):
    add_to_samples(samples, relax(samples, tmp_path / "relaxed", last=3))
    text = page(monkeypatch, tmp_path / "page.html", f"--structures={samples}")
    # Not relaxed: 5 and 7.
    assert "2 crystals are not relaxed yet." in text
    assert column(text, "converged") == [True, False, True, None, None]
    assert "<b>25.0 %</b>converged<br><span>2 of 8</span>" in text


def test_the_samples_hold_the_last_relaxation_only(samples, tmp_path):
    first = relax(samples, tmp_path / "relaxed", last=7)
    add_to_samples(samples, first)
    # Now number 5 succeeds, 0 fails, and there is no hull.
    again = [dataclasses.replace(x, energy_above_hull=np.nan, decomposition="") for x in first]
    again[5] = dataclasses.replace(again[2], name="sample 5")
    again[0] = RelaxedCrystal("sample 0", failed("the cell explodes"))
    add_to_samples(samples, again)
    found, settings = read_relaxed_samples(samples / "samples.db")
    assert settings == SETTINGS
    assert found[0].relaxation.failure == "the cell explodes"
    assert found[5].relaxation.failure is None
    assert found[5].energy_gain == 0.25
    assert all(np.isnan(x.energy_above_hull) and x.decomposition == "" for x in found)
    for index in (2, 3, 7):
        ours, theirs = found[index].relaxation, first[index].relaxation
        assert ours.structure == theirs.structure
        np.testing.assert_array_equal(ours.magnetic_moments, theirs.magnetic_moments)


def test_other_places_hold_no_relaxed_samples(samples):
    assert read_relaxed_samples(samples) == ([], None)
    assert read_relaxed_samples(samples / "cif") == ([], None)
    assert read_relaxed_samples(samples / "samples.csv") == ([], None)


def test_a_damaged_row_of_samples_is_a_user_error(samples, tmp_path):
    add_to_samples(samples, relax(samples, tmp_path / "relaxed", last=7))
    with ase.db.connect(samples / "samples.db", use_lock_file=False) as database:
        database.update(1, data={"relaxed_frac_coords": np.zeros((2, 3))})
    with pytest.raises(UserError, match=r"samples\.db is damaged.*do not fit together"):
        read_relaxed_samples(samples)


def test_a_sample_that_was_not_requested_is_refused(samples, tmp_path):
    add_to_samples(samples, relax(samples, tmp_path / "relaxed", last=7))
    with sqlite3.connect(samples / "samples.db") as db:
        # The last sample would otherwise be overwritten in silence.
        db.execute("UPDATE number_key_values SET value = -1 WHERE key = 'index' AND id = 1")
    with pytest.raises(UserError, match="crystal -1 was not requested"):
        read_relaxed_samples(samples)


def test_the_folder_of_other_crystals_is_refused(samples, tmp_path, monkeypatch):
    relax(samples, tmp_path / "relaxed", last=7)
    finish(tmp_path / "others", sample=lambda index: crystal(index + 1))
    flags = (f"--structures={tmp_path / 'others'}", f"--relaxed={tmp_path / 'relaxed'}")
    with pytest.raises(UserError, match="relaxation of other crystals"):
        page(monkeypatch, tmp_path / "page.html", *flags)
    with pytest.raises(UserError, match=r"nowhere.*damaged, or was not written by.*relax"):
        page(monkeypatch, tmp_path / "page.html", flags[0], f"--relaxed={tmp_path / 'nowhere'}")


def test_relaxed_atoms_that_are_not_those_of_the_crystal_are_refused(samples, tmp_path):
    relaxed = relax(samples, tmp_path / "relaxed", last=7)
    swapped = read_structures(samples).structures[0]
    assert swapped is not None
    require_same_atoms(swapped, relaxed[0])
    swapped[0], swapped[1] = "Ti", "Ba"
    with pytest.raises(UserError, match="sample 0 has other atoms"):
        require_same_atoms(swapped, relaxed[0])
