"""The training loop: its files and progress lines, what it refuses, and bitwise exact resume."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.data.batches import Batch, Batches, evaluation_batches
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.training import loop, training_data
from crystal_diffusion_jax.training.loop import train
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import initial_params
from tests.smoke_run import (
    CONFIG,
    programs_made_once,
    splits,
)

PARTS = {"loss", "lattice", "frac_coords", "species_kl", "species_cross_entropy"}


class Killed(BaseException):
    """Simulates SIGKILL: handlers for ordinary exceptions must not catch it."""


def quiet(line: str) -> None:
    """Ignores the progress lines."""


def kill_at(text: str) -> Callable[[str], None]:
    def log(line: str) -> None:
        if text in line:
            raise Killed

    return log


CLOCK = {"structures_per_second", "seconds"}


def run(workdir: Path, log: Callable[[str], None] = quiet) -> Path:
    return train(CONFIG, splits(), workdir, log)


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    with programs_made_once():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[str]]:
    """Workdir and progress lines of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "runs" / "smoke"
    lines: list[str] = []
    assert run(workdir, lines.append) == workdir / "model"
    return workdir, lines


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """All rows without the values that depend on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def validations(workdir: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(workdir) if row["kind"] == "validation"]


def checkpoint_steps(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir()}


def assert_same_results(workdir: Path, expected: Path) -> None:
    """Bitwise the same metrics and weights."""
    assert metrics(workdir) == metrics(expected)
    models = [trained_model.load(each) for each in (workdir, expected)]
    jax.tree.map(np.testing.assert_array_equal, models[0].params, models[1].params)
    assert models[0].statistics == models[1].statistics


def test_metrics_have_a_row_for_each_log_line_and_each_validation(finished):
    workdir, _ = finished
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    expected = [("train", 5), ("train", 10), ("validation", 10)]
    expected += [("train", 15), ("train", 20), ("validation", 20)]
    assert [(row["kind"], row["step"]) for row in rows] == expected
    for row in rows:
        numbers = {"grad_norm", "seconds"} if row["kind"] == "train" else set()
        if row["kind"] == "train" and row["step"] > 5:  # the first steps are compiled
            numbers.add("structures_per_second")
        sizes = {"by_size"} if row["kind"] == "train" else set()
        assert set(row) == {"kind", "step"} | PARTS | numbers | sizes
        assert all(math.isfinite(row[name]) for name in PARTS | numbers)
        weighted = sum(getattr(CONFIG.loss, name) * row[name] for name in PARTS - {"loss"})
        assert row["loss"] == pytest.approx(weighted, rel=1e-5)


def test_a_run_leaves_checkpoints_tensorboard_and_a_model_that_can_be_loaded(finished):
    workdir, _ = finished
    assert checkpoint_steps(workdir) == {"10", "20"}
    assert any("tfevents" in path.name for path in (workdir / "tensorboard").iterdir())
    model = trained_model.load(workdir)
    assert model.config == CONFIG
    assert model.training["steps"] == 20
    *_, last = validations(workdir)
    assert model.training["validation losses"]["loss"] == pytest.approx(last["loss"], abs=1e-5)


def test_progress_lines_report_size_steps_and_the_best_checkpoint(finished):
    workdir, lines = finished
    assert "2,011 crystals" in lines[0]
    assert [line.split()[1] for line in lines if " lattice " in line] == [
        f"{step}/20" for step in (5, 10, 15, 20)
    ]
    best = min(validations(workdir), key=lambda row: row["loss"])["step"]
    end = f"model is that of step 20; the lowest validation loss was at step {best}"
    assert lines[-1].endswith(end)


@pytest.mark.parametrize(
    ("line", "resumes_at"), [("step 10/20", None), ("step 15/20", 10)], ids=["early", "late"]
)
def test_an_interrupted_and_resumed_run_gives_bitwise_the_same(
    tmp_path, finished, line, resumes_at
):
    with pytest.raises(Killed):
        run(tmp_path, kill_at(line))
    lines: list[str] = []
    run(tmp_path, lines.append)
    resuming = [line for line in lines if "resuming" in line]
    assert ["step 10 " in line for line in resuming] == ([] if resumes_at is None else [True])
    assert_same_results(tmp_path, finished[0])


def test_a_finished_run_is_left_as_it_is(finished):
    workdir, _ = finished
    files = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    lines: list[str] = []
    assert run(workdir, lines.append) == workdir / "model"
    assert f"{workdir} is trained already: all 20 steps are done" in lines
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert after == files


def test_a_finished_run_without_its_model_is_an_error_with_a_way_out(tmp_path, finished):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    last = workdir / "checkpoints" / "20"
    (workdir / "model" / "weights.npz").unlink()
    with pytest.raises(UserError, match="its folder model is missing or incomplete") as caught:
        run(workdir)
    assert f"remove {last} and run this again" in str(caught.value)
    shutil.rmtree(last)
    run(workdir)
    assert_same_results(workdir, finished[0])


def test_data_may_move_between_runs(finished):
    moved = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, root="/elsewhere"))
    lines: list[str] = []
    train(moved, splits(), finished[0], lines.append)
    assert any("trained already" in line for line in lines)


def test_another_config_is_refused_with_all_differing_fields_named(finished):
    other = dataclasses.replace(
        CONFIG, seed=1, training=dataclasses.replace(CONFIG.training, batch_size=16)
    )
    with pytest.raises(UserError) as caught:
        train(other, splits(), finished[0], quiet)
    assert "seed: 0 -> 1" in str(caught.value)
    assert "training.batch_size: 32 -> 16" in str(caught.value)
    assert str(caught.value).count("->") == 2


def test_other_crystals_under_the_same_config_are_refused(finished):
    fewer = splits() | {"val": splits()["val"].take(np.arange(5))}
    with pytest.raises(UserError, match="other data: the crystals of val have changed"):
        train(CONFIG, fewer, finished[0], quiet)


def test_a_damaged_config_in_the_workdir_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        run(tmp_path)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UserError, match="use another --workdir"):
        run(path)


def with_nan(batch: Batch) -> Batch:
    lattice = np.array(batch.crystals.lattice)
    lattice[(2, 3, 1, 1)[-lattice.ndim :]] = np.nan  # of the third step, if there are steps
    damaged = dataclasses.replace(batch.crystals, lattice=jnp.asarray(lattice))
    return batch._replace(crystals=damaged)


class NanBatches(Batches):
    """The batch of the 13th step holds a NaN."""

    def group(self, index: int, multiple: int = 1, part: range | None = None) -> Batch:
        batches = super().group(index, multiple, part)
        return with_nan(batches) if index == 2 else batches  # five steps a group


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(
    tmp_path, finished, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(training_data, "Batches", NanBatches)
        with pytest.raises(
            UserError, match=r"stopped at step 13: .*lattice.* not finite"
        ) as caught:
            run(tmp_path)
    assert "has the checkpoint of step 10" in str(caught.value)
    assert checkpoint_steps(tmp_path) == {"10"}
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    run(tmp_path)
    assert_same_results(tmp_path, finished[0])


def test_a_validation_loss_that_is_not_finite_leaves_neither_checkpoint_nor_model(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        training_data,
        "evaluation_batches",
        lambda *args: [with_nan(x) for x in evaluation_batches(*args)],
    )
    with pytest.raises(UserError, match=r"validation after step 10: .*lattice.* not finite"):
        run(tmp_path)
    assert checkpoint_steps(tmp_path) == set()
    assert not (tmp_path / "model").exists()
    assert [row["kind"] for row in metrics(tmp_path)] == ["train", "train"]


def test_validation_repeats_exactly_for_the_same_weights(tmp_path, finished, monkeypatch):
    scores = []
    validate = loop.validate

    def twice(*args):
        scores.append((validate(*args), validate(*args)))
        raise Killed

    monkeypatch.setattr(loop, "validate", twice)
    with pytest.raises(Killed):
        run(tmp_path)
    assert scores[0][0] == scores[0][1]
    first, _ = validations(finished[0])
    assert scores[0][0] == {name: first[name] for name in PARTS}


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_few_programs_are_compiled_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    programs: list[str] = []

    def count(event: str, duration_secs: float, **about: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(str(about["fun_name"]))

    def stop(*_: object) -> None:
        raise Killed

    training = dataclasses.replace(CONFIG.training, optimizer=optimizer)
    config = dataclasses.replace(CONFIG, training=training)
    monkeypatch.setattr(loop, "initial_params", initial_params)
    monkeypatch.setattr(loop, "make_optimizer", make_optimizer)
    monkeypatch.setattr(loop, "noise_schedule", stop)
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        with pytest.raises(Killed):
            train(config, splits(), tmp_path / "run", log=lambda line: None)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert programs == ["jit(_keys)", "jit(initialise)", "jit(first_state)"]
