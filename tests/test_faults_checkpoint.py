"""Checkpoints that were truncated, flipped, emptied, mixed up or never finished."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.training import seal
from crystal_diffusion_jax.training.checkpoint import Checkpoint, Checkpoints
from crystal_diffusion_jax.training.resume import START, restore_last
from crystal_diffusion_jax.training.seal import DamagedError
from crystal_diffusion_jax.training.state import TrainState
from tests.small_disk import fill, small_disk
from tests.smoke_run import CONFIG
from tests.test_checkpoint import assert_same, at, state_after, steps_in

CHECKSUMS = "sha256.json"
UNFINISHED = {
    "loss": np.asarray([0.1, 1 / 3, 2e-8], np.float32),
    "grad_norm": np.asarray([1, 2, 3], np.float32),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two checkpoints, never touched."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(folder, CONFIG) as checkpoints:
        checkpoints.save(10, state_after(10), {"loss": 0.5})
        checkpoints.save(20, state_after(20), {"loss": 0.4})
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "checkpoints")


def restore_20(folder: Path) -> TrainState:
    with Checkpoints(folder, CONFIG) as checkpoints:
        return checkpoints.restore(at(20), state_after(0))[0]


def resume(
    folder: Path, from_previous: bool = False, config: ExperimentConfig = CONFIG
) -> tuple[Checkpoint, TrainState, list[str]]:
    said: list[str] = []
    with Checkpoints(folder, config) as checkpoints:
        last, state, _ = restore_last(checkpoints, state_after(0), from_previous, said.append)
    return last, state, said


def files(folder: Path) -> list[Path]:
    """Of the state and the record, and the checksums."""
    return [path for path in (folder / "20").glob("*/**/*") if path.is_file()] + [
        folder / "20" / CHECKSUMS
    ]


def require_refused(folder: Path) -> None:
    """One sentence that names the checkpoint."""
    with pytest.raises(DamagedError) as caught:
        restore_20(folder)
    assert str(folder / "20") in str(caught.value)
    assert "\n" not in str(caught.value)


def flipped(whole: bytes, position: int) -> bytes:
    """One bit of one byte."""
    spoilt = bytearray(whole)
    spoilt[position] ^= 1 << (position % 8)
    return bytes(spoilt)


def test_a_file_that_is_truncated_or_missing_is_refused(folder):
    for path in files(folder):
        kept = path.read_bytes()
        path.write_bytes(kept[: len(kept) // 2])
        require_refused(folder)
        path.unlink()
        require_refused(folder)
        path.write_bytes(kept)
    assert_same(restore_20(folder), state_after(20))


def test_a_flipped_bit_is_refused(folder):
    for path in files(folder):
        kept = path.read_bytes()
        path.write_bytes(flipped(kept, len(kept) // 2))
        require_refused(folder)
        path.write_bytes(kept)
    assert_same(restore_20(folder), state_after(20))


@pytest.mark.faults
def test_every_flipped_bit_of_a_checkpoint_is_refused(folder):
    tried = 0
    for path in files(folder):
        kept = path.read_bytes()
        for position in range(len(kept)):
            path.write_bytes(flipped(kept, position))
            with pytest.raises(UserError):  # a flip of the format's number makes it a newer one
                seal.require_intact(folder / "20")
            tried += 1
        path.write_bytes(kept)
    assert tried > 3000
    assert_same(restore_20(folder), state_after(20))


def test_an_empty_folder_is_refused(folder):
    shutil.rmtree(folder / "20")
    (folder / "20").mkdir()
    require_refused(folder)


def test_what_orbax_writes_of_itself_is_not_needed(folder):
    beside = {path.name for path in (folder / "20").iterdir() if path.is_file()} - {CHECKSUMS}
    assert beside == {"_CHECKPOINT_METADATA", "commit_success.txt"}
    for name in beside:
        for content in ("{", "", None):
            path = folder / "20" / name
            path.unlink()
            if content is not None:
                path.write_text(content)
            assert_same(restore_20(folder), state_after(20))
            path.touch()


def test_a_damaged_checkpoint_is_stepped_over_only_when_asked_for(folder):
    (folder / "20" / "record" / "record.json").write_text("{")
    with pytest.raises(UserError, match=r"--resume_from_previous to go back .* of step 10"):
        resume(folder)
    last, state, said = resume(folder, from_previous=True)
    assert last == at(10)
    assert_same(state, state_after(10))
    assert ["set aside as 20.damaged" in line for line in said] == [True, False]
    assert "resuming from the checkpoint of step 10" in said[1]
    with Checkpoints(folder, CONFIG) as checkpoints:
        checkpoints.save(20, state_after(20), {"loss": 0.4})
    assert_same(restore_20(folder), state_after(20))


def test_without_an_earlier_checkpoint_there_is_nothing_to_step_back_to(folder):
    shutil.rmtree(folder / "10")
    (folder / "20" / "record" / "record.json").unlink()
    for from_previous in (False, True):
        with pytest.raises(UserError, match="No earlier checkpoint is left"):
            resume(folder, from_previous)
    assert (folder / "20").exists()


def test_a_whole_checkpoint_is_taken_also_when_stepping_back_is_allowed(folder):
    last, state, said = resume(folder, from_previous=True)
    assert last == at(20)
    assert_same(state, state_after(20))
    assert len(said) == 1


def test_a_folder_without_checkpoints_starts_at_the_start(tmp_path):
    last, state, said = resume(tmp_path / "new")
    assert (last, said) == (START, [])
    assert_same(state, state_after(0))


def test_a_checkpoint_of_another_config_is_refused_with_its_fields(folder):
    model = dataclasses.replace(CONFIG.model, width=32)
    with pytest.raises(UserError, match=r"another config; .* model.width: 16 -> 32") as caught:
        resume(folder, from_previous=True, config=dataclasses.replace(CONFIG, model=model))
    assert not isinstance(caught.value, DamagedError)


def test_a_checkpoint_of_a_newer_version_is_refused_and_not_stepped_over(folder):
    path = folder / "20" / CHECKSUMS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(UserError, match=r"newer version \(format 2, .* upgrade"):
        resume(folder, from_previous=True)


def test_checkpoints_without_records_of_the_first_version_are_read(folder):
    # They had the losses in a file of their own.
    for step, loss in (("10", 0.3), ("20", 0.4)):
        (folder / step / CHECKSUMS).unlink()
        shutil.rmtree(folder / step / "record")
        (folder / step / "metrics").mkdir()
        (folder / step / "metrics" / "metrics").write_text(json.dumps({"loss": loss}))
    last, state, _ = resume(folder)
    assert last == at(20)
    assert_same(state, state_after(20))
    with Checkpoints(folder, CONFIG) as checkpoints:
        assert checkpoints.best_step() == 10


def test_a_preempted_state_comes_back_with_the_losses_of_its_unfinished_interval(folder):
    with Checkpoints(folder, CONFIG) as checkpoints:
        checkpoints.save_preempted(25, state_after(25), UNFINISHED)
    with Checkpoints(folder, CONFIG) as checkpoints:
        last, state, losses = restore_last(checkpoints, state_after(0), False, print)
        assert checkpoints.best_step() == 20
    assert last == Checkpoint(25, validated=False)
    assert_same(state, state_after(25))
    jax.tree.map(np.testing.assert_array_equal, losses, UNFINISHED)


def test_the_checkpoint_of_a_preemption_goes_when_a_later_one_is_there(folder):
    with Checkpoints(folder, CONFIG) as checkpoints:
        checkpoints.save_preempted(25, state_after(25), UNFINISHED)
        checkpoints.save_preempted(30, state_after(30), UNFINISHED)
        assert {path.name for path in folder.iterdir()} == {"10", "20", "30.preempted"}
        checkpoints.save(30, state_after(30), {"loss": 0.6})
    assert steps_in(folder) == {20, 30}


def test_what_a_kill_left_of_a_removal_is_removed(folder):
    (folder / "10").rename(folder / "10.removed")
    (folder / "trial.removed").touch()
    with Checkpoints(folder, CONFIG) as checkpoints:
        assert checkpoints.latest() == at(20)
    assert steps_in(folder) == {20}


@pytest.mark.parametrize("room", [0, 4096, 100_000])
def test_a_full_disk_is_told_and_leaves_earlier_checkpoints_whole(tmp_path, folder, room):
    with small_disk(tmp_path / "disk", "2m") as disk:
        copy = shutil.copytree(folder, disk / "checkpoints")
        filler = fill(disk, room)
        with (
            pytest.raises(UserError, match=r"cannot be written .*No space left") as caught,
            Checkpoints(copy, CONFIG) as checkpoints,
        ):
            checkpoints.save(30, state_after(30), {"loss": 0.1})
        assert "earlier checkpoints are whole" in str(caught.value)
        assert steps_in(copy) == {10, 20}
        assert_same(restore_20(copy), state_after(20))
        filler.unlink()
        with Checkpoints(copy, CONFIG) as checkpoints:
            checkpoints.save(30, state_after(30), {"loss": 0.1})
        assert steps_in(copy) == {20, 30}
