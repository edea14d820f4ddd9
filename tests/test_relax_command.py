"""`experiments.relax` from its flags to its files, with ASE's EMT."""

import csv
import math
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import program, relax
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials import relax_folder, with_ase
from crystal_diffusion_jax.potentials.relaxation import RelaxSettings
from crystal_diffusion_jax.potentials.relaxed_store import RelaxedStore, read_relaxed
from crystal_diffusion_jax.potentials.relaxed_table import cif_names
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.structures.reading import Inputs, read_structures
from crystal_diffusion_jax.structures.store import Samples
from tests.conftest import work_in_this_process
from tests.relaxed_sets import EMT, metal, write_cifs
from tests.test_store import REQUEST, batch, defective

HEADER = (
    "name,formula,initial_energy_per_atom,energy_per_atom,energy_gain,rmsd,volume_change,steps,"
    "converged,failure"
)
pytestmark = pytest.mark.usefixtures("in_this_process")


def run(monkeypatch: pytest.MonkeyPatch, *flags: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["relax.py", *map(str, flags), f"--potential={EMT}"])
    program.run(relax.main)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: Any, *flags: str) -> str:
    """The sentence that a mistake ends with."""
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *flags)
    assert caught.value.code == 2
    *_, said = capsys.readouterr().err.splitlines()  # perhaps after a progress bar
    assert said.startswith("error: ")
    return str(said)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "relaxed.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(out: Path) -> dict[str, bytes]:
    """Every exported file."""
    found = [out / "relaxed.csv", *sorted((out / "cif").iterdir())]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def cifs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifs(tmp_path_factory.mktemp("cifs") / "in", 4)


