"""experiments/evaluate.py with --relax, --relaxed and --controls."""

import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import evaluate as program
from crystal_diffusion_jax.cli import scoring
from crystal_diffusion_jax.evaluation import control_cache
from crystal_diffusion_jax.potentials import drivers
from crystal_diffusion_jax.potentials.relax_folder import relax_into
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxedCrystal, RelaxSettings
from crystal_diffusion_jax.structures.reading import Inputs, read_structures
from tests.commands import exit_status
from tests.test_controls import TEST, TRAIN
from tests.test_evaluate import cif
from tests.test_evaluation_report import oracle_by_number, perovskite

pytestmark = pytest.mark.usefixtures("in_this_process")

Run = Callable[..., int | str | None]


@pytest.fixture
def relaxed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The formulas of each relaxation, in which cells grow by 3 % and release 0.1 eV/atom."""
    found: list[list[str]] = []

    def relax(
        structures: Iterable[Structure], settings: RelaxSettings, progress: bool, total: int
    ) -> Iterator[tuple[int, Relaxation]]:
        crystals = list(structures)
        found.append([crystal.reduced_formula for crystal in crystals])
        for index, crystal in reversed(list(enumerate(crystals))):
            larger = crystal.copy()
            larger.scale_lattice(1.03 * crystal.volume)
            yield index, Relaxation(larger, -7.0, -7.1, 9, True, np.zeros(len(crystal)), None)

    monkeypatch.setattr(drivers, "driver", lambda settings: relax)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Evaluates two crystals with a small data set and oracle; gives the exit status."""
    monkeypatch.setattr(scoring, "load", lambda config: {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(scoring, "predict", oracle_by_number)
    monkeypatch.setattr(control_cache, "cache_folder", lambda: tmp_path / "cache")
    crystals = tmp_path / "set"
    crystals.mkdir()
    (crystals / "a.cif").write_text(cif(perovskite("Ca")))
    (crystals / "b.cif").write_text(cif(perovskite("Ba")))
    (crystals / "c.cif").write_text("")

    def start(*arguments: str) -> int | str | None:
        flags = [f"--structures={crystals}", f"--out={tmp_path / 'm.json'}", "--dataset=perov5"]
        return exit_status(monkeypatch, program.main, *flags, *arguments)

    return start


def content(tmp_path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((tmp_path / "m.json").read_text())
    return read


def test_crystals_and_controls_are_relaxed_and_controls_only_once(
    tmp_path: Path, run: Run, relaxed: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--relax", "--controls=2") == 0
    assert relaxed[0] == ["CaTiO3", "BaTiO3"]
    assert [len(formulas) for formulas in relaxed] == [2, 6]
    first = content(tmp_path)
    assert first["relaxed"]["counts"]["relaxed"] == 2
    assert first["relaxed"]["converged"]["n"] == 3
    assert first["relaxed"]["volume_change"]["mean"]["value"] == pytest.approx(0.03)
    assert first["relaxed"]["energy_gain"]["median"]["value"] == pytest.approx(0.1)
    assert first["relaxed"]["close"]["k"] == 2
    assert first["relaxed"]["stability_after"] is not None
    assert set(first["controls"]) == {"training_band", "substituted", "held_out"}
    for control in first["controls"].values():
        assert control["counts"]["asked_for"] == 2
        assert control["relaxed"]["close"]["k"] == 2
    table = (tmp_path / "m_relaxed" / "relaxed.csv").read_text().splitlines()
    assert table[0].endswith("energy_above_hull,decomposition")
    assert len(table) == 1 + 3
    assert "control: held out, relaxed" in capsys.readouterr().out

    assert run("--relax", "--controls=2") == 0
    assert len(relaxed) == 2
    assert content(tmp_path) == first
    # Other crystals are other controls.
    assert run("--relax", "--controls=1") == 0
    assert [len(formulas) for formulas in relaxed[2:]] == [3]


def test_a_folder_of_relax_is_read_and_its_settings_apply_to_the_controls(
    tmp_path: Path, run: Run, relaxed: list[list[str]]
) -> None:
    settings = RelaxSettings(fmax=0.2)
    relax_into(tmp_path / "there", read_structures(tmp_path / "set"), settings, progress=False)
    assert run(f"--relaxed={tmp_path / 'there'}", "--controls=0") == 0
    assert len(relaxed) == 1
    assert content(tmp_path)["relaxed"]["close"]["k"] == 2
    assert content(tmp_path)["controls"] == {}
    assert run(f"--relaxed={tmp_path / 'there'}", "--controls=1") == 0
    assert run("--relax", "--controls=1") == 0
    # Both once more, with other settings.
    assert [len(formulas) for formulas in relaxed] == [2, 3, 2, 3]


def test_crystals_that_came_after_relaxing_count_as_failures(
    tmp_path: Path, run: Run, relaxed: list[list[str]]
) -> None:
    relax_into(tmp_path / "there", read_structures(tmp_path / "set"), RelaxSettings())
    (tmp_path / "set" / "d.cif").write_text(cif(perovskite("Sr")))
    assert run(f"--relaxed={tmp_path / 'there'}", "--controls=0") == 0
    found = content(tmp_path)["relaxed"]
    assert (found["converged"]["k"], found["converged"]["n"]) == (2, 4)
    assert found["failures"]["by_reason"]["relaxation: not relaxed"] == 1


def test_energies_of_another_potential_are_not_compared_with_the_hull(
    tmp_path: Path, run: Run, relaxed: list[list[str]]
) -> None:
    settings = RelaxSettings(potential="ase:ase.calculators.lj.LennardJones")
    relax_into(tmp_path / "there", read_structures(tmp_path / "set"), settings, progress=False)
    assert run(f"--relaxed={tmp_path / 'there'}", "--controls=1") == 0
    assert content(tmp_path)["relaxed"]["stability_after"] is None
    assert content(tmp_path)["controls"]["held_out"]["relaxed"]["stability_after"] is None
    assert content(tmp_path)["relaxed"]["close"]["k"] == 2


def test_controls_without_relaxing_are_scored_as_they_are(
    tmp_path: Path, run: Run, relaxed: list[list[str]]
) -> None:
    assert run("--controls=3") == 0
    assert relaxed == []
    found = content(tmp_path)
    assert found["relaxed"] is None
    assert found["controls"]["training_band"]["diversity"]["novel"]["k"] == 0
    assert found["controls"]["substituted"]["diversity"]["novel_compositions"]["rate"] == 1.0
    assert run() == 0
    assert content(tmp_path)["controls"] == {}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--relax", "--relaxed={}"], "--relax and --relaxed exclude each other"),
        (["--controls=-1"], "--controls=-1 must be within"),
        (["--relaxed={}/absent"], "absent"),
        (["--relaxed={}/set"], "set"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_sentence(
    tmp_path: Path,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    sentence: str,
) -> None:
    assert run(*[flag.format(tmp_path) for flag in flags]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert sentence in message
    assert message.count("\n") == 1


def test_a_folder_of_other_crystals_is_refused(
    tmp_path: Path, run: Run, relaxed: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.cif").write_text(cif(perovskite("Sr")))
    relax_into(tmp_path / "there", read_structures(tmp_path / "other"), RelaxSettings())
    assert run(f"--relaxed={tmp_path / 'there'}") == 2
    assert "holds the relaxation of other crystals" in capsys.readouterr().err


def test_two_commands_take_turns_with_the_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_cache, "cache_folder", lambda: tmp_path)
    inputs = Inputs([perovskite("Ca")], ["a"], {})
    relax = functools.partial(control_cache.relax_in_cache, inputs, RelaxSettings())
    turns: list[str] = []
    other = threading.Thread(target=relax)

    def relax_into(*_: object) -> list[RelaxedCrystal]:
        turns.append("begins")
        if not other.ident:
            other.start()
            other.join(0.5)  # if it does not wait
        turns.append("ends")
        return []

    monkeypatch.setattr(control_cache, "relax_into", relax_into)
    relax()
    other.join()
    assert turns == ["begins", "ends"] * 2


def test_controls_that_cannot_be_kept_are_named_with_the_way_out(
    tmp_path: Path, run: Run, relaxed: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert run("--relax", "--controls=1") == 2
    message = capsys.readouterr().err
    assert "the controls cannot be relaxed in" in message
    assert "--controls=0" in message
    assert "CRYSTAL_DIFFUSION_CACHE" in message
