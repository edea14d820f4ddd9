"""Saved states of the reverse process: they change no crystal, and the files tell the truth."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import second_order
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Trajectory
from crystal_diffusion_jax.sampling import trajectory
from crystal_diffusion_jax.sampling.chain import State, last_state
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.structures.export import write_trajectory
from crystal_diffusion_jax.structures.samples_reader import read_samples
from crystal_diffusion_jax.structures.store import Samples
from tests.test_generate import model, quick, request_for

__all__ = ["model", "quick"]  # fixtures

SILENT: Callable[[str], None] = lambda line: None  # noqa: E731


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


def tells_its_times(state: State, interval: tuple[Array, Array]) -> tuple[State, None]:
    """A step in small whole numbers, which are never rounded; the order of the steps matters."""
    crystals, estimate = state
    t, s = interval
    moved = {
        name: 2 * leaf + (3 * t + s).astype(leaf.dtype)
        for name, leaf in vars(crystals).items()
        if name != "mask"
    }
    if estimate is not None:
        estimate = dataclasses.replace(estimate, t=estimate.t + 1)
    return (dataclasses.replace(crystals, **moved), estimate), None


@pytest.mark.parametrize(
    ("num_steps", "every", "solver"),
    [
        (7, 3, ANCESTRAL),
        (7, 3, SECOND_ORDER),
        (7, 1, ANCESTRAL),
        (6, 3, ANCESTRAL),
        (7, 1000, ANCESTRAL),
        (1, 1, ANCESTRAL),
    ],
)
def test_the_saved_states_are_those_that_the_chain_goes_through(num_steps, every, solver):
    one_and_two = np.arange(1, 3)[:, None, None]
    start = Crystals(
        lattice=jnp.asarray(one_and_two * np.ones((3, 3)), jnp.float32),
        frac_coords=jnp.asarray(one_and_two * np.ones((4, 3)), jnp.float32),
        species=jnp.asarray(one_and_two[..., 0] * np.ones(4), jnp.int32),
        mask=jnp.ones((2, 4), bool),
    )
    passed = [one_and_two]
    for t in range(num_steps, 0, -1):
        passed.append(2 * passed[-1] + 3 * t + t - 1)
    expected = np.stack(passed, axis=1)[:, trajectory.saved_steps(num_steps, every)]

    first = (start, second_order.no_estimate(start, 3) if solver == SECOND_ORDER else None)
    times = jnp.arange(num_steps, -1, -1)
    saved = jax.jit(trajectory.recording(every), static_argnums=1)(first, tells_its_times, times)
    last = jax.jit(last_state, static_argnums=1)(first, tells_its_times, times)
    for name, axes in (("lattice", 2), ("frac_coords", 2), ("species", 1)):
        found = getattr(saved, name)
        wanted = expected if axes == 2 else expected[..., 0]
        np.testing.assert_array_equal(found, np.broadcast_to(wanted, found.shape))
        np.testing.assert_array_equal(found[:, -1], getattr(last, name))


def run(model, out: Path, every: int | None, log=SILENT) -> list[Any]:
    request = request_for(5)
    generate(model, request, Samples(out, request), 3, log, trajectory=every)
    return read_samples(out / "samples.db")


def texts(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (out / "trajectories").iterdir()}


def stop(line: str) -> None:
    if "crystals:" in line:  # the first batch is written
        raise KeyboardInterrupt


def test_the_last_frame_of_each_file_is_the_stored_crystal(model, tmp_path):
    stored = run(model, tmp_path, 2)
    assert len(texts(tmp_path)) == len(stored) == 5
    for index, structure in enumerate(stored):
        path = tmp_path / "trajectories" / f"{index:05d}.extxyz"
        frames = list(ase.io.iread(path, index=":"))
        assert [atoms.info["t"] for atoms in frames] == expected_times(model, [0, 2, 3])
        last = frames[-1]
        assert last.numbers.tolist() == list(structure.atomic_numbers)
        # The stored cell is the same one turned, or mirrored.
        gram = last.cell.array @ last.cell.array.T
        cell = structure.lattice.matrix
        np.testing.assert_allclose(gram, cell @ cell.T, rtol=1e-4, atol=1e-4)
        difference = last.positions - structure.frac_coords @ last.cell.array
        np.testing.assert_allclose(difference, 0.0, atol=1e-4)


def expected_times(model, steps: list[int]) -> list[int]:
    """After so many of three even steps, which begin at T - 1."""
    first = model.config.noise.num_steps - 1
    return [round(first * (3 - step) / 3) for step in steps]


@pytest.mark.usefixtures("quick")
def test_an_interrupted_command_ends_with_the_same_trajectories(model, tmp_path):
    run(model, tmp_path / "whole", 2)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", 2, log=stop)
    folder = tmp_path / "cut" / "trajectories"
    assert len(texts(tmp_path / "cut")) == 3
    # What a kill in the middle of the next batch leaves behind.
    (folder / ".00004.extxyz.tmp").write_text("half")
    (folder / "00003.extxyz").write_text("of a crystal that does not count")
    run(model, tmp_path / "cut", 2)
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("later", [None, 1])
def test_another_number_on_resuming_leaves_crystals_and_earlier_files_alone(model, tmp_path, later):
    whole = run(model, tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", 2, log=stop)
    before = texts(tmp_path / "cut")
    resumed = run(model, tmp_path / "cut", later)

    assert resumed == whole
    after = texts(tmp_path / "cut")
    assert {name: after[name] for name in before} == before
    assert len(after) == (3 if later is None else 5)


@pytest.mark.usefixtures("quick")
def test_without_the_flag_no_file_outlives_a_crystal_that_does_not_count(model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, 2, log=stop)
    (tmp_path / "trajectories" / "00004.extxyz").write_text("of an earlier attempt")
    run(model, tmp_path, None)
    assert set(texts(tmp_path)) == {f"{index:05d}.extxyz" for index in range(3)}


@pytest.mark.usefixtures("quick")
def test_who_asks_too_late_is_told_that_there_are_no_trajectories(model, tmp_path):
    run(model, tmp_path, None)
    said: list[str] = []
    run(model, tmp_path, 2, log=said.append)
    assert said == ["5 crystals already exist and get no new trajectory"]


@pytest.mark.usefixtures("quick")
def test_a_trajectory_that_cannot_be_written_counts_no_crystal(model, tmp_path):
    request = request_for(5)
    samples = Samples(tmp_path, request)
    (tmp_path / "trajectories").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        generate(model, request, samples, 3, SILENT, trajectory=2)
    assert samples.remaining() == list(range(5))


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
def test_ase_reads_whatever_cell_the_noise_has(lattice, tmp_path):
    frac_coords = np.array([[0.0, 0.25, 0.5], [0.1, 0.2, 0.3]])
    states = Trajectory(
        np.array([9, 0]),
        np.stack([lattice, np.eye(3)]),
        np.stack([frac_coords, frac_coords]),
        np.array([[56, 8], [22, 8]]),
    )
    write_trajectory(tmp_path / "0.extxyz", states)
    first, last = ase.io.read(tmp_path / "0.extxyz", index=":")
    np.testing.assert_array_equal(first.cell.array, lattice)
    np.testing.assert_allclose(first.positions, frac_coords @ lattice, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(last.positions, frac_coords, atol=1e-6)
    assert [first.info["t"], last.info["t"]] == [9, 0]
    assert [first.symbols.get_chemical_formula(), str(last.symbols)] == ["BaO", "TiO"]


def test_too_many_states_are_refused_before_the_work():
    sizes = np.full(100_000, 5)
    trajectory.check_size(100, [1000], sizes)
    with pytest.raises(UserError, match=r"101 states of 100000 crystals with 500000 atoms"):
        trajectory.check_size(10, [1000], sizes)
    with pytest.raises(UserError, match="--trajectory=0 must be at least 1"):
        trajectory.check_size(0, [1000], sizes)
    with pytest.raises(UserError, match=r"22 states of 100000 crystals"):
        trajectory.check_size(100, [1000, 1000], sizes)
