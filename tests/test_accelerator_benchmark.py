"""benchmarks/accelerator.py: what it compares, and what it reports as missing."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator, accelerator_table, agreement
from benchmarks.session import Measurement, Session, peak_memory
from benchmarks.speed import random_batch
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices

ROOT = Path(__file__).parent.parent
KINDS = ["loss", "chain", "whole chain", "sampling", "peak", "training"]


def run(tmp_path: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """The report and the page of a quick run on the CPU."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.accelerator", "--quick", *flags),
            *(f"--out={tmp_path / 'report.json'}", f"--table={tmp_path / 'report.md'}"),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    page = (tmp_path / "report.md").read_text()
    assert done.stdout.endswith(page + "\n")
    return report, page


@pytest.mark.faults  # takes minutes
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    report, page = run(tmp_path)
    assert (report["skipped"], report["failed"]) == ([], {})
    assert set(KINDS) <= set(report)
    assert page.count("### ") == len(KINDS)
    assert " - |" not in page
    # The CPU is compared with itself.
    (loss,) = report["loss"]
    assert (loss["loss"], loss["gradient"], loss["within"]) == (0.0, 0.0, True)
    (training,) = report["training"]
    rate = training["forms"]["efficient"]["structures_per_second"]
    assert 0 < rate["low"] <= rate["median"] <= rate["high"]
    flops = rate["median"] * training["needed_flop"]
    peak = 1e12 * report["peak"][0]["tflops"]["median"]
    assert training["share_of_peak"] == pytest.approx(flops / peak, rel=1e-6)


def test_without_time_everything_is_reported_as_skipped(tmp_path: Path) -> None:
    report, page = run(tmp_path, "--budget=0")
    assert {name.partition(":")[0] for name in report["skipped"]} == set(KINDS)
    assert not set(KINDS) & set(report)
    assert all(f"- {name} (budget used up)" in page for name in report["skipped"])


def test_a_machine_without_an_accelerator_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu = agreement.mesh_of(*jax.devices("cpu"))
    monkeypatch.setattr(devices, "data_mesh", lambda: cpu)
    flags = [f"--out={tmp_path / 'report.json'}", f"--table={tmp_path / 'report.md'}"]
    monkeypatch.setattr(sys, "argv", ["accelerator", *flags])
    with pytest.raises(UserError, match=r"no accelerator, only .*--quick"):
        accelerator.main()
    assert list(tmp_path.iterdir()) == []


