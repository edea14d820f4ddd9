"""One request from model to folder: resumable, independent of batches, honest in its counts."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import ANCESTRAL
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.sampling.generate import batches, generate
from crystal_diffusion_jax.structures.samples_reader import read_samples
from crystal_diffusion_jax.structures.store import Samples
from crystal_diffusion_jax.trained_model import TrainedModel
from tests.reverse_process import closed_form_model, quick_sampler


@pytest.fixture(scope="module")
def model(tiny_model) -> TrainedModel:
    """Its programs compile quickly, and roundings hardly grow along its chains."""
    return closed_form_model(tiny_model)


@pytest.fixture
def quick(monkeypatch) -> None:
    """For tests of what happens around the sampler."""
    monkeypatch.setattr("crystal_diffusion_jax.sampling.chains.make_sampler", quick_sampler)


def request_for(num: int, num_steps: int = 3, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "model": "closed form",
        "model_sha256": "0" * 64,
        "target": {"tolerance_factor": (0.9, 0.9)},
        "num": num,
        "seed": 5,
        "guidance": 0.0,
        "solver": ANCESTRAL,
        "num_steps": num_steps,
        "corrector_step_size": 1e-6,
        "renoising_steps": 0,
        "symprec": 0.0,
    }
    return Request(**{**values, **changes})


def run(model: TrainedModel, out: Path, request: Request, batch_size: int, log=print) -> list[Any]:
    """Samples into a folder and reads what it holds."""
    generate(model, request, Samples(out, request), batch_size, log)
    return read_samples(out / "samples.db")


def test_a_finished_request_is_not_sampled_again(model, tmp_path):
    first = run(model, tmp_path / "out", request_for(3), batch_size=3)

    def fail(line: str) -> None:
        raise AssertionError("sampled again")

    assert run(model, tmp_path / "out", request_for(3), batch_size=3, log=fail) == first


def test_batches_are_as_even_as_the_batch_size_allows():
    num_atoms = np.full(263, 5)
    found = list(batches(np.arange(263), num_atoms, 200, np.zeros(263, bool)))
    assert [(len(rows), size, shape) for rows, size, shape in found] == [
        (132, 5, 132),
        (131, 5, 132),
    ]
    # What is left of a request is computed in the same shape.
    ((rows, _, shape),) = batches(np.arange(10, 20), num_atoms, 200, np.zeros(263, bool))
    assert (rows.tolist(), shape) == (list(range(10, 20)), 132)


@pytest.mark.usefixtures("quick")
def test_the_batch_size_does_not_change_the_crystals(model, tmp_path):
    small = run(model, tmp_path / "small", request_for(5), batch_size=3)
    large = run(model, tmp_path / "large", request_for(5), batch_size=50)

    assert len({one.volume for one in small}) == 5  # as each has a key of its own
    for one, other in zip(small, large, strict=True):
        assert one.atomic_numbers == other.atomic_numbers
        np.testing.assert_allclose(one.volume, other.volume, rtol=1e-6)


# Of four times 49, 37, 24 and 12 of 50, where sigma is 0.005 * 100^((t - 1) / 49), only 24, of
# 0.043, is between those of sigma 0.125 and 0.02: three renoising steps are three calls more. Each
# round of averaging is sixteen.
@pytest.mark.parametrize(
    ("corrector_step_size", "renoising_steps", "averaging_rounds", "guidance", "calls"),
    [
        (1e-6, 0, 0, 0.0, 8),
        (0.0, 0, 0, 0.0, 4),
        (0.0, 3, 0, 0.0, 7),
        (0.0, 3, 2, 0.0, 39),
        (0.0, 3, 2, 1.0, 78),
    ],
)
def test_counts_and_network_calls_are_reported(
    model,
    tmp_path,
    monkeypatch,
    corrector_step_size,
    renoising_steps,
    averaging_rounds,
    guidance,
    calls,
):
    def cubes(params, keys, mask, *_) -> Crystals:
        """In place of the sampler: cells of which every second one has no volume."""
        lattice = jnp.eye(3) * (jnp.arange(len(keys)) % 2)[:, None, None]
        return Crystals(lattice, jnp.zeros((*mask.shape, 3)), jnp.zeros(mask.shape, int), mask)

    monkeypatch.setattr(
        "crystal_diffusion_jax.sampling.chains.make_sampler", lambda *_, **__: cubes
    )
    request = request_for(
        5,
        num_steps=4,
        corrector_step_size=corrector_step_size,
        renoising_steps=renoising_steps,
        averaging_rounds=averaging_rounds,
        guidance=guidance,
    )
    lines: list[str] = []
    run(model, tmp_path, request, batch_size=2, log=lines.append)

    # Batches of two, two and one.
    assert lines[-1].startswith("5/5 crystals: 2 written, 3 rejected, ")
    samples = Samples(tmp_path, request)
    assert samples.counts() == (2, 3)
    # Corrector, renoising and predictor call the network once each.
    assert samples.cost()[1] == calls
