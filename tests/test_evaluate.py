"""experiments/evaluate.py: from files to a report, whatever is in the files."""

import csv
import functools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystal_diffusion_jax.cli import evaluate as program
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.cli import scoring
from crystal_diffusion_jax.data import prepared
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation import diversity as evaluation_diversity
from crystal_diffusion_jax.evaluation import matching
from crystal_diffusion_jax.oracles import bonds
from crystal_diffusion_jax.structures.comparing import reduce
from tests import golden
from tests.commands import exit_status, read_strictly
from tests.test_evaluation_report import (
    INPUTS,
    OVERLAP,
    SITES,
    SPEC,
    TEST,
    TRAIN,
    oracle_by_number,
    perovskite,
)

pytestmark = pytest.mark.usefixtures("in_this_process")


def cif(structure: Structure) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return str(CifWriter(structure))


HOSTILE: dict[str, tuple[Structure | str, str]] = {
    "overlap": (OVERLAP, "structure: two atoms closer"),
    "same_site": (
        Structure(Lattice.cubic(4), ["Mg", "O"], [[0, 0, 0]] * 2),
        "structure: two atoms",
    ),
    "tiny": (Structure(Lattice.cubic(0.2154), ["Fe"], [[0, 0, 0]]), "reading: volume below"),
    "americium": (perovskite("Am"), "property: element unknown to the networks"),
    "oganesson": (Structure(Lattice.cubic(5), ["Og", "O"], SITES[:2]), "unknown to SMACT"),
    "nan": (cif(perovskite("Ca")).replace("0.50000000", "nan", 1), "reading: unparsable CIF"),
    "far_away": (cif(perovskite("Sr")).replace("0.50000000", "5e9", 1), "structure: two atoms"),
    "empty": ("", "reading: empty file"),
    "noise": ("\x00\x01 data_", "reading: binary"),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """Runs the program with the small data set and oracle; gives its exit status."""
    monkeypatch.setattr(scoring, "load", lambda config: {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(scoring, "predict", oracle_by_number)
    return functools.partial(exit_status, monkeypatch, program.main)


def write_hostile(folder: Path) -> Path:
    """All of `HOSTILE` and two good crystals as CIFs."""
    folder.mkdir()
    for name, (hostile, _) in HOSTILE.items():
        text = hostile if isinstance(hostile, str) else cif(hostile)
        (folder / f"{name}.cif").write_text(text)
    (folder / "one_atom.cif").write_text(cif(Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])))
    (folder / "good.cif").write_text(cif(perovskite("Ca")))
    return folder


def assert_hostile_are_named(content: dict[str, Any]) -> dict[str, list[str]]:
    """All of `HOSTILE` have their reasons, and count; the reasons of all crystals by name."""
    named: dict[str, list[str]] = {}
    for failure in content["failures"]["list"]:
        named.setdefault(failure["name"], []).append(f"{failure['stage']}: {failure['reason']}")
    for name, (_, reason) in HOSTILE.items():
        assert any(reason in text for text in named[f"{name}.cif"]), named
    assert "good.cif" not in named
    num = content["counts"]["asked_for"]
    assert num >= len(HOSTILE) + 2
    assert content["success_rate"]["single_valid"]["SR5"]["n"] == num
    return named


def test_hostile_and_odd_crystals_are_counted_and_named_among_good_ones(
    tmp_path: Path, run: Callable[..., int | str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_hostile(tmp_path / "set")
    out = tmp_path / "new" / "metrics.json"
    assert run(f"--structures={folder}", "--dataset=perov5", f"--out={out}") == 0
    content = read_strictly(out)
    failures = content["failures"]["list"]
    assert "one_atom.cif" not in assert_hostile_are_named(content)
    by_reason = Counter(f"{f['stage']}: {f['reason']}" for f in failures)
    assert content["failures"]["by_reason"] == by_reason
    assert str(out) in capsys.readouterr().out


def reduce_but_the_big_one_never(structure: Structure) -> Structure | str:
    while len(structure) == 500:
        time.sleep(1)
    return reduce(structure)


@pytest.mark.slow
def test_the_real_networks_score_a_hostile_set_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.network("perov5")
    folder = write_hostile(tmp_path / "set")
    rng = np.random.default_rng(0)
    big = Structure(Lattice.cubic(25), ["C"] * 500, rng.random((500, 3)))
    (folder / "big.cif").write_text(cif(big))
    root = tmp_path / "data"
    root.mkdir()
    for split, elements in (("train", "BaMg"), ("val", "SrCa"), ("test", "PbSr")):
        with (root / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["material_id", SPEC.property_name, "cif"])
            table.writerow(["bad", 1.0, "nonsense"])
            for symbol in (elements[:2], elements[2:]):
                table.writerow([symbol, 1.0, cif(perovskite(symbol))])
    monkeypatch.setattr(bonds, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(prepared, "cache_folder", lambda: tmp_path / "cache")
    # The other crystals are reduced in milliseconds, which is far below the limit on any machine.
    monkeypatch.setattr(matching, "reduce", reduce_but_the_big_one_never)
    quick_match = functools.partial(matching.match, time_limit=20.0)
    monkeypatch.setattr(evaluation_diversity, "match", quick_match)
    out = tmp_path / "metrics.json"
    flags = [f"--structures={folder}", "--dataset=perov5", f"--root={root}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags, "--skip_bad_rows"])
    cli.run(program.main)
    content = read_strictly(out)
    (reason,) = assert_hostile_are_named(content)["one_atom.cif"]
    assert reason == "property: outside the oracle's training (number of atoms)"
    counts = content["counts"]
    assert (counts["train"], counts["test"], counts["test_predicted"]) == (2, 2, 2)
    too_long = {
        failure["name"]
        for failure in content["failures"]["list"]
        if failure["stage"] == "comparison" and "no result after 20 s" in failure["detail"]
    }
    assert too_long == {"big.cif"}


def test_bad_rows_of_the_data_set_are_refused_with_the_flag_that_skips_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepared, "cache_folder", lambda: tmp_path / "cache")
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text(f"material_id,{SPEC.property_name},cif\nx,1,no\n")
    (tmp_path / "a.cif").write_text(cif(perovskite("Ca")))
    flags = [f"--structures={tmp_path / 'a.cif'}", f"--root={tmp_path}", "--dataset=perov5"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags, f"--out={tmp_path / 'm.json'}"])
    with pytest.raises(SystemExit) as stop:
        cli.run(program.main)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "3 of 3 rows" in message
    assert "go on without them: --skip_bad_rows" in message


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--structures={}/absent", "--out={}/m.json"], "absent does not exist"),
        (["--structures={}/no.cif", "--out={}/m.json"], "no.cif cannot be read: not a CIF"),
        (["--structures={}", "--out={}/no.cif/m.json"], "m.json cannot be written"),
        (["--structures={}", "--out={}"], "is a folder"),
    ],
)
def test_a_users_mistake_ends_with_status_2_and_one_sentence(
    tmp_path: Path,
    run: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    sentence: str,
) -> None:
    (tmp_path / "no.cif").write_text("hello")
    assert run(*[flag.format(tmp_path) for flag in flags], "--dataset=perov5") == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert sentence in message
    assert message.count("\n") == 1


def test_coverage_without_its_extra_is_refused_before_any_work(
    tmp_path: Path,
    run: Callable[..., int | str | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise UserError("matminer is missing")

    monkeypatch.setattr(scoring, "require_matminer", refuse)
    monkeypatch.setattr(scoring, "load", None)
    flags = [f"--structures={tmp_path}", "--dataset=perov5", f"--out={tmp_path / 'm.json'}"]
    assert run(*flags, "--coverage") == 2
    assert "matminer is missing" in capsys.readouterr().err


def test_scores_of_each_crystal_are_added_to_the_samples(
    tmp_path: Path, run: Callable[..., int | str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pytest.importorskip("crystal_diffusion_jax.structures.store")
    added: dict[str, list[Any]] = {}
    monkeypatch.setattr(store, "add_columns", lambda path, columns, data: added.update(columns))
    monkeypatch.setattr(scoring, "read_structures", lambda path: INPUTS)
    (tmp_path / "samples.db").touch()
    out = tmp_path / "m.json"
    assert run(f"--structures={tmp_path}", "--dataset=perov5", f"--out={out}") == 0
    assert added["valid"] == [True, True, True, False, True, False, True, False]
    assert added["unique"] == [True, False, True, True, True, True, True, False]
    assert added["novel"] == [True, True, False, True, False, True, True, False]
    np.testing.assert_allclose(added["predicted_heat_ref"][:4], [0.2, 0.2, 0.56, 0.18])
    assert np.isnan(added["predicted_heat_ref"][6:]).all()
    reasons = [*[None] * 6, "element unknown to the networks", None]
    assert added["predicted_heat_ref_failure"] == reasons