class Clock:
    """A clock that only `takes` advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def takes(self, seconds: float) -> Callable[[], dict[str, Any]]:
        """A measurement of that length."""

        def measurement() -> dict[str, Any]:
            self.now += seconds
            return {"took": seconds}

        return measurement


def test_no_measurement_starts_that_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    seen: list[int] = []
    columns: dict[str, Any] = {"long": [], "short": []}
    session = Session({}, 10.0, columns, lambda report: seen.append(len(report["long"])))
    session.run(
        [
            *(Measurement("long", name, clock.takes(4.0)) for name in "abc"),
            Measurement("short", "d", clock.takes(1.0)),
        ]
    )
    assert [row["name"] for row in session.report["long"]] == ["a", "b"]
    assert session.report["skipped"] == ["long: c"]
    assert [row["took"] for row in session.report["short"]] == [1.0]
    assert session.report["seconds"] == 9.0
    assert seen == [1, 2, 2]


def test_progress_says_what_came_out_and_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    columns: dict[str, Any] = {"kind": [("", lambda row: row["name"]), ("took", lambda row: "4")]}
    session = Session({}, 100.0, columns, lambda report: None)
    # The second takes as long as the first, the third three times as long.
    seconds = {"a": 2.0, "b": 2.0, "c": 6.0}
    session.run(
        [
            Measurement("kind", name, clock.takes(2 * ahead), ahead)
            for name, ahead in seconds.items()
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines[::2]] == ["kind: a", "kind: b", "kind: c"]
    assert [line.strip() for line in lines[1::2]] == [
        f"took 4; {left} s left" for left in (16, 12, 0)
    ]


def test_a_failure_is_reported_and_the_others_continue() -> None:
    def exhausted() -> dict[str, Any]:
        raise RuntimeError("out of\nmemory")

    head = {"devices": "d", "jax": "0", "quick": False}
    session = Session(head, 10.0, accelerator_table.COLUMNS, lambda report: None)
    one = {"median": 1.0, "low": 0.5, "high": 1.5}
    session.run(
        [
            Measurement("peak", "float32", exhausted),
            Measurement("peak", "bfloat16", lambda: {"tflops": one}),
        ]
    )
    assert session.report["failed"] == {"peak: float32": "out of memory"}
    page = accelerator_table.page(session.report)
    assert "- peak: float32 (out of memory)" in page
    assert "| bfloat16 | 1 | 0.5 to 1.5 |" in page


def test_peak_memory_is_that_of_the_device_if_known() -> None:
    class Counting:
        def memory_stats(self) -> dict[str, int]:
            return {"peak_bytes_in_use": 3 * 2**20}

    counted: Any = Counting()
    assert peak_memory(counted) == {"peak_memory_mb": 3, "memory_of": "device"}
    of_process = peak_memory(jax.devices("cpu")[0])
    assert of_process["memory_of"] == "process"
    assert of_process["peak_memory_mb"] > 50


def test_differences_of_crystals_are_periodic() -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "lattice": rng.normal(size=(4, 3, 3)),
        "frac_coords": rng.random((4, 5, 3)) / 2,
        "species": np.zeros((4, 5), int),
        "mask": np.ones((4, 5), bool),
    }
    one = Crystals(**arrays)
    moved = dataclasses.replace(one, frac_coords=one.frac_coords + 0.001)
    around = dataclasses.replace(moved, frac_coords=(moved.frac_coords + 1.0 - 0.002) % 1.0)
    species: Any = np.array(one.species)
    species[1, 3] = 2
    other = dataclasses.replace(around, lattice=one.lattice + 0.1, species=species)
    found = agreement.differences(other, one)
    assert found == pytest.approx({"other_species": 0.25, "lattice": 0.1, "frac_coords": 0.001})
    assert agreement.differences(one, one) == dict.fromkeys(found, 0.0)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_loss() -> None:
    model = trained_model.load("perov5_cds")
    small = dataclasses.replace(model.config.model, width=8, pair_hidden_width=8, num_blocks=1)
    config = dataclasses.replace(model.config, model=small, noise=NoiseConfig(num_steps=10))
    model = dataclasses.replace(model, config=config)
    rng = np.random.default_rng(0)
    crystals, properties = random_batch(1, 5)[:2]
    condition = Condition(jnp.asarray(properties), jnp.ones(properties.shape, bool))
    t = jnp.ones(1, jnp.int32)
    like = jax.eval_shape(model.denoiser.init, jax.random.key(0), crystals, t, condition)["params"]
    vector, unflatten = jax.flatten_util.ravel_pytree(
        jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), like)
    )
    mesh = agreement.mesh_of(jax.devices("cpu")[0])

    def at(params: Any) -> tuple[float, np.ndarray]:
        moved = dataclasses.replace(model, params=unflatten(params))
        losses, gradient = agreement.losses_and_gradient(moved, mesh, 8)
        return losses["loss"], gradient

    gradient = at(vector)[1]
    length = np.linalg.norm(gradient)
    step = 0.01 * gradient / length
    slope = (at(vector + step)[0] - at(vector - step)[0]) / 0.02
    assert slope == pytest.approx(length, rel=1e-2)


def test_only_numbers_within_the_tolerances_agree() -> None:
    allowed = {"loss": 1.0, "gradient": 1.0}
    assert agreement.within({"loss": 1.0, "gradient": 0.0}, allowed)
    assert not agreement.within({"loss": 1.1}, allowed)
    assert not agreement.within({"loss": float("nan")}, allowed)
    assert not accelerator_table.agrees({"loss": [{"within": True}, {"within": False}]})
    assert accelerator_table.agrees({"loss": [{"within": True}]})


def test_standard_errors_of_equal_distributions_are_standard_normal() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, size=(2, 2000, 100))
    found = [agreement.standard_errors(one, other) for one, other in zip(*draws, strict=True)]
    # The second moment of a standard normal number, to four of its own standard errors.
    assert np.mean(np.square(found)) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 2000) + 0.02)
    assert agreement.standard_errors(np.ones(3), np.ones(3)) == 0.0
    assert agreement.standard_errors(np.ones(3), np.zeros(3)) == np.inf
