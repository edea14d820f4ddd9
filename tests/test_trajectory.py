"""Saved states of the reverse process: they change no crystal, and the files tell the truth."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.schedules import sampling_times
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling import trajectory, trajectory_files
from crystal_diffusion_jax.sampling.chain import last_state, reverse_chain
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.record import SampleFolder
from crystal_diffusion_jax.sampling.sampler import Process, make_sampler
from crystal_diffusion_jax.sampling.settings import ANCESTRAL, SECOND_ORDER
from tests.test_generate import model, settings
from tests.test_sampler import (
    LATTICE,
    MESH,
    NETWORK,
    NOISE,
    NUM_SPECIES,
    keys,
    knows_one_crystal,
    params,
    request,
)

__all__ = ["model", "params"]  # fixtures

SILENT: Callable[[str], None] = lambda line: None  # noqa: E731


def states(schedule, every: int) -> Crystals:
    """Of two crystals in twelve steps, by the exact denoiser of one known crystal."""
    times = jnp.asarray(sampling_times(1000, 12))
    denoise = knows_one_crystal(schedule)
    record = trajectory.recording(every)

    @jax.jit
    def run(keys) -> Crystals:
        mask = jnp.ones((2, 3), bool)
        init, step = reverse_chain(
            denoise, keys, mask, NUM_SPECIES, 8e-6, schedule, ANCESTRAL, True, 0
        )
        return record(init, step, times)

    return run(keys(0, 1))


@pytest.mark.parametrize(
    ("num_steps", "every", "steps"),
    [
        (10, 5, [0, 5, 10]),
        (10, 4, [0, 4, 8, 10]),
        (3, 1, [0, 1, 2, 3]),
        (3, 50, [0, 3]),
        (1, 1, [0, 1]),
    ],
)
def test_the_first_every_kth_and_the_last_state_are_saved(num_steps, every, steps):
    assert trajectory.saved_steps(num_steps, every).tolist() == steps


@pytest.mark.parametrize(
    ("solver", "use_corrector", "relaxation_steps", "use_guidance"),
    [(ANCESTRAL, True, 0, True), (SECOND_ORDER, False, 0, False), (ANCESTRAL, False, 2, False)],
)
def test_saving_states_changes_no_bit_of_the_crystals(
    params, solver, use_corrector, relaxation_steps, use_guidance
):
    def draw(process: Process) -> Crystals:
        sample = make_sampler(
            NETWORK,
            NOISE,
            20,
            use_guidance,
            MESH,
            solver,
            use_corrector,
            relaxation_steps,
            process=process,
        )
        mask = jnp.broadcast_to(jnp.arange(4) < 3, (2, 4))
        allowed = jnp.ones(NUM_SPECIES, bool)
        return sample(params, keys(3, 4), mask, request(2), jnp.float32(1.0), 1e-4, allowed)

    plain = draw(last_state)
    for every in (3, 1000):
        saved = draw(trajectory.recording(every))
        for name in ("lattice", "frac_coords", "species"):
            np.testing.assert_array_equal(getattr(saved, name)[:, -1], getattr(plain, name))


@pytest.fixture(scope="module")
def all_states(schedule) -> Crystals:
    return states(schedule, 1)


def test_saved_states_are_those_that_a_finer_record_saves_at_the_same_steps(schedule, all_states):
    coarse = states(schedule, 5)
    for name in ("lattice", "frac_coords", "species"):
        expected = getattr(all_states, name)[:, np.array([0, 5, 10, 12])]
        np.testing.assert_array_equal(getattr(coarse, name), expected)


def test_the_states_run_from_noise_to_the_crystal(all_states):
    errors = np.abs(np.asarray(all_states.lattice) - LATTICE).mean(axis=(0, 2, 3))
    assert errors[0] > 0.5  # of a standard normal and a unit-sized lattice
    assert errors[-1] < 1e-2
    assert np.all((all_states.frac_coords >= 0) & (all_states.frac_coords < 1))


def run(model, out: Path, every: int | None, say=SILENT, **changes) -> dict:
    asked = settings(5, num_steps=7, **changes)
    allowed = np.ones(len(model.statistics.vocabulary), dtype=bool)
    with contextlib.closing(SampleFolder(out, asked)) as folder:
        generate(model, asked, allowed, folder, 3, say, trajectory=every)
    return json.loads((out / "samples.json").read_text())


def texts(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (out / "trajectories").iterdir()}


def stop(line: str) -> None:
    if "crystals:" in line:  # the first batch is written
        raise KeyboardInterrupt


def test_the_last_frame_of_each_file_is_the_crystal_of_the_record(model, tmp_path):
    recorded = run(model, tmp_path, 3)
    assert run(model, tmp_path / "without", None)["structures"] == recorded["structures"]
    assert len(texts(tmp_path)) == 5
    assert recorded["structures"]
    for entry in recorded["structures"]:
        path = tmp_path / "trajectories" / f"{entry['index']:05d}.extxyz"
        frames = list(ase.io.iread(path, index=":"))
        assert [atoms.info["t"] for atoms in frames] == expected_times(model, [0, 3, 6, 7])
        last = frames[-1]
        assert last.numbers.tolist() == entry["atomic_numbers"]
        # The record's cell is the same one turned, or mirrored.
        gram = last.cell.array @ last.cell.array.T
        cell = np.array(entry["lattice"])
        np.testing.assert_allclose(gram, cell @ cell.T, rtol=1e-4, atol=1e-4)
        difference = last.positions - np.array(entry["frac_coords"]) @ last.cell.array
        np.testing.assert_allclose(difference, 0.0, atol=1e-4)


def expected_times(model, steps: list[int]) -> list[int]:
    """After so many of seven even steps, which begin at T - 1."""
    first = model.config.noise.num_steps - 1
    return [round(first * (7 - step) / 7) for step in steps]


def test_an_interrupted_command_ends_with_the_same_trajectories(model, tmp_path):
    run(model, tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", 3, say=stop)
    folder = tmp_path / "cut" / "trajectories"
    assert len(texts(tmp_path / "cut")) == 3
    # What a kill in the middle of the next batch leaves behind.
    (folder / ".00004.extxyz.tmp").write_text("half")
    (folder / "00003.extxyz").write_text("of a crystal that does not count")
    run(model, tmp_path / "cut", 3)
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")


@pytest.mark.parametrize("later", [None, 1])
def test_another_number_on_resuming_leaves_crystals_and_earlier_files_alone(model, tmp_path, later):
    whole = run(model, tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", 3, say=stop)
    before = texts(tmp_path / "cut")
    resumed = run(model, tmp_path / "cut", later)

    assert resumed["structures"] == whole["structures"]
    after = texts(tmp_path / "cut")
    assert {name: after[name] for name in before} == before
    assert len(after) == (3 if later is None else 5)


def test_without_the_flag_no_file_outlives_a_crystal_that_does_not_count(model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, 3, say=stop)
    (tmp_path / "trajectories" / "00004.extxyz").write_text("of an earlier attempt")
    run(model, tmp_path, None)
    assert set(texts(tmp_path)) == {f"{index:05d}.extxyz" for index in range(3)}


def test_who_asks_too_late_is_told_that_there_are_no_trajectories(model, tmp_path):
    run(model, tmp_path, None)
    said: list[str] = []
    run(model, tmp_path, 3, say=said.append)
    assert said == ["5 crystals were there before and get no new trajectory"]


def test_a_trajectory_that_cannot_be_written_counts_no_crystal(model, tmp_path):
    asked = settings(5, num_steps=7)
    folder = SampleFolder(tmp_path, asked)
    (tmp_path / "trajectories").write_text("a file where the folder should be")
    allowed = np.ones(len(model.statistics.vocabulary), dtype=bool)
    with pytest.raises(UserError, match="cannot be written"):
        generate(model, asked, allowed, folder, 3, SILENT, trajectory=3)
    assert folder.remaining() == list(range(5))


@pytest.mark.parametrize(
    "lattice",
    [
        -4.0 * np.eye(3),
        np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 1.0]]),
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        1e20 * np.eye(3),
    ],
    ids=["left-handed", "flat", "zero", "not finite", "huge"],
)
def test_ase_reads_whatever_cell_the_noise_has(lattice):
    frac_coords = np.array([[0.0, 0.25, 0.5], [0.1, 0.2, 0.3]])
    text = trajectory_files.to_text(
        np.array([9, 0]),
        np.stack([lattice, np.eye(3)]),
        np.stack([frac_coords, frac_coords]),
        np.array([[56, 8], [22, 8]]),
    )
    first, last = ase.io.read(io.StringIO(text), index=":", format="extxyz")
    np.testing.assert_array_equal(first.cell.array, lattice)
    np.testing.assert_allclose(first.positions, frac_coords @ lattice, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(last.positions, frac_coords, atol=1e-6)
    assert [first.info["t"], last.info["t"]] == [9, 0]
    assert [first.symbols.get_chemical_formula(), str(last.symbols)] == ["BaO", "TiO"]


def test_too_many_states_are_refused_before_the_work():
    num_atoms = np.full(100_000, 20)
    trajectory.check_size(500, 1000, num_atoms)
    with pytest.raises(UserError, match=r"101 states of 100000 crystals with 2000000 atoms"):
        trajectory.check_size(10, 1000, num_atoms)
    with pytest.raises(UserError, match="--trajectory=0 must be at least 1"):
        trajectory.check_size(0, 1000, num_atoms)
