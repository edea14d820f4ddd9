"""Relaxing through kills, signals and full disks: no relaxed crystal is lost or comes twice."""

import contextlib
import csv
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.relaxed_sets import write_cifs
from tests.small_disk import small_disk

ROOT = Path(__file__).parent.parent
COUNT = 24
HELD_EMT = "ase:tests.odd_calculators.HeldEMT"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cifs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifs(tmp_path_factory.mktemp("cifs") / "in", COUNT)


@contextlib.contextmanager
def command(
    cifs: Path, out: Path, potential: str = HELD_EMT, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A command at work, in a process group of its own as in a terminal."""
    flags = [f"--structures={cifs}", f"--out={out}", f"--potential={potential}"]
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.relax", *flags],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finish(cifs: Path, out: Path) -> dict[str, bytes]:
    """Runs the command to its end; its files."""
    with command(cifs, out) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    exported = [out / "relaxed.csv", *(out / "cif").iterdir()]
    return {path.name: path.read_bytes() for path in exported}


def stored(out: Path) -> int:
    """Crystals that are done so far."""
    path = f"file:{out / 'relaxed.db'}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(path, uri=True)) as db:
            (count,) = db.execute("SELECT COUNT(*) FROM systems").fetchone()
    except sqlite3.OperationalError:  # not made yet
        return 0
    return int(count)


def wait_until_stored(process: subprocess.Popen[str], out: Path, count: int) -> None:
    end = time.monotonic() + 300
    while stored(out) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(cifs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the crystals come to."""
    files = finish(cifs, tmp_path_factory.mktemp("undisturbed") / "out")
    assert len(files) == COUNT + 1
    return files


def test_a_command_killed_at_random_moments_ends_with_the_same_files(
    cifs: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    moment = random.Random(0)
    before = 0
    for kill in range(3):
        # The first is not done before its kill, however fast the machine: its gold takes for ever.
        hold = {} if kill else {"HOLD": "yes"}
        with command(cifs, tmp_path / "out", **hold) as process:
            wait_until_stored(process, tmp_path / "out", before + moment.randrange(1, 4))
            time.sleep(moment.uniform(0.0, 0.3))
            seen = stored(tmp_path / "out")
            process.kill()  # alone: its workers end by themselves
            assert process.wait() in ((-signal.SIGKILL, 0) if kill else (-signal.SIGKILL,))
        now = stored(tmp_path / "out")
        assert now >= seen >= before, kill
        before = now
        for path in (tmp_path / "out" / "cif").glob("[!.]*"):
            assert path.read_bytes() == undisturbed[path.name]
    assert finish(cifs, tmp_path / "out") == undisturbed


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_that_waits_for_a_calculator(
    tmp_path: Path, how: signal.Signals, status: int
) -> None:
    cifs = write_cifs(tmp_path / "in", 3)  # of copper, aluminium and nickel
    potential = "ase:tests.odd_calculators.Endless"
    with command(cifs, tmp_path / "out", potential) as process:
        wait_until_stored(process, tmp_path / "out", 3)  # the others and iron
        os.killpg(process.pid, how)  # as a terminal does
        said, _ = process.communicate(timeout=120)
    assert process.returncode == status, said
    with (tmp_path / "out" / "relaxed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows if row["energy_per_atom"]] == ["m1.cif", "m2.cif", "z1.cif"]
    assert rows[0]["failure"] == "not relaxed: the relaxing command has not finished"
    assert {path.name for path in (tmp_path / "out" / "cif").iterdir()} == {
        "m1.cif",
        "m2.cif",
        "z1.cif",
    }


def test_a_full_disk_is_said_in_one_sentence_and_room_lets_the_same_command_finish(
    cifs: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "160k") as disk:
        for _ in range(2):  # the second time it is full from the beginning
            with command(cifs, disk / "out") as process:
                said, _ = process.communicate()
            assert process.returncode == 2, said
            error = said.splitlines()[-1]
            assert error.startswith(f"error: --out={disk / 'out'} ")
            assert "disk is full" in error or "No space left on device" in error
            assert "Traceback" not in said
        assert 0 < stored(disk / "out") < COUNT
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert finish(cifs, disk / "out") == undisturbed
