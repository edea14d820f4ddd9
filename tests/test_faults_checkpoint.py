"""Checkpoints that are truncated, corrupted, empty, from another run or unfinished."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.training import checkpoint_files
from crystal_diffusion_jax.training.checkpoint_files import DamagedError
from crystal_diffusion_jax.training.checkpoints import Best, Checkpoints, Restored
from crystal_diffusion_jax.training.step import TrainState
from tests.small_disk import fill, small_disk
from tests.test_checkpoint import assert_same, at, state_after, steps_in

KEEP_LAST = 2
CHECKSUMS = "sha256.json"
UNLOGGED = Path("20", "losses", "metadata")
LOSSES = {
    "loss": np.asarray([0.1, 1 / 3, 2e-8], np.float32),
    "grad_norm": np.asarray([1, 2, 3], np.float32),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    """Two intact checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(folder, KEEP_LAST) as checkpoints:
        checkpoints.save(10, state_after(10), {"loss": 0.5})
        checkpoints.save(20, state_after(20), {"loss": 0.4})
    return folder


@pytest.fixture
def folder(intact, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(intact, tmp_path / "checkpoints")


def restore_20(folder: Path) -> TrainState:
    restored, _ = resume(folder)
    assert restored.step == 20
    return restored.state


def resume(folder: Path, from_previous: bool = False) -> tuple[Restored, list[str]]:
    lines: list[str] = []
    with Checkpoints(folder, KEEP_LAST, from_previous, lines.append) as checkpoints:
        return checkpoints.restore(state_after(0)), lines


def files(folder: Path) -> list[Path]:
    """All files of the items, and the checksums."""
    return [path for path in (folder / "20").glob("*/**/*") if path.is_file()] + [
        folder / "20" / CHECKSUMS
    ]


def require_refused(folder: Path) -> None:
    """One sentence that names the checkpoint."""
    with pytest.raises(UserError) as caught:
        restore_20(folder)
    assert isinstance(caught.value.__cause__, DamagedError)
    assert str(folder / "20") in str(caught.value)
    assert "\n" not in str(caught.value)


def flipped(content: bytes, position: int) -> bytes:
    """One bit of one byte."""
    damaged = bytearray(content)
    damaged[position] ^= 1 << (position % 8)
    return bytes(damaged)


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
            with pytest.raises(DamagedError):
                checkpoint_files.verify(folder / "20")
            tried += 1
        path.write_bytes(kept)
    assert tried > 3000
    assert_same(restore_20(folder), state_after(20))


def test_an_empty_folder_is_refused(folder):
    shutil.rmtree(folder / "20")
    (folder / "20").mkdir()
    require_refused(folder)


def test_orbax_metadata_files_are_not_needed(folder):
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


def test_a_damaged_checkpoint_is_set_aside_only_on_request(folder):
    (folder / UNLOGGED).write_text("{")
    with pytest.raises(UserError, match=r"--resume_from_previous to go back .* of step 10"):
        resume(folder)
    restored, lines = resume(folder, from_previous=True)
    assert restored.step == 10
    assert_same(restored.state, state_after(10))
    assert ["renamed to 20.damaged" in line for line in lines] == [True]
    with Checkpoints(folder, KEEP_LAST) as checkpoints:
        checkpoints.save(20, state_after(20), {"loss": 0.4})
    assert_same(restore_20(folder), state_after(20))


def test_without_an_earlier_checkpoint_there_is_no_way_back(folder):
    shutil.rmtree(folder / "10")
    (folder / UNLOGGED).unlink()
    for from_previous in (False, True):
        with pytest.raises(UserError, match="No earlier checkpoint is left"):
            resume(folder, from_previous)
    assert (folder / "20").exists()


def test_an_intact_checkpoint_is_used_even_if_going_back_is_allowed(folder):
    restored, lines = resume(folder, from_previous=True)
    assert (restored.step, lines) == (20, [])
    assert_same(restored.state, state_after(20))


def test_a_damaged_checkpoint_before_the_last_is_renamed_without_an_error(folder):
    (folder / "10" / "metrics" / "metrics").write_text("{")
    restored, lines = resume(folder)
    assert restored.step == 20
    assert ["renamed to 10.damaged" in line for line in lines] == [True]


def test_a_checkpoint_without_checksums_is_refused_even_if_it_has_metrics(folder):
    assert (folder / "20" / "metrics" / "metrics").exists()
    (folder / "20" / CHECKSUMS).unlink()
    require_refused(folder)


def test_without_checkpoints_training_starts_at_step_0(tmp_path):
    restored, lines = resume(tmp_path / "new")
    assert (restored.step, restored.validated, lines) == (0, True, [])
    assert_same(restored.state, state_after(0))


def test_a_preempted_state_is_restored_with_the_losses_not_yet_logged(folder):
    with Checkpoints(folder, KEEP_LAST) as checkpoints:
        checkpoints.save_preempted(25, state_after(25), LOSSES)
    with Checkpoints(folder, KEEP_LAST) as checkpoints:
        step, validated, state, losses = checkpoints.restore(state_after(0))
        assert checkpoints.best() == Best(20, 0.4)
    assert (step, validated) == (25, False)
    assert_same(state, state_after(25))
    jax.tree.map(np.testing.assert_array_equal, losses, LOSSES)


def test_a_preempted_checkpoint_is_removed_once_a_later_one_is_complete(folder):
    with Checkpoints(folder, KEEP_LAST) as checkpoints:
        checkpoints.save_preempted(25, state_after(25), LOSSES)
        checkpoints.save_preempted(30, state_after(30), LOSSES)
        assert {path.name for path in folder.iterdir()} == {"10", "20", "preempted_30"}
        checkpoints.save(30, state_after(30), {"loss": 0.6})
    assert steps_in(folder) == {20, 30}


def test_a_removal_cut_short_by_a_kill_is_completed(folder):
    (folder / "removed").mkdir()
    (folder / "10").rename(folder / "removed" / "10")
    with Checkpoints(folder, KEEP_LAST) as checkpoints:
        assert checkpoints.latest() == at(20)
    assert steps_in(folder) == {20}


@pytest.mark.parametrize("room", [0, 4096, 100_000])
def test_a_full_disk_is_reported_and_leaves_earlier_checkpoints_intact(tmp_path, folder, room):
    with small_disk(tmp_path / "disk", "2m") as disk:
        copy = shutil.copytree(folder, disk / "checkpoints")
        filler = fill(disk, room)
        with (
            pytest.raises(UserError, match=r"cannot be written .*No space left") as caught,
            Checkpoints(copy, KEEP_LAST) as checkpoints,
        ):
            checkpoints.save(30, state_after(30), {"loss": 0.1})
        assert "earlier checkpoints are intact" in str(caught.value)
        assert steps_in(copy) == {10, 20}
        assert_same(restore_20(copy), state_after(20))
        filler.unlink()
        with Checkpoints(copy, KEEP_LAST) as checkpoints:
            checkpoints.save(30, state_after(30), {"loss": 0.1})
        assert steps_in(copy) == {20, 30}
