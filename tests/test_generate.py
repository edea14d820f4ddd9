"""One request from model to folder: resumable, independent of batches, honest in its counts."""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.model_folder import TrainedModel
from crystal_diffusion_jax.sampling.generate import _batches, generate
from crystal_diffusion_jax.sampling.record import SampleFolder
from crystal_diffusion_jax.sampling.settings import SampleSettings
from tests import smoke_run


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Twenty steps of the smoke run: crystals that mean nothing, but by the real path."""
    inputs = smoke_run.StepInputs()
    state, steps = inputs.state(), inputs.train_steps()
    for index in range(4):
        state, _ = steps(state, inputs.batches(index), inputs.key)
    return TrainedModel(
        params=jax.device_get(inputs.named(state.ema_params)),
        config=smoke_run.CONFIG,
        statistics=smoke_run.statistics(),
        training={},
        weights_sha256="0" * 64,
    )


def settings(num: int, num_steps: int = 3, **changes) -> SampleSettings:
    values = {
        "model": "smoke",
        "model_sha256": "0" * 64,
        "conditions": {"tolerance_factor": 0.9},
        "num": num,
        "seed": 5,
        "guidance": 0.0,
        "num_steps": num_steps,
        "gamma": 1e-6,
        "elements": None,
        "num_atoms": None,
        "symprec": 0.0,
    }
    return SampleSettings(**{**values, **changes})


def run(
    model: TrainedModel, out: Path, request: SampleSettings, batch_size: int, say=print
) -> dict:
    allowed = np.ones(len(model.statistics.vocabulary), dtype=bool)
    with contextlib.closing(SampleFolder(out, request)) as folder:
        generate(model, request, allowed, folder, batch_size, say)
    return json.loads((out / "samples.json").read_text())


def indices(record: dict) -> list[int]:
    return sorted(entry["index"] for entry in record["structures"] + record["rejected"])


def test_an_interrupted_request_ends_with_the_same_crystals(model, tmp_path):
    def stop(line: str) -> None:
        if "crystals:" in line:  # the first batch is written
            raise KeyboardInterrupt

    undisturbed = run(model, tmp_path / "whole", settings(7), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", settings(7), batch_size=4, say=stop)
    begun = json.loads((tmp_path / "cut" / "samples.json").read_text())
    assert len(indices(begun)) == 4
    resumed = run(model, tmp_path / "cut", settings(7), batch_size=4)

    assert indices(undisturbed) == list(range(7))
    # The last three crystals come in a batch of four again, so they agree to the last digit.
    assert resumed["structures"] == undisturbed["structures"]
    assert resumed["rejected"] == undisturbed["rejected"]


def test_a_finished_request_is_not_sampled_again(model, tmp_path):
    first = run(model, tmp_path / "out", settings(2), batch_size=2)

    def fail(line: str) -> None:
        raise AssertionError("sampled again")

    assert run(model, tmp_path / "out", settings(2), batch_size=2, say=fail) == first


def test_batches_are_as_even_as_the_batch_size_allows():
    num_atoms = np.full(263, 5)
    batches = list(_batches(np.arange(263), num_atoms, 200))
    assert [(len(rows), size, shape) for rows, size, shape in batches] == [
        (132, 5, 132),
        (131, 5, 132),
    ]
    # What is left of a request is computed in the same shape.
    ((rows, _, shape),) = _batches(np.arange(10, 20), num_atoms, 200)
    assert (rows.tolist(), shape) == (list(range(10, 20)), 132)


def test_the_batch_size_does_not_change_the_crystals(model, tmp_path):
    small = run(model, tmp_path / "small", settings(7), batch_size=3)
    large = run(model, tmp_path / "large", settings(7), batch_size=50)

    assert indices(small) == indices(large) == list(range(7))
    assert small["rejected"] == large["rejected"]
    for one, other in zip(small["structures"], large["structures"], strict=True):
        assert one["atomic_numbers"] == other["atomic_numbers"]
        np.testing.assert_allclose(one["volume"], other["volume"], rtol=1e-3)


# Of four times 999, 749, 500 and 250 only 500 is between those of sigma 0.125 and 0.02.
@pytest.mark.parametrize(
    ("gamma", "relaxation_steps", "calls"), [(1e-6, 0, 8), (0.0, 0, 4), (0.0, 3, 7)]
)
def test_counts_and_network_calls_are_reported(model, tmp_path, gamma, relaxation_steps, calls):
    request = settings(5, num_steps=4, gamma=gamma, relaxation_steps=relaxation_steps)
    record = run(model, tmp_path / "out", request, batch_size=2)

    counts = record["counts"]
    assert counts["requested"] == counts["written"] + counts["rejected"] == 5
    assert counts["written"] == len(record["structures"])
    # Corrector, relaxation and predictor call the network once each; three batches.
    assert record["network_calls"] == 3 * calls


def test_the_fixed_elements_are_the_only_ones(model, tmp_path):
    vocabulary = np.array(model.statistics.vocabulary)
    request = settings(6, elements=["O", "Sr", "Ti"])
    folder = SampleFolder(tmp_path / "out", request)
    generate(model, request, np.isin(vocabulary, [8, 22, 38]), folder, batch_size=6)

    entries = list(folder.structures())
    assert entries
    assert {z for entry in entries for z in entry["atomic_numbers"]} <= {8, 22, 38}