@pytest.fixture(scope="module")
def done(cifs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished command."""
    out = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        work_in_this_process(patch)
        run(patch, f"--structures={cifs}", f"--out={out}")
    return out


@pytest.fixture
def copy_of_done(done: Path, tmp_path: Path) -> Path:
    """For tests that run the command again there."""
    return shutil.copytree(done, tmp_path / "done")


def test_every_requested_crystal_has_its_row(done: Path) -> None:
    assert (done / "relaxed.csv").read_text().splitlines()[0] == HEADER
    rows = table(done)
    assert [row["name"] for row in rows] == [*(f"m{i}.cif" for i in range(4)), "z1.cif", "z2.cif"]
    assert [row["formula"] for row in rows] == ["Cu", "Al", "Ni", "Au", "Fe", ""]
    for row in rows[:4]:
        gain = float(row["initial_energy_per_atom"]) - float(row["energy_per_atom"])
        assert float(row["energy_gain"]) == pytest.approx(gain, abs=2e-6)
        assert gain > 0.05
        assert 0.05 < float(row["rmsd"]) < 0.4
        assert row["converged"] == "True"
        assert row["failure"] == ""
    assert rows[4]["failure"] == (
        "the calculator failed: NotImplementedError: No EMT-potential for Fe"
    )
    assert rows[5]["failure"].startswith("unparsable CIF")
    for row in rows[4:]:
        assert row["energy_per_atom"] == row["rmsd"] == row["volume_change"] == ""
        assert row["converged"] == "False"


def test_cifs_have_the_names_of_the_crystals_and_hold_the_relaxed_ones(done: Path) -> None:
    assert sorted(path.name for path in (done / "cif").iterdir()) == [f"m{i}.cif" for i in range(4)]
    for index, one in enumerate(read_relaxed(done)[:4]):
        relaxed = one.relaxation.structure
        assert relaxed is not None
        # Within the tolerance of symmetry, in which they are cubic: one atom and three copies.
        text = (done / "cif" / one.name).read_text()
        assert "Fm-3m" in text
        reread = Structure.from_str(text, fmt="cif")
        assert reread.volume == pytest.approx(relaxed.volume, rel=1e-3)
        change = relaxed.volume / metal(index).volume - 1
        assert one.volume_change == pytest.approx(change, rel=1e-6)


def test_the_command_says_what_relaxing_changed(
    copy_of_done: Path, cifs, monkeypatch, capsys
) -> None:
    run(monkeypatch, f"--structures={cifs}", f"--out={copy_of_done}")
    said = capsys.readouterr().out
    assert f"4 of 6 crystals relaxed, 4 of them converged: {copy_of_done}\n" in said
    rows = table(copy_of_done)[:4]
    gain = np.median([float(row["energy_gain"]) for row in rows])
    assert f"energy gain: median {gain:.3f} eV/atom" in said
    distance = np.median([float(row["rmsd"]) for row in rows])
    assert f"RMSD to relaxed: median {distance:.3f} A" in said
    assert "failed, 1: the calculator failed\n" in said
    assert "failed, 1: unparsable CIF\n" in said


def test_the_same_command_again_relaxes_nothing_and_restores_missing_files(
    done: Path, copy_of_done: Path, cifs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy_of_done / "relaxed.csv").unlink()
    (copy_of_done / "cif" / "m1.cif").unlink()
    monkeypatch.setattr(with_ase, "relax", None)
    run(monkeypatch, f"--structures={cifs}", f"--out={copy_of_done}")
    assert files(copy_of_done) == files(done)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("lost", [False, True])
def test_a_signal_exports_what_is_done_and_the_same_command_goes_on(
    done: Path, cifs: Path, tmp_path: Path, monkeypatch, how, status, lost
) -> None:
    out = tmp_path / "out"
    flags = f"--structures={cifs}", f"--out={out}"
    relax_one = with_ase._relax_one

    def stopped(settings: RelaxSettings, structure: Structure) -> Any:
        if structure.formula == "Ni4":
            try:
                signal.raise_signal(how)
            except BaseException:
                if not lost:  # as in the hook of the garbage collector
                    raise
        return relax_one(settings, structure)

    with monkeypatch.context() as patch:
        patch.setattr(with_ase, "_relax_one", stopped)
        with pytest.raises(SystemExit) as caught:
            run(patch, *flags)
    assert caught.value.code == status
    count = 2 + lost
    rows = table(out)
    assert [bool(row["energy_per_atom"]) for row in rows] == [i < count for i in range(6)]
    assert {row["failure"] for row in rows[count:5]} == {
        "not relaxed: the relaxing command has not finished"
    }
    assert len(list((out / "cif").iterdir())) == count
    assert not (out / ".owner.json").exists()
    run(monkeypatch, *flags)
    assert files(out) == files(done)


def test_a_kill_between_database_and_cifs_loses_no_cif(
    done: Path, cifs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    flags = f"--structures={cifs}", f"--out={out}"
    with monkeypatch.context() as patch:
        patch.setattr(relax_folder.relaxed_table, "write_cifs", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(patch, *flags)
    assert not (out / "relaxed.csv").exists()
    run(monkeypatch, *flags)
    assert files(out) == files(done)


def test_other_settings_and_crystals_are_refused(
    done: Path, copy_of_done: Path, cifs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = f"--out={copy_of_done}"
    said = refused(monkeypatch, capsys, f"--structures={cifs}", out, "--fmax=0.01")
    assert "fmax (there 0.05, now 0.01)" in said
    others = write_cifs(tmp_path / "others", 4)
    (others / "m2.cif").write_text((others / "m1.cif").read_text())
    said = refused(monkeypatch, capsys, f"--structures={others}", out)
    assert "relaxation of other crystals (1 differ or are missing: m2.cif)" in said
    assert files(copy_of_done) == files(done)


def test_a_folder_in_use_or_of_something_else_is_refused(
    cifs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "used").mkdir()
    with exclusive(tmp_path / "used", "--out"):
        said = refused(monkeypatch, capsys, f"--structures={cifs}", f"--out={tmp_path / 'used'}")
    assert f"is in use by process {os.getpid()} on" in said
    said = refused(monkeypatch, capsys, f"--structures={cifs}", f"--out={cifs}")
    assert "is not empty and has no relaxed.db, so it does not hold relaxed crystals" in said


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--max_steps=few", "--max_steps"),
        ("--fmax=-1", "--fmax=-1.0 must be at least"),
        ("--fixed_cel", "did you mean --fixed_cell?"),
        ("--hull=mp20", "--hull needs --potential=chgnet"),
    ],
)
def test_mistakes_are_found_before_the_folder_is_made(
    cifs: Path, tmp_path: Path, monkeypatch, capsys, flag: str, sentence: str
) -> None:
    out = tmp_path / "out"
    assert sentence in refused(monkeypatch, capsys, f"--structures={cifs}", f"--out={out}", flag)
    assert not out.exists()


def test_only_energies(cifs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, f"--structures={cifs}", f"--out={tmp_path / 'out'}", "--max_steps=0")
    for row in table(tmp_path / "out")[:4]:
        assert row["energy_per_atom"] == row["initial_energy_per_atom"] != ""
        assert (row["energy_gain"], row["steps"], row["rmsd"]) == ("0.000000", "0", "0.000000")


def test_relaxed_samples_are_added_to_their_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder = tmp_path / "samples"
    samples = Samples(folder, REQUEST)
    samples.add(batch([0, 1, 2], sample=defective))
    samples.export()
    monkeypatch.setattr(with_ase, "_relax_one", fake)
    run(monkeypatch, f"--structures={folder}", f"--out={tmp_path / 'out'}")
    rows = table(tmp_path / "out")
    assert len(rows) == REQUEST.num
    assert rows[1]["failure"].startswith("rejected when sampled: ")
    assert rows[3]["failure"].startswith("not sampled: ")
    # The same CIF names as those of the samples.
    names = {path.name for path in (folder / "cif").iterdir()}
    assert {path.name for path in (tmp_path / "out" / "cif").iterdir()} == names
    with (folder / "samples.csv").open(newline="") as file:
        for row, relaxed in zip(csv.DictReader(file), (rows[0], rows[2]), strict=True):
            for name in ("energy_per_atom", "energy_gain", "rmsd", "volume_change"):
                assert float(row[f"relaxed_{name}"]) == pytest.approx(
                    float(relaxed[name]), abs=1e-6
                )
            assert float(row["relaxed_steps"]) == 5
            assert row["relaxed_converged"] == "True"
    with ase.db.connect(folder / "samples.db") as db:
        for row in db.select():
            one = read_relaxed(tmp_path / "out")[row.index].relaxation
            assert one.structure is not None
            np.testing.assert_array_equal(row.data["relaxed_cell"], one.structure.lattice.matrix)
            np.testing.assert_array_equal(
                row.data["relaxed_frac_coords"], one.structure.frac_coords
            )
            np.testing.assert_array_equal(row.data["magnetic_moments"], one.magnetic_moments)
            assert "frac_coords" in row.data  # of the sample itself
    assert "relaxed_energy_gain" in capsys.readouterr().out


def fake(settings: RelaxSettings, structure: Structure) -> Any:
    """Relaxes any elements: 10 % of the volume, 5 steps."""
    smaller = structure.copy()
    smaller.scale_lattice(0.9 * structure.volume)
    moments = np.arange(len(structure), dtype=float)
    return relax_folder.Relaxation(smaller, -1.0, -1.5, 5, True, moments, None)


def test_cif_names_are_file_names_that_nothing_shares() -> None:
    names = ["a.cif", "x/b.cif", "x_b.CIF", "sample 3", "mp-1: odd*name", "..", "", "row 12", "A"]
    structures = [metal(0) for _ in names]
    found = cif_names(Inputs([*structures, None], [*names, "c.cif"], {9: "x"}))
    assert len({name.lower() for name in found.values()}) == len(names)
    assert all(re.fullmatch(r"[\w+.-]+\.cif", name) for name in found.values())
    assert not any(name.startswith(".") for name in found.values())
    assert found[1] == "00001_x_b.cif"
    assert found[3] == "00003_Cu.cif"
    assert found[4] == "mp-1__odd_name.cif"
    assert 9 not in found


def test_a_relaxed_structure_that_is_no_crystal_is_a_failure(
    cifs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(settings: RelaxSettings, structure: Structure) -> Any:
        smaller = structure.copy()
        smaller.scale_lattice(0.01)
        return relax_folder.Relaxation(smaller, -1.0, -1.5, 5, True, np.zeros(4), None)

    monkeypatch.setattr(with_ase, "_relax_one", flat)
    run(monkeypatch, f"--structures={cifs}", f"--out={tmp_path / 'out'}")
    for row in table(tmp_path / "out")[:5]:
        assert row["failure"] == "no crystal after relaxation: volume below 0.1 A^3"
        assert row["initial_energy_per_atom"] == "-1.000000"
        assert row["steps"] == "5"


def test_a_full_disk_while_relaxing_is_one_sentence(
    cifs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def full(*_: Any) -> None:
        raise UserError("--out cannot be written (No space left on device)")

    monkeypatch.setattr(RelaxedStore, "add", full)
    said = refused(monkeypatch, capsys, f"--structures={cifs}", f"--out={tmp_path / 'out'}")
    assert "No space left on device" in said


def test_a_set_without_a_readable_crystal_is_all_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.cif").write_text("data_nothing\n")
    run(monkeypatch, f"--structures={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")
    (row,) = table(tmp_path / "out")
    assert row["failure"].startswith("unparsable CIF")
    assert math.isnan(read_relaxed(tmp_path / "out")[0].energy_gain)


def test_inputs_of_every_kind_can_be_relaxed(cifs: Path, tmp_path, monkeypatch) -> None:
    run(monkeypatch, f"--structures={cifs / 'm0.cif'}", f"--out={tmp_path / 'out'}")
    (one,) = read_relaxed(tmp_path / "out", read_structures(cifs / "m0.cif"))
    assert one.relaxation.converged
