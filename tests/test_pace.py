"""Speed and time left, by a clock that the tests set."""

import contextlib

import pytest

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.training.pace import Lap, Pace

CONFIG = TrainingConfig(num_steps=100, warmup_steps=10, checkpoint_every=100)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_compilation_is_not_part_of_the_rate(clock):
    pace = Pace(CONFIG, validation_crystals=0, clock=clock)
    with pace.paused():
        clock.now += 60
    pace.count(10, 32)
    pace.count(10, 64)
    clock.now += 4
    assert pace.lap(20) == Lap(rate=960 / 4, left=80 * 4 / 20)


def test_there_is_no_rate_before_the_first_steps_after_compilation(clock):
    pace = Pace(CONFIG, validation_crystals=100, clock=clock)
    with pace.paused():
        clock.now += 60
    assert pace.lap(10) == Lap(None, None)


def test_a_lap_of_new_programs_keeps_the_pace_of_the_lap_before(clock):
    pace = Pace(CONFIG, validation_crystals=0, clock=clock)
    pace.count(10, 32)
    clock.now += 5
    assert pace.lap(10) == Lap(rate=64, left=45)
    with pace.paused():
        clock.now += 60
    assert pace.lap(20) == Lap(rate=None, left=40)


def test_before_the_first_validation_it_is_expected_to_cost_a_third_of_training_a_crystal(clock):
    pace = Pace(CONFIG, validation_crystals=960, clock=clock)
    pace.count(10, 32)
    clock.now += 5  # 64 crystals a second
    assert pace.lap(10).left == pytest.approx(45 + 960 / (3 * 64))


def test_a_validation_counts_without_what_it_compiles_and_outside_of_the_rate(clock):
    pace = Pace(CONFIG, validation_crystals=960, clock=clock)
    with pace.validating():
        with pace.paused():
            clock.now += 30
        clock.now += 7
    pace.count(10, 32)
    clock.now += 5
    assert pace.lap(10) == Lap(rate=64, left=45 + 7)


@pytest.mark.parametrize(
    ("step", "num_steps", "validations"),
    # Those still to come, at the line of a step whose validation follows it.
    [(10, 100, 3), (40, 100, 3), (50, 100, 2), (80, 100, 2), (90, 100, 1), (100, 100, 1)],
)
def test_the_time_left_has_all_validations_to_come(clock, step, num_steps, validations):
    config = TrainingConfig(num_steps=num_steps, warmup_steps=1, checkpoint_every=40, log_every=10)
    pace = Pace(config, validation_crystals=0, clock=clock)
    with pace.validating():
        clock.now += 1000
    pace.count(10, 1)
    clock.now += 10
    assert pace.lap(step).left == 1000 * validations + num_steps - step


def test_an_error_ends_a_pause(clock):
    pace = Pace(CONFIG, validation_crystals=0, clock=clock)
    with contextlib.suppress(ValueError), pace.paused():
        clock.now += 60
        raise ValueError
    pace.count(10, 32)
    clock.now += 5
    assert pace.lap(10).rate == 64
