"""No long silence, by a clock that the tests set."""

import itertools

import pytest

from crystal_diffusion_jax.runtime.heartbeat import SILENCE, Heartbeat


class Spoken:
    """A heartbeat whose thread does not run, the lines it has printed, and its clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.heartbeat = Heartbeat(self.lines.append, lambda: self.now)

    def wait(self, seconds: int) -> None:
        """What the thread does in that time."""
        for _ in range(seconds):
            self.now += 1
            self.heartbeat.check()


@pytest.fixture
def spoken() -> Spoken:
    return Spoken()


def test_a_long_activity_is_named_with_its_time(spoken):
    with spoken.heartbeat.doing("compiling"):
        spoken.wait(40)
    assert spoken.lines == ["still compiling, for 15 s", "still compiling, for 30 s"]


def test_no_silence_is_longer_than_twenty_seconds(spoken):
    with spoken.heartbeat.doing("training"):
        times = []
        for _ in range(200):
            before = len(spoken.lines)
            spoken.wait(1)
            times += [spoken.now] * (len(spoken.lines) - before)
            if spoken.now in (7, 50, 51, 130):
                spoken.heartbeat.log("a line")
                times.append(spoken.now)
    assert all(later - earlier <= SILENCE for earlier, later in itertools.pairwise(times))
    assert len(times) == 4 + 11  # no more than that needs


def test_a_line_puts_off_the_next_beat(spoken):
    with spoken.heartbeat.doing("training"):
        for _ in range(10):
            spoken.wait(14)
            spoken.heartbeat.log("step")
    assert spoken.lines == ["step"] * 10


def test_what_is_done_within_something_else_is_named_while_it_lasts(spoken):
    with spoken.heartbeat.doing("training"):
        spoken.wait(10)
        with spoken.heartbeat.doing("validating"):
            spoken.wait(10)
        spoken.wait(15)
    assert spoken.lines == ["still validating, for 5 s", "still training, for 30 s"]


def test_how_far_something_has_come_belongs_to_it_alone(spoken):
    with spoken.heartbeat.doing("training"):
        spoken.heartbeat.reached("step 30/100")
        with spoken.heartbeat.doing("validating"):
            spoken.wait(15)
        spoken.wait(15)
    assert spoken.lines == [
        "still validating, for 15 s",
        "still training, step 30/100, for 30 s",
    ]


def test_nothing_is_said_while_nothing_goes_on(spoken):
    spoken.wait(100)
    assert spoken.lines == []


def test_the_thread_ends_with_the_context():
    with Heartbeat(print) as heartbeat:
        assert heartbeat._thread.is_alive()
    assert not heartbeat._thread.is_alive()
