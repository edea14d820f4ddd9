"""The choice of chunks: measured once, kept, and without effect on the numbers."""

from pathlib import Path

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.config import DenoiserConfig, LossConfig
from crystal_diffusion_jax.data.arrays import dataset_statistics
from crystal_diffusion_jax.data.batches import Batch, Batches
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.runtime import devices, parallel
from crystal_diffusion_jax.training import chunks
from crystal_diffusion_jax.training.loss import noise_batch
from crystal_diffusion_jax.training.step import (
    elements_per_crystal,
    initial_params,
    loss_and_gradient,
)
from tests.test_batches import made_up

MESH = devices.data_mesh()
DEFAULT = devices.cached_elements(MESH)
DENOISER = Denoiser(DenoiserConfig(width=8, pair_hidden_width=8, num_heads=2), num_species=4)


@pytest.fixture(scope="module")
def batches() -> Batches:
    dataset = made_up(np.repeat([2, 4], [600, 600]))
    return Batches(dataset, dataset_statistics(dataset, True), 32, 0, 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path))
    monkeypatch.delenv(chunks.SWITCH, raising=False)


def chosen(batches: Batches) -> int:
    return chunks.cached_elements(DENOISER, batches, MESH, lambda line: None)


def test_the_costliest_size_is_measured_once_and_the_choice_is_kept(batches, monkeypatch, tmp_path):
    measured: list[Batch] = []

    def fastest(denoiser: object, batch: Batch, *others: object) -> int:
        measured.append(batch)
        return 12_345

    monkeypatch.setattr(chunks, "_fastest", fastest)
    assert chosen(batches) == chosen(batches) == 12_345
    (batch,) = measured
    assert batch.crystals.mask.shape == (batches.batch_sizes[-1], 4)
    (path,) = Path(tmp_path).rglob("*.json")
    path.write_text("damaged")
    assert chosen(batches) == 12_345
    assert len(measured) == 2


def test_the_switch_leaves_the_default(batches, monkeypatch):
    monkeypatch.setenv(chunks.SWITCH, "0")
    monkeypatch.setattr(chunks, "_fastest", None)
    assert chosen(batches) == DEFAULT


def test_a_choice_is_one_of_the_candidates_and_stops_in_time(batches, monkeypatch):
    assert chosen(batches) in [round(DEFAULT * factor) for factor in chunks._FACTORS]
    monkeypatch.setattr(chunks, "_MAX_SECONDS", -1.0)  # no time beyond the default
    batch = chunks._costliest(batches, MESH)
    assert chunks._fastest(DENOISER, batch, MESH) == DEFAULT


@pytest.mark.parametrize(
    ("rows", "distinct"),
    [
        (64, {1000: 1010, 500: 510, 250: 260, 2000: 2010}),  # chunks of 8, 4, 2 and 16 rows
        (2, {1000: 1010}),  # one chunk of both rows, whatever the choice
        (7, {1000: 1010, 250: 260}),  # one chunk of all rows, or seven of one
    ],
)
def test_choices_with_the_same_chunks_are_measured_once(rows, distinct):
    assert chunks._choices(1000, rows, 125, 0, 40) == distinct


def test_every_choice_computes_the_same_gradient(batches, schedule):
    batch = chunks._costliest(batches, MESH)
    params, unflatten = initial_params(DENOISER, jax.random.key(0), batch)
    gradient = loss_and_gradient(DENOISER, unflatten, schedule, LossConfig())
    noised = jax.jit(noise_batch, static_argnums=(4, 6))
    rows = noised(jax.random.key(1), *batch, DENOISER.num_species, schedule, 0.1)
    per_crystal = elements_per_crystal(DENOISER, batch.crystals)
    results = [
        jax.jit(parallel.sum_over_rows(gradient, per_crystal, MESH, elements))(params, rows)
        for elements in (10**9, 4 * per_crystal, per_crystal)
    ]
    for metrics, gradient_found in results[1:]:
        scale = float(np.abs(results[0][1]).max())
        np.testing.assert_allclose(gradient_found, results[0][1], atol=1e-5 * scale)
        np.testing.assert_allclose(metrics["loss"], results[0][0]["loss"], rtol=1e-5)
