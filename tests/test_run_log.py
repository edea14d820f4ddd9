import dataclasses
import json
import struct
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.training.checkpoints import Best
from crystal_diffusion_jax.training.pace import Lap
from crystal_diffusion_jax.training.run_log import RunLog, progress_line

LOSSES = {
    "loss": 3.25,
    "lattice": 0.5,
    "frac_coords": 0.75,
    "species_kl": 0.0625,
    "species_cross_entropy": 4.5,
}


LAP = Lap(rate=12_345.6, left=75.0)
CONFIG = TrainingConfig(num_steps=200, warmup_steps=10)


def open_log(
    workdir: Path, start: int = 0, lines: list[str] | None = None, *, ticks: Iterable[float] = ()
) -> RunLog:
    """A log whose clock shows each of `ticks` in turn, or else goes on by a second."""
    log = lines.append if lines is not None else lambda line: None
    return RunLog(workdir, CONFIG, start, True, log, map(float, ticks or count()).__next__)


def write(workdir: Path, steps: list[int], start: int = 0) -> None:
    with open_log(workdir, start) as run_log:
        for step in steps:
            run_log.training(step, LOSSES, {step: LOSSES}, LAP)


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_each_call_adds_a_row_and_a_progress_line_at_once(tmp_path):
    lines: list[str] = []
    with open_log(tmp_path, lines=lines, ticks=[1000, 1012.5]) as run_log:
        run_log.training(5, LOSSES, {4: LOSSES}, LAP)
        (row,) = rows(tmp_path)
        assert row == {
            "kind": "train",
            "step": 5,
            **LOSSES,
            "seconds": 12.5,
            "structures_per_second": 12_345.6,
            "by_size": {"4": LOSSES},
        }
        run_log.validation(5, {"loss": 2.0}, Best(5, 2.0))
        assert rows(tmp_path)[1] == {"kind": "validation", "step": 5, "loss": 2.0}
    assert lines[0].startswith("step 5/200 ")
    assert lines[1] == "step 5  validation loss 2.0000, the lowest so far"


def test_a_validation_that_is_not_the_best_names_the_step_of_the_best(tmp_path):
    lines: list[str] = []
    with open_log(tmp_path, lines=lines) as run_log:
        run_log.validation(10, {"loss": 2.5}, Best(5, 2.0))
    assert lines == ["step 10  validation loss 2.5000, the lowest is of step 5"]


def test_the_latest_losses_of_each_size_are_read_from_the_rows_that_are_kept(tmp_path):
    with open_log(tmp_path) as run_log:
        run_log.training(5, LOSSES, {4: {"loss": 1.0}, 8: {"loss": 2.0}}, LAP)
        run_log.training(10, LOSSES, {8: {"loss": 3.0}}, LAP)
        run_log.training(15, LOSSES, {4: {"loss": 4.0}}, LAP)
    with open_log(tmp_path, start=10) as run_log:
        assert run_log.by_size == {4: {"loss": 1.0}, 8: {"loss": 3.0}}


def test_a_row_without_a_rate_has_none(tmp_path):
    with open_log(tmp_path) as run_log:
        run_log.training(5, LOSSES, {}, Lap(None, None))
    assert "structures_per_second" not in rows(tmp_path)[0]


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
    with open_log(tmp_path) as run_log:
        run_log.validation(7, {"loss": 2.0, "lattice": 0.5}, Best(7, 2.0))
        points = [
            (value.tag, value.simple_value, event.step)
            for event in events(tmp_path)
            for value in event.summary.value
        ]
    assert points == [("validation/loss", 2.0, 7), ("validation/lattice", 0.5, 7)]


def test_rows_of_lost_steps_are_dropped_on_resume(tmp_path):
    write(tmp_path, [5, 10, 15, 20])
    write(tmp_path, [15], start=10)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 15]


@pytest.mark.parametrize("resume_step", [0, 10])
def test_tensorboard_hides_the_points_of_lost_steps(tmp_path, resume_step):
    with open_log(tmp_path, resume_step):
        pass
    starts = [event for event in events(tmp_path) if event.HasField("session_log")]
    assert [event.step for event in starts] == [resume_step + 1]
    assert starts[0].session_log.status == SessionLog.START


def write_seconds(workdir: Path, *seconds: str) -> None:
    with (workdir / "metrics.jsonl").open("a") as file:
        for step, value in enumerate(seconds, 1):
            file.write(f'{{"kind": "train", "step": {5 * step}, "seconds": {value}}}\n')


def test_seconds_of_lost_work_do_not_count(tmp_path):
    write_seconds(tmp_path, "100", "200", "300")
    with open_log(tmp_path, start=10, ticks=[1000, 1001]) as run_log:
        assert run_log.seconds == 201
    with open_log(tmp_path, ticks=[1000, 1001]) as run_log:
        assert run_log.seconds == 1


def test_a_new_run_starts_with_an_empty_log(tmp_path):
    write(tmp_path, [5, 10])
    write(tmp_path, [5], start=0)
    assert [row["step"] for row in rows(tmp_path)] == [5]


@pytest.mark.parametrize("half", ['{"kind": "train", "st', '{"kind": "train"}', "5", '"x', "[]"])
def test_a_row_that_a_kill_cut_short_is_dropped_on_resume(tmp_path, half):
    write(tmp_path, [5, 10])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    write(tmp_path, [15], start=10)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 15]


def test_the_progress_line_has_step_losses_speed_and_time_left():
    line = progress_line(50, CONFIG, LOSSES, LAP)
    assert "\n" not in line
    assert line.startswith("step 50/200 ")
    for name, value in LOSSES.items():
        assert f"{name} {value:g}" in line
    assert line.endswith("  12,346 structures/s  0:01:15 left")


def test_a_run_that_may_end_early_has_at_most_that_time_left():
    patient = dataclasses.replace(CONFIG, patience=2)
    assert progress_line(50, patient, LOSSES, LAP).endswith("  at most 0:01:15 left")


def test_a_lap_of_new_programs_alone_has_neither_speed_nor_time_left():
    line = progress_line(50, CONFIG, LOSSES, Lap(None, None))
    assert line.endswith(f"{LOSSES['species_cross_entropy']:g}")
