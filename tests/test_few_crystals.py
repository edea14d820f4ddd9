"""Few crystals: caps, warnings, the early end, and runs that are prolonged."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from configs import own_data_finetune
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import ExperimentConfig, TrainingConfig, from_dict
from crystal_diffusion_jax.data import few
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.training import loop
from crystal_diffusion_jax.training.init_from import load_initial_model
from crystal_diffusion_jax.training.loop import train
from crystal_diffusion_jax.training.optimizer import learning_rates, make_optimizer
from crystal_diffusion_jax.training.training_data import (
    VALIDATION_CRYSTALS,
    WARMUP_PASSES,
    prepare_data,
)
from tests.smoke_run import CONFIG, programs_made_once, splits
from tests.test_loop import Killed, assert_same_results, kill_at, quiet


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    with programs_made_once():
        yield


def changed(**training: Any) -> ExperimentConfig:
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **training))


def of_sizes(train: int, val: int) -> dict[str, Any]:
    """Few crystals, the same ones to validate on, so that no element is new there."""
    crystals = splits()["train"].take(np.arange(train))
    return {"train": crystals, "val": crystals.take(np.arange(val) % train)}


def test_the_recipe_fits_the_model_that_it_starts_from():
    model = load_initial_model(from_dict(own_data_finetune.get_config().to_dict()))
    assert model is not None
    smoke = load_initial_model(from_dict(own_data_finetune.get_config("smoke").to_dict()))
    assert smoke is not None
    assert smoke.weights_sha256 == model.weights_sha256


def test_a_run_that_starts_from_a_model_measures_lattices_in_the_unit_of_that_model():
    plain = prepare_data(CONFIG, splits(), devices.data_mesh())
    scaled = prepare_data(
        CONFIG, splits(), devices.data_mesh(), 2.5 * plain.statistics.lattice_scale
    )
    assert scaled.statistics.lattice_scale == 2.5 * plain.statistics.lattice_scale
    lattices = [data.batches.group(0).crystals.lattice for data in (plain, scaled)]
    np.testing.assert_allclose(lattices[0], 2.5 * lattices[1], rtol=1e-6)


@pytest.mark.parametrize(("crystals", "batch_size"), [(8, 32), (36, 32), (1_000, 32), (2_000, 256)])
def test_the_warm_up_is_at_most_forty_passes(crystals, batch_size):
    config = changed(num_steps=20_000, warmup_steps=500, batch_size=batch_size)
    found = prepare_data(config, of_sizes(crystals, 20), devices.data_mesh()).training.warmup_steps
    passes = WARMUP_PASSES * crystals / min(batch_size, crystals)
    assert min(500, passes) <= found <= min(500, passes + WARMUP_PASSES)


@pytest.mark.parametrize("num_val", [1, 4, 30, 200])
def test_a_small_validation_split_is_repeated_each_crystal_equally_often(num_val):
    data = prepare_data(CONFIG, of_sizes(100, num_val), devices.data_mesh())
    weight = sum(float(batch.weight.sum()) for batch in data.validation)
    assert weight % num_val == 0
    assert VALIDATION_CRYSTALS / 2 < weight <= VALIDATION_CRYSTALS


@pytest.mark.parametrize(
    ("num_train", "num_val", "fine_tuned", "said"),
    [
        (10_000, 1_000, False, []),
        (1_999, 200, True, []),
        (
            1_999,
            200,
            False,
            ["1,999 crystals are few for fresh weights: --config=own_data_finetune"],
        ),
        (199, 20, True, ["199 crystals are too few to learn"]),
        (
            36,
            4,
            False,
            ["--config=own_data_finetune", "36 crystals are too few", "of 4 crystals is"],
        ),
        (500, 1, True, ["the validation loss of 1 crystal is"]),
    ],
)
def test_what_few_crystals_cannot_do_is_said(num_train, num_val, fine_tuned, said):
    found = few.warnings(num_train, num_val, fine_tuned)
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence


def test_the_warnings_are_in_the_log(tmp_path):
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith("compiling"):
            raise Killed

    with pytest.raises(Killed):
        train(CONFIG, of_sizes(36, 4), tmp_path, log)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert warnings == [f"warning: {each}" for each in few.warnings(36, 4, False)]
    assert len(warnings) == 3
    assert lines[-1] == "compiling training, size 1 of 1: up to 5 atoms"


def test_the_card_of_a_model_of_few_crystals_says_so_first(tiny_model):
    def card(count: int) -> str:
        statistics = dataclasses.replace(tiny_model.statistics, num_atoms_histogram=((5, count),))
        return trained_model.model_card(dataclasses.replace(tiny_model, statistics=statistics))

    assert "> Trained on 36 crystals only." in card(36).split("parameters")[0]
    assert "> Trained on 1 crystal only." in card(1)
    assert "Trained on" not in card(2_000).split("parameters")[0]


@pytest.fixture
def scripted(monkeypatch) -> list[float]:
    """The validation losses to come."""
    losses: list[float] = []

    def validate(*_: Any) -> dict[str, float]:
        return {"loss": losses.pop(0), "lattice": 1.0}

    monkeypatch.setattr(loop, "validate", validate)
    return losses


def patient(num_steps: int = 60, patience: int = 2) -> ExperimentConfig:
    return changed(num_steps=num_steps, checkpoint_every=5, patience=patience)


def steps_of(workdir: Path) -> list[int]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "validation"]


@pytest.mark.parametrize(
    ("losses", "patience", "last", "best"),
    [
        ([5, 6, 4, 5, 3, 4, 4], 2, 35, 25),
        ([1, 2], 1, 10, 5),
        ([5, 4, 4, 5, 6], 2, 25, 15),  # of equal ones the later, as the checkpoints have it
    ],
)
def test_training_ends_when_the_lowest_loss_is_that_many_validations_ago(
    tmp_path, scripted, losses: Sequence[float], patience, last, best
):
    scripted += losses
    lines: list[str] = []
    train(patient(patience=patience), splits(), tmp_path, lines.append)
    assert steps_of(tmp_path) == list(range(5, last + 1, 5))
    assert scripted == []
    model = trained_model.load(tmp_path)
    assert model.training["steps"] == best
    assert model.training["validation losses"]["loss"] == min(losses)
    assert lines[-1].endswith(
        f"model is that of step {best}; the lowest validation loss was at step {best}"
    )
    # Finished: the same command leaves it alone.
    train(patient(patience=patience), splits(), tmp_path, lines.append)
    assert f"{tmp_path} is trained already: all {last} steps are done" in lines


def test_without_patience_the_model_is_the_last_one(tmp_path, scripted):
    scripted += [1, 2, 3, 4]
    train(changed(num_steps=20, checkpoint_every=5), splits(), tmp_path, quiet)
    assert trained_model.load(tmp_path).training["steps"] == 20


def test_an_interrupted_run_ends_at_the_same_step_with_the_same_model(tmp_path, scripted):
    losses = [5.0, 3.0, 4.0, 4.5]
    scripted += losses
    train(patient(), splits(), tmp_path / "whole", quiet)
    scripted += losses[:3]
    with pytest.raises(Killed):
        train(patient(), splits(), tmp_path / "cut", kill_at("step 15  validation"))
    scripted[:] = losses[2:]
    train(patient(), splits(), tmp_path / "cut", quiet)
    assert scripted == []
    assert_same_results(tmp_path / "cut", tmp_path / "whole")


def test_more_patience_goes_on(tmp_path, scripted):
    scripted += [3, 4, 5]
    train(patient(patience=2), splits(), tmp_path, quiet)
    scripted += [2, 4, 5, 6]
    train(patient(patience=3), splits(), tmp_path, quiet)
    assert steps_of(tmp_path) == list(range(5, 36, 5))
    assert trained_model.load(tmp_path).training["steps"] == 20


def test_the_learning_rate_before_the_decay_does_not_depend_on_the_number_of_steps():
    short, long = (
        learning_rates(TrainingConfig(num_steps=n, warmup_steps=10, decay_steps=20))
        for n in (100, 300)
    )
    for step in range(80):
        assert short(step) == long(step)
    assert short(90) < long(90)


@pytest.mark.parametrize("decay_steps", [0, 30, 90, 500])
def test_the_learning_rate_rises_stays_and_falls_along_a_cosine(decay_steps):
    config = TrainingConfig(
        num_steps=100,
        warmup_steps=10,
        decay_steps=decay_steps,
        learning_rate=0.5,
        final_learning_rate=0.1,
    )
    rate = learning_rates(config)
    start = 70 if decay_steps == 30 else 10
    for step in range(101):
        if step < 10:
            expected = 0.05 * step
        elif step < start:
            expected = 0.5
        else:
            turn = np.pi * (step - start) / (100 - start)
            expected = 0.1 + 0.4 * (1 + np.cos(turn)) / 2
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_a_run_prolonged_before_its_decay_is_bitwise_the_longer_run(tmp_path):
    with pytest.raises(Killed):
        train(
            changed(num_steps=20, decay_steps=5),
            splits(),
            tmp_path / "grown",
            kill_at("step 15/20"),
        )
    train(changed(num_steps=30, decay_steps=5), splits(), tmp_path / "grown", quiet)
    train(changed(num_steps=30, decay_steps=5), splits(), tmp_path / "long", quiet)
    assert_same_results(tmp_path / "grown", tmp_path / "long")


def test_a_finished_run_goes_on_with_more_steps_and_then_has_that_config(tmp_path):
    train(changed(num_steps=10), splits(), tmp_path, quiet)
    lines: list[str] = []
    train(changed(num_steps=20), splits(), tmp_path, lines.append)
    assert any("resuming from the checkpoint of step 10" in line for line in lines)
    assert trained_model.load(tmp_path).training["steps"] == 20
    recorded = json.loads((tmp_path / "config.json").read_text())["config"]
    assert from_dict(recorded) == changed(num_steps=20)
    with pytest.raises(UserError, match=r"training\.num_steps: 20 -> 10"):
        train(changed(num_steps=10), splits(), tmp_path, quiet)


def test_the_property_embedding_moves_that_many_times_as_far():
    tree = {"property": {"weight": np.ones((2, 3), np.float32)}, "head": {"kernel": np.ones(4)}}
    vector, unflatten = jax.flatten_util.ravel_pytree(tree)
    gradient = jax.random.normal(jax.random.key(0), vector.shape)
    updates = []
    for rate in (1.0, 30.0):
        config = TrainingConfig(num_steps=100, warmup_steps=0, property_rate=rate)
        optimizer: optax.GradientTransformation = make_optimizer(config, unflatten)
        update, _ = optimizer.update(gradient, optimizer.init(vector), vector)
        updates.append(unflatten(update))
    plain, fast = updates
    np.testing.assert_array_equal(fast["head"]["kernel"], plain["head"]["kernel"])
    np.testing.assert_allclose(
        fast["property"]["weight"], 30 * plain["property"]["weight"], rtol=1e-6
    )
