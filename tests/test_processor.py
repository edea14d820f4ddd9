"""benchmarks/processor.py: its forms compute the same, its tables are those of its reports."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from benchmarks import (
    machine,
    plain_attention,
    processor,
    processor_tables,
    scoring,
    startup,
    tables,
    timing,
)
from benchmarks.speed import random_batch
from benchmarks.training_speed import FORMS, flop, needed_flop, with_width
from crystal_diffusion_jax.config import ExperimentConfig, NoiseConfig, TrainingConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models import embeddings
from crystal_diffusion_jax.runtime import devices

ROOT = Path(__file__).parent.parent


def experiment(width: int = 8, num_blocks: int = 1) -> ExperimentConfig:
    config = with_width(ExperimentConfig(), width)
    model = dataclasses.replace(config.model, num_blocks=num_blocks, num_heads=2)
    training = TrainingConfig(warmup_steps=1)
    noise = NoiseConfig(num_steps=10)
    return dataclasses.replace(config, model=model, training=training, noise=noise)


def test_all_forms_train_to_the_same_losses() -> None:
    mesh = Mesh(np.array(jax.devices()[:1]), (devices.AXIS,), axis_types=(AxisType.Auto,))
    batch = random_batch(4, 3)
    losses = {
        form: np.asarray(FORMS[form](experiment(), batch, mesh, 4).call())
        for form in ("efficient", "plain", "naive")
    }
    assert losses["efficient"].shape == (4,)
    assert len(set(losses["efficient"].tolist())) == 4
    for form in ("plain", "naive"):
        np.testing.assert_allclose(losses[form], losses["efficient"], rtol=1e-5)


def test_copies_are_no_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(array: Any) -> Any:
        raise AssertionError("a copy would be counted as a product")

    monkeypatch.setattr(embeddings, "stored", stored)
    assert flop(experiment(), random_batch(2, 3)) > 0


def test_no_form_needs_fewer_operations_than_are_needed() -> None:
    config, batch = experiment(), random_batch(2, 5)
    needed = needed_flop(config, batch)
    assert 0 < needed < flop(config, batch)
    with plain_attention.used():
        assert needed < flop(config, batch)


def test_operations_are_those_of_a_crystal() -> None:
    two, six = (needed_flop(experiment(), random_batch(num, 5)) for num in (2, 6))
    assert six == pytest.approx(two, rel=0.01)


def test_calls_take_turns_after_one_without_a_clock() -> None:
    called: list[str] = []
    calls = {name: functools.partial(called.append, name) for name in "ab"}
    seconds = timing.interleaved(calls, 2)
    assert called == list("ababab")
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_a_rate_has_a_median_and_a_range() -> None:
    assert timing.rate(12.0, [2.0, 3.0, 4.0]) == {"median": 4.0, "low": 3.0, "high": 6.0}


def row(width: int, num_atoms: int, **rates: float) -> dict[str, Any]:
    forms = {
        form: {"structures_per_second": timing.spread([value]), "compile_seconds": 1.0}
        for form, value in rates.items()
    }
    return {
        "name": f"width {width}, {num_atoms} atoms",
        "width": width,
        "num_atoms": num_atoms,
        "batch_size": 32,
        "needed_flop": 10**9,
        "forms": forms,
    }


def test_the_exponent_is_that_of_the_cost() -> None:
    rows = [
        row(width, num_atoms, efficient=7e6 * num_atoms**-power)
        for width, power in [(64, 1.25), (256, 1.5)]
        for num_atoms in (5, 10, 20)
    ]
    found = processor_tables.exponents([*rows, row(512, 5, efficient=1.0)])
    assert found == {64: pytest.approx(1.25, abs=1e-3), 256: pytest.approx(1.5, abs=1e-3)}


def report(**rows: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"machine": machine.describe(), "quick": False}
    return head | {"skipped": [], "failed": {"scoring: bonds": "no disk"}} | rows


def test_shares_are_of_the_median_peak() -> None:
    peaks = [
        {"name": name, "tflops": timing.spread([value])}
        for name, value in zip("ab", (1, 3), strict=True)
    ]
    rows = [row(64, 5, efficient=1000.0, naive=500.0), row(64, 52, efficient=10.0)]
    page = processor_tables.page(report(peak=peaks, training=rows))
    cells = "| width 64, 5 atoms | 32 | 1,000 | 500 | 1,000 to 1,000 | 2.00 | 0.50 | 0.25 | 1.0 s |"
    assert cells in page
    assert "| width 64, 52 atoms | 32 | 10 | - | 10 to 10 | - | 0.01 | - | 1.0 s |" in page
    assert "- scoring: bonds (no disk)" in page


def test_the_tables_of_the_readme_are_those_of_the_reports() -> None:
    readme = processor_tables.README.read_text()
    again = processor_tables.with_section(readme, processor_tables.section())
    assert again == readme, "python -m benchmarks.processor --tables"
    for path in processor_tables.REPORTS.glob("*.json"):
        assert not json.loads(path.read_text())["quick"]


def test_tables_replace_the_ones_before() -> None:
    begin, end = processor_tables.BEGIN, processor_tables.END
    text = f"head {begin} old {end} tail"
    once = processor_tables.with_section(text, "new")
    assert once == f"head {begin}\n\nnew\n{end} tail"
    assert processor_tables.with_section(once, "new") == once


def test_numbers_have_three_digits() -> None:
    assert [tables.number(value) for value in (0.01234, 1.5, 99.94, 12345.6)] == [
        "0.0123",
        "1.5",
        "99.9",
        "12,346",
    ]


def test_caches_are_read_from_the_system(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    assert machine.caches(tmp_path) == ["L1 32K", "L2 1024K"]
    assert machine.caches(tmp_path / "missing") == []


def test_a_command_is_stopped_at_its_line(tmp_path: Path) -> None:
    code = "import time; print('step 10/10'); time.sleep(10**6)"
    assert startup.seconds_until(["-c", code], tmp_path, r"step 10/") > 0


@pytest.mark.parametrize("code", ["raise SystemExit('no data')", "print('no data')"])
def test_a_command_that_fails_says_why(code: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no data"):
        startup.seconds_until(["-c", code], tmp_path, "step")


def test_cached_programs_are_those_of_the_run_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import os, sys, pathlib; cache = pathlib.Path(os.environ['CRYSTAL_DIFFUSION_CACHE']); "
        "print(cache.exists(), sys.argv[1] == str(cache), file=open(sys.argv[2], 'a')); "
        "cache.mkdir(exist_ok=True)"
    )

    def command(folder: Path) -> Sequence[str]:
        return ["-c", code, str(folder), str(log)]

    found = startup.cold_and_cached(command, 2)
    assert set(found) == {"cold", "cached"}
    assert log.read_text().split("\n") == ["False False", "True False"] * 2 + [""]


def test_supercells_have_the_atoms_of_their_cells() -> None:
    one, four = scoring.perovskites(2), scoring.perovskites(2, (1, 2, 2))
    assert [len(crystal) for crystal in (*one, *four)] == [5, 5, 20, 20]
    assert four[0].volume == pytest.approx(4 * one[0].volume)
    assert one[0].composition != one[1].composition


def test_quick_reports_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    out = processor_tables.REPORTS / "quick.json"
    monkeypatch.setattr(sys, "argv", ["processor", "--quick", f"--out={out}"])
    with pytest.raises(UserError, match="--quick"):
        processor.main()
    assert not out.exists()


@pytest.mark.faults
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processor", "--quick", f"--out={out}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["skipped"] == []
    # Published weights may be out of reach.
    assert {name.partition(":")[0] for name in found["failed"]} <= {"scoring"}
    assert set(found) >= {"peak", "training", "sampling", "start", "scoring"}
    assert [set(one["forms"]) for one in found["training"]] == [set(FORMS), {"efficient"}]
    assert len(found["start"]) == 4
    page = processor_tables.page(found)
    assert done.stdout.endswith(page + "\n")
    assert page.count("#### ") == 5
