"""One request from model to folder: resumable, independent of batches, honest in its counts."""

import contextlib
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from crystal_diffusion_jax.sampling.record import SampleFolder

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.request import SampleSettings
from crystal_diffusion_jax.sampling.generate import _batches, generate
from crystal_diffusion_jax.trained_model import TrainedModel
from tests.reverse_process import closed_form_model, quick_sampler


@pytest.fixture(scope="module")
def model(tiny_model) -> TrainedModel:
    """Its programs compile quickly, and roundings hardly grow along its chains."""
    return closed_form_model(tiny_model)


@pytest.fixture
def quick(monkeypatch) -> None:
    """For tests of what happens around the sampler."""
    monkeypatch.setattr("crystal_diffusion_jax.sampling.generate.make_sampler", quick_sampler)


def settings(num: int, num_steps: int = 3, **changes) -> SampleSettings:
    values = {
        "model": "closed form",
        "model_sha256": "0" * 64,
        "conditions": {"tolerance_factor": 0.9},
        "num": num,
        "seed": 5,
        "guidance": 0.0,
        "num_steps": num_steps,
        "corrector_step_size": 1e-6,
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


# Batches of three, also of the tests below: one program.
def test_an_interrupted_request_ends_with_the_same_crystals(model, tmp_path):
    def stop(line: str) -> None:
        if "crystals:" in line:  # the first batch is written
            raise KeyboardInterrupt

    undisturbed = run(model, tmp_path / "whole", settings(5), batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", settings(5), batch_size=3, say=stop)
    begun = json.loads((tmp_path / "cut" / "samples.json").read_text())
    assert len(indices(begun)) == 3
    resumed = run(model, tmp_path / "cut", settings(5), batch_size=3)

    assert indices(undisturbed) == list(range(5))
    # The last two crystals come in a batch of three again, so they agree to the last digit.
    assert resumed["structures"] == undisturbed["structures"]
    assert resumed["rejected"] == undisturbed["rejected"]


def test_a_finished_request_is_not_sampled_again(model, tmp_path):
    first = run(model, tmp_path / "out", settings(3), batch_size=3)

    def fail(line: str) -> None:
        raise AssertionError("sampled again")

    assert run(model, tmp_path / "out", settings(3), batch_size=3, say=fail) == first


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


@pytest.mark.usefixtures("quick")
def test_the_batch_size_does_not_change_the_crystals(model, tmp_path):
    small = run(model, tmp_path / "small", settings(5), batch_size=3)
    large = run(model, tmp_path / "large", settings(5), batch_size=50)

    assert indices(small) == indices(large) == list(range(5))
    assert small["rejected"] == large["rejected"] == []
    volumes = {one["volume"] for one in small["structures"]}
    assert len(volumes) == 5  # as each has a key of its own
    for one, other in zip(small["structures"], large["structures"], strict=True):
        assert one["atomic_numbers"] == other["atomic_numbers"]
        np.testing.assert_allclose(one["volume"], other["volume"], rtol=1e-6)


# Of four times 49, 37, 24 and 12 of 50, where sigma is 0.005 * 100^((t - 1) / 49), only 24, of
# 0.043, is between those of sigma 0.125 and 0.02: a relaxation has three calls more.
@pytest.mark.parametrize(
    ("corrector_step_size", "renoising_steps", "calls"), [(1e-6, 0, 8), (0.0, 0, 4), (0.0, 3, 7)]
)
def test_counts_and_network_calls_are_reported(
    model, tmp_path, monkeypatch, corrector_step_size, renoising_steps, calls
):
    def cubes(params, keys, mask, *_) -> Crystals:
        """In place of the sampler: cells of which every second one has no volume."""
        lattice = jnp.eye(3) * (jnp.arange(len(keys)) % 2)[:, None, None]
        return Crystals(lattice, jnp.zeros((*mask.shape, 3)), jnp.zeros(mask.shape, int), mask)

    monkeypatch.setattr(
        "crystal_diffusion_jax.sampling.generate.make_sampler", lambda *_, **__: cubes
    )
    request = settings(
        5, num_steps=4, corrector_step_size=corrector_step_size, renoising_steps=renoising_steps
    )
    record = run(model, tmp_path / "out", request, batch_size=2)

    counts = record["counts"]
    # Batches of two, two and one.
    assert (counts["requested"], counts["written"], counts["rejected"]) == (5, 2, 3)
    assert len(record["structures"]) == 2
    # Corrector, relaxation and predictor call the network once each; three batches.
    assert record["network_calls"] == 3 * calls


def test_the_fixed_elements_are_the_only_ones(model, tmp_path):
    vocabulary = np.array(model.statistics.vocabulary)
    request = settings(3, elements=["O", "Sr", "Ti"])
    folder = SampleFolder(tmp_path / "out", request)
    generate(model, request, np.isin(vocabulary, [8, 22, 38]), folder, batch_size=3)

    entries = list(folder.structures())
    assert len(entries) == 3
    assert {z for entry in entries for z in entry["atomic_numbers"]} <= {8, 22, 38}
