import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.training.logbook import Logbook, progress_line

LOSSES = {
    "loss": 3.25,
    "lattice": 0.5,
    "frac_coords": 0.75,
    "species_kl": 0.0625,
    "species_cross_entropy": 4.5,
}


def write(workdir: Path, steps: list[int], resume_step: int = 0) -> None:
    with Logbook(workdir, resume_step) as logbook:
        for step in steps:
            logbook.write("train", step, {"loss": float(step)})


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_each_call_adds_one_row_that_can_be_read_at_once(tmp_path):
    with Logbook(tmp_path, resume_step=0) as logbook:
        logbook.write("train", 5, LOSSES)
        assert rows(tmp_path) == [{"kind": "train", "step": 5, **LOSSES}]
        logbook.write("validation", 5, {"loss": 2.0})
        assert rows(tmp_path)[1] == {"kind": "validation", "step": 5, "loss": 2.0}


def events(workdir: Path) -> list[Event]:
    """All events of all files."""
    found = []
    for path in sorted(
        (workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns
    ):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_gets_the_same_numbers_at_once(tmp_path):
    with Logbook(tmp_path, resume_step=0) as logbook:
        logbook.write("validation", 7, {"loss": 2.0, "lattice": 0.5})
        points = [
            (value.tag, value.simple_value, event.step)
            for event in events(tmp_path)
            for value in event.summary.value
        ]
    assert points == [("validation/loss", 2.0, 7), ("validation/lattice", 0.5, 7)]


def test_rows_of_lost_steps_are_dropped_on_resume(tmp_path):
    write(tmp_path, [5, 10, 15, 20])
    write(tmp_path, [15], resume_step=10)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 15]


@pytest.mark.parametrize("resume_step", [0, 10])
def test_tensorboard_hides_the_points_of_lost_steps(tmp_path, resume_step):
    with Logbook(tmp_path, resume_step):
        pass
    starts = [event for event in events(tmp_path) if event.HasField("session_log")]
    assert [event.step for event in starts] == [resume_step + 1]
    assert starts[0].session_log.status == SessionLog.START


def test_seconds_of_lost_work_do_not_count(tmp_path):
    with Logbook(tmp_path, resume_step=0) as logbook:
        assert logbook.seconds == 0.0
        for step in (5, 10, 15):
            logbook.write("train", step, {"seconds": 2.0 * step})
        logbook.write("validation", 15, {"loss": 1.0})
    with Logbook(tmp_path, resume_step=10) as logbook:
        assert logbook.seconds == 20.0


@pytest.mark.parametrize("seconds", ["null", '"x"', "NaN", "1e400", "[]", "1" + 400 * "0"])
def test_a_row_that_does_not_tell_its_seconds_is_no_obstacle(tmp_path, seconds):
    write(tmp_path, [5])
    with Logbook(tmp_path, 5) as logbook:
        told = logbook.seconds
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(f'{{"kind": "train", "step": 5, "seconds": {seconds}}}\n')
    with Logbook(tmp_path, 5) as logbook:
        assert logbook.seconds == told


def test_a_run_that_starts_anew_starts_with_an_empty_log(tmp_path):
    write(tmp_path, [5, 10])
    write(tmp_path, [5], resume_step=0)
    assert [row["step"] for row in rows(tmp_path)] == [5]


@pytest.mark.parametrize("half", ['{"kind": "train", "st', '{"kind": "train"}', "5", '"x', "[]"])
def test_a_row_that_a_kill_cut_short_is_dropped_on_resume(tmp_path, half):
    write(tmp_path, [5, 10])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    write(tmp_path, [15], resume_step=10)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 15]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_are_told_in_the_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_the_progress_line_tells_step_losses_speed_and_time_left():
    line = progress_line(50, 200, LOSSES, rate=12_345.6, seconds_left=75)
    assert "\n" not in line
    assert line.startswith("step 50/200 ")
    for name, value in LOSSES.items():
        assert f"{name} {value:g}" in line
    assert "12,346 structures/s" in line
    assert line.endswith("1 min 15 s left")
