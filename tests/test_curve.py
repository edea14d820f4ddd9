"""studies/curve.py: checkpoints to models, log to minutes, and points that are kept."""

import inspect
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from crystal_diffusion_jax import api, trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals
from crystal_diffusion_jax.training.checkpoint_files import DamagedError
from studies import curve, measurement
from studies.curve import checkpoint_model, read_log
from tests import tiny_run

SOLVER = "--solver=second_order"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Workdir of a run, and its weights."""
    folder = tmp_path_factory.mktemp("curve") / "run"
    return folder, tiny_run.write(folder)


@pytest.fixture
def workdir(trained: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(trained[0], tmp_path / "run")


def test_a_checkpoint_becomes_the_model_of_its_averaged_weights(trained):
    workdir, params = trained
    last = trained_model.load(workdir)
    models = {step: checkpoint_model(workdir, step, last) for step in tiny_run.STEPS}
    for step, model in models.items():
        np.testing.assert_array_equal(ravel_pytree(model.params)[0], tiny_run.scaled(params, step))
    assert len({model.weights_sha256 for model in models.values()}) == 2


def test_the_weights_of_a_checkpoint_are_not_tied_to_one_device(workdir):
    last = trained_model.load(workdir)
    leaves = jax.tree.leaves(checkpoint_model(workdir, 20, last).params)
    assert leaves
    assert all(type(leaf) is np.ndarray for leaf in leaves)  # placed where it is used


def test_a_damaged_or_missing_checkpoint_is_named(workdir):
    last = trained_model.load(workdir)
    (workdir / "checkpoints" / "10" / "sha256.json").unlink()
    for step in (10, 15):
        with pytest.raises(DamagedError, match=f"{step}"):
            checkpoint_model(workdir, step, last)


def test_the_log_gives_minutes_and_losses_by_step(workdir):
    path = workdir / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "train", "st')  # being written
    minutes, losses = read_log(path)
    assert minutes == pytest.approx({10: 2.0, 20: 4.0})
    assert losses == pytest.approx({10: 2.5, 20: 2.0})
    for damaged in ("no log", "[" * 100_000, '{"kind": "train", "step": 1e400, "seconds": 1}'):
        path.write_text(f"{damaged}\n")
        with pytest.raises(UserError, match="missing or damaged"):
            read_log(path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["curve.py", *arguments])
    monkeypatch.setattr(measurement, "predict", tiny_run.predict)
    program.run(curve.main)


@pytest.mark.parametrize("real_sampler", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_points_of_deleted_checkpoints_are_kept(
    workdir, tmp_path, monkeypatch, capsys, real_sampler
):
    signature = inspect.signature(api.Model.sample)
    perovskites = {0: tiny_run.perovskite("Sr", "Ti", 3.9), 1: tiny_run.perovskite("Ba", "Ti", 4.0)}

    def sample(*asked: Any, **how: Any) -> SampledCrystals:
        signature.bind(*asked, **how)
        return tiny_run.sampled(2, perovskites, {})

    if not real_sampler:
        monkeypatch.setattr(api.Model, "sample", sample)
    out = tmp_path / "curve.png"
    arguments = [f"--workdir={workdir}", f"--out={out}", "--num=2", "--guidance=0", SOLVER]
    shutil.move(workdir / "checkpoints" / "20", tmp_path / "20")
    run(monkeypatch, *arguments)
    monkeypatch.setattr(api.Model, "sample", sample)
    shutil.move(tmp_path / "20", workdir / "checkpoints" / "20")
    (workdir / "checkpoints" / "10" / "sha256.json").unlink()
    run(monkeypatch, *arguments)
    assert "step 10 is skipped" in capsys.readouterr().err
    points = json.loads(out.with_suffix(".json").read_text())
    assert [(point["step"], point["minutes"]) for point in points] == [(10, 2.0), (20, 4.0)]
    assert [point["validation_loss"] for point in points] == [2.5, 2.0]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert len(out.read_bytes()) < 80_000
    shutil.rmtree(workdir / "checkpoints")  # everything is measured: drawn without sampling
    out.unlink()
    run(monkeypatch, *arguments)
    assert out.exists()
    (workdir / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert "belongs to another run" in capsys.readouterr().err


def test_a_mistake_ends_with_one_sentence(workdir, tmp_path, monkeypatch, capsys):
    given = [f"--workdir={workdir}", f"--out={tmp_path / 'curve.png'}"]
    shutil.rmtree(workdir / "checkpoints")
    for arguments, fragment in (
        ([f"--workdir={tmp_path}"], "metrics.jsonl is missing"),
        ([f"--out={tmp_path / 'curve.json'}"], "choose a name in .png"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--guidance=inf"], "--guidance=inf must be finite"),
        ([], "holds no checkpoint"),
        ([], "no readable config.json"),
    ):
        if fragment == "no readable config.json":
            (workdir / "config.json").unlink()
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *given, *arguments)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert fragment in said
