from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.training.checkpoint_files import (
    Checkpoint,
    complete_checkpoints,
    read_state,
)
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import TrainState


def at(step: int) -> Checkpoint:
    return Checkpoint(step, validated=True)


def state_after(step: int) -> TrainState:
    """A state whose every number depends on the step."""
    params = jnp.arange(9.0) * step + 0.1
    opt_state = make_optimizer(TrainingConfig(num_steps=100, warmup_steps=10)).init(params)
    return TrainState(
        step=jnp.int32(step),
        params=params,
        ema_params=-params,
        opt_state=jax.tree.map(lambda leaf: leaf + step, opt_state),
    )


def assert_same(state: TrainState, expected: TrainState) -> None:
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    types = [jax.tree.map(lambda leaf: leaf.dtype, each) for each in (state, expected)]
    assert types[0] == types[1]


def steps_in(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


def save(folder: Path, losses: dict[int, float], keep_last: int) -> None:
    with Checkpoints(folder, keep_last) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state_after(step), {"loss": loss, "lattice": 9.0})


def test_a_new_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "new" / "checkpoints", 2) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.best() is None


def test_a_state_is_restored_bitwise_in_another_session(tmp_path):
    save(tmp_path, {10: 0.5, 20: 0.4}, keep_last=2)
    with Checkpoints(tmp_path, 2) as checkpoints:
        step, validated, state, losses = checkpoints.restore(like=state_after(0))
    assert (step, validated, losses) == (20, True, {})
    assert_same(state, state_after(20))
    assert_same(read_state(tmp_path / "10", like=state_after(0)), state_after(10))


@pytest.mark.parametrize(
    ("losses", "best", "kept"),
    [
        ([0.9, 0.3, 0.8, 0.7, 0.6], 20, {20, 40, 50}),
        ([0.9, 0.8, 0.7, 0.6, 0.5], 50, {40, 50}),
        ([0.1, 0.8, 0.7, 0.6, 0.5], 10, {10, 40, 50}),
    ],
)
def test_the_last_ones_and_the_one_with_the_lowest_loss_are_kept(tmp_path, losses, best, kept):
    by_step = dict(zip(range(10, 60, 10), losses, strict=True))
    first, second = dict(list(by_step.items())[:3]), dict(list(by_step.items())[3:])
    save(tmp_path, first, keep_last=2)
    save(tmp_path, second, keep_last=2)  # after a resume the earlier losses still count
    assert steps_in(tmp_path) == kept
    with Checkpoints(tmp_path, 2) as checkpoints:
        assert checkpoints.best() == (best, min(losses))
    assert_same(read_state(tmp_path / str(best), like=state_after(0)), state_after(best))


def test_a_state_donated_right_after_saving_is_saved_intact(tmp_path):
    consume = jax.jit(
        lambda state: jax.tree.map(lambda leaf: leaf * 0 - 7, state), donate_argnums=0
    )
    with Checkpoints(tmp_path, 1) as checkpoints:
        state = state_after(10)
        checkpoints.save(10, state, {"loss": 1.0})
        jax.block_until_ready(consume(state))
        assert state.params.is_deleted()
    assert_same(read_state(tmp_path / "10", like=state_after(0)), state_after(10))


def test_an_unfinished_checkpoint_is_ignored(tmp_path):
    save(tmp_path, {10: 0.5}, keep_last=2)
    begun = tmp_path / "20.orbax-checkpoint-tmp"
    begun.mkdir()
    (begun / "default").write_text("half")
    with Checkpoints(tmp_path, 2) as checkpoints:
        assert checkpoints.latest() == at(10)
        checkpoints.save(20, state_after(20), {"loss": 0.4})
    assert steps_in(tmp_path) == {10, 20}


def test_pending_writes_are_finished_when_an_error_ends_the_run(tmp_path):
    def fail_after_saving() -> None:
        with Checkpoints(tmp_path, 1) as checkpoints:
            checkpoints.save(10, state_after(10), {"loss": 1.0})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_saving()
    with Checkpoints(tmp_path, 1) as checkpoints:
        assert checkpoints.latest() == at(10)


def test_a_state_is_restored_to_the_devices_of_its_model(tmp_path):
    save(tmp_path, {10: 0.5}, keep_last=1)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    like = jax.device_put(state_after(0), place)
    with Checkpoints(tmp_path, 1) as checkpoints:
        restored = checkpoints.restore(like).state
    assert all(leaf.sharding == place for leaf in jax.tree.leaves(restored))


def test_checkpoints_that_are_still_being_written_do_not_count(tmp_path):
    for name in (
        "20",
        "preempted_15",
        "10",
        "30.orbax-checkpoint-tmp",
        "15.preempted",
        "damaged_5",
    ):
        (tmp_path / name).mkdir()
    assert complete_checkpoints(tmp_path) == [
        Checkpoint(10, validated=True),
        Checkpoint(15, validated=False),
        Checkpoint(20, validated=True),
    ]
