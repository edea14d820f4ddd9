"""Sampling through signals, full disks and company: no crystal is lost or comes twice."""

import contextlib
import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import program, sample
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.structures.samples_reader import read_request, read_samples
from crystal_diffusion_jax.structures.store import Samples
from tests import make_tiny_model
from tests.small_disk import small_disk

ROOT = Path(__file__).parent.parent

# A program that has imported everything, before any device is in use, and starts sampling commands
# as children of its own: a tenth of the time. A child may be held before one of its batches.
STARTER = """
import json, os, signal, sys
from crystal_diffusion_jax.cli import program, sample
from crystal_diffusion_jax.structures.store import Samples

def hold_after(batches):
    add = Samples.add

    def add_or_wait(samples, batch):
        nonlocal batches
        while batches == 0:
            signal.pause()
        batches -= 1
        return add(samples, batch)

    Samples.add = add_or_wait

signal.signal(signal.SIGINT, signal.default_int_handler)
for line in sys.stdin:
    log, batches, *flags = json.loads(line)
    child = os.fork()
    if child == 0:
        hold_after(batches)
        said = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.argv = ["sample.py", *flags]
        program.run(sample.main)
        sys.exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Starter:
    """Starts sampling commands, one at a time."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def start(self, flags: list[str], hold_after: int = -1) -> int:
        """The process that the command runs in; it never ends if held after so many batches."""
        self._log.write_text("")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(self._log), hold_after, *flags]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def status(self) -> int:
        """Waits for the command's end."""
        return self._answer()

    def said(self) -> str:
        return self._log.read_text()

    def after_batches(self, count: int) -> None:
        """Waits until the command has said so many lines of progress, or has ended."""
        end = time.monotonic() + 300
        while self.said().count("crystals/s") < count and "network calls" not in self.said():
            assert not self.said().startswith("error"), self.said()
            assert time.monotonic() < end
            time.sleep(0.002)

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def starter(tmp_path_factory) -> Iterator[Starter]:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # that forking is incompatible with what is not yet in use
        text=True,
    ) as process:
        yield Starter(process, tmp_path_factory.mktemp("starter") / "log")
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def model() -> Path:
    return make_tiny_model.FOLDER


def request(model: Path, out: Path, num: int, batch_size: int = 2) -> list[str]:
    flags = [f"--num={num}", f"--batch_size={batch_size}", "--num_steps=2", "--symprec=0"]
    return [f"--model={model}", f"--out={out}", "--target=0.9", *flags]


@pytest.fixture(scope="module")
def undisturbed(starter, model, tmp_path_factory) -> dict[str, bytes]:
    """What 24 crystals come to, two a batch."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    starter.start(request(model, out, 24))
    assert starter.status() == 0, starter.said()
    return content(out)


def content(out: Path) -> dict[str, bytes]:
    """Every file but the lock; instead of the database, what it holds."""
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    files.pop(".lock", None)
    return files | {"samples.db": b"\n".join(stored(out))}


def stored(out: Path) -> list[bytes]:
    """Exact numbers of each crystal, or why there is none, by index."""
    return [
        one.encode()
        if isinstance(one, str)
        else one.lattice.matrix.tobytes() + one.frac_coords.tobytes() + bytes(one.atomic_numbers)
        for one in read_samples(out / "samples.db")
    ]


def crystals_in(out: Path) -> int:
    """How many crystals of a request the database holds, rejected ones included."""
    return sum(not one.startswith(b"not sampled") for one in stored(out))


def assert_whole(out: Path, final: dict[str, bytes]) -> None:
    """What there is under a final name is whole, and part of what there will be."""
    for path in (out / "cif").glob("[0-9]*.cif"):
        assert path.read_bytes() == final[f"cif/{path.name}"]
    for name in ("samples.extxyz", "samples.csv"):
        if (out / name).exists():
            assert set((out / name).read_bytes().split(b"\n")) <= set(final[name].split(b"\n"))
    if (out / "samples.db").exists() and read_request(out):
        there = stored(out)
        assert crystals_in(out) % 2 == 0
        whole = final["samples.db"]
        assert all(one.startswith(b"not sampled") or one in whole for one in there)


def kill_and_go_on(starter: Starter, flags: list[str], out: Path, final: dict, kills: int) -> None:
    """Kills the command so many times at random moments, then lets it finish."""
    moment = random.Random(kills)
    for kill in range(kills):
        # The first is not done before its kill, however fast the machine.
        process = starter.start(flags, hold_after=-1 if kill else 5)
        starter.after_batches(moment.randrange(4))
        time.sleep(moment.uniform(0.0, 0.08))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        assert starter.status() in ((-signal.SIGKILL, 0) if kill else (-signal.SIGKILL,))
        assert_whole(out, final)
    starter.start(flags)
    assert starter.status() == 0, starter.said()
    assert content(out) == final


@pytest.mark.slow
def test_sampling_killed_at_three_random_moments_ends_with_the_same_files(
    starter, model, undisturbed, tmp_path
):
    out = tmp_path / "out"
    assert_every_crystal_once(undisturbed, 24)
    kill_and_go_on(starter, request(model, out, 24), out, undisturbed, kills=3)


def assert_every_crystal_once(files: dict[str, bytes], num: int) -> None:
    assert b"not sampled" not in files["samples.db"]
    rejected = files["samples.db"].count(b"rejected when sampled")
    written = sum(name.startswith("cif/") for name in files)
    assert written + rejected == num
    assert written  # of a hundred crystals 97 are written
    assert len(files["samples.csv"].splitlines()) == written + 1


@pytest.mark.faults
def test_sampling_killed_at_twenty_random_moments_ends_with_the_same_files(
    starter, model, tmp_path
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    starter.start(request(model, whole, 240))
    assert starter.status() == 0
    final = content(whole)
    assert_every_crystal_once(final, 240)
    kill_and_go_on(starter, request(model, out, 240), out, final, kills=20)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_told_to_stop_keeps_every_complete_batch_for_evaluation(
    starter, model, tmp_path, how, status
):
    process = starter.start(request(model, tmp_path / "out", 4000))
    starter.after_batches(3)
    os.kill(process, how)
    assert starter.status() == status
    out = tmp_path / "out"
    assert 6 <= crystals_in(out) < 4000
    structures = [one for one in read_samples(out / "samples.db") if isinstance(one, Structure)]
    assert len(structures) == len(list((out / "cif").iterdir()))
    assert len(structures) == len((out / "samples.csv").read_text().splitlines()) - 1
    assert len(structures) == len(ase.io.read(out / "samples.extxyz", index=":"))
    assert not (out / ".owner.json").exists()


def run_sample(monkeypatch, flags: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sample.py", *flags])
    program.run(sample.main)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_same_command_goes_on_where_a_signal_ended_it(
    model, tmp_path, monkeypatch, how, status
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_sample(monkeypatch, request(model, whole, 8))
    add = Samples.add
    batches: list[None] = []

    def keep(samples, batch):
        batches.append(add(samples, batch))
        if len(batches) == 3:
            signal.raise_signal(how)

    with monkeypatch.context() as patch:
        patch.setattr(Samples, "add", keep)
        with pytest.raises(SystemExit) as caught:
            run_sample(patch, request(model, out, 8))
    assert caught.value.code == status
    assert [one.startswith(b"not sampled") for one in stored(out)] == [False] * 6 + [True] * 2
    assert not (out / ".owner.json").exists()
    run_sample(monkeypatch, request(model, out, 8))
    assert content(out) == content(whole)
    assert_every_crystal_once(content(out), 8)


def test_a_second_command_is_refused_while_the_first_is_at_work(
    model, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    with exclusive(out, "--out"), pytest.raises(SystemExit) as caught:
        run_sample(monkeypatch, request(model, out, 2))
    assert caught.value.code == 2
    assert f"--out={out} is in use by process {os.getpid()} on" in capsys.readouterr().err
    assert not (out / "samples.db").exists()


def test_a_model_whose_weights_are_nan_is_refused_before_its_folder_is_made(
    tiny_model, tmp_path, monkeypatch, capsys
):
    broken, params = (
        tmp_path / "broken",
        jax.tree.map(lambda leaf: leaf * np.nan, tiny_model.params),
    )
    trained_model.save(dataclasses.replace(tiny_model, params=params), broken)
    with pytest.raises(SystemExit) as caught:
        run_sample(monkeypatch, request(broken, tmp_path / "out", 2))
    assert caught.value.code == 2
    assert "has weights that are NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_sentence_and_room_lets_the_same_command_finish(
    starter, model, tmp_path
):
    whole = tmp_path / "whole"
    starter.start(request(model, whole, 120))
    assert starter.status() == 0, starter.said()
    final = content(whole)
    with small_disk(tmp_path / "disk", "256k") as disk:
        out = disk / "out"
        flags = request(model, out, 120)
        for _ in range(2):  # the second time it is full from the beginning
            starter.start(flags)
            assert starter.status() == 2
            error = starter.said().splitlines()[-1]
            assert error.startswith(f"error: --out={out} ")
            assert "disk is full" in error or "No space left on device" in error
            assert "Traceback" not in starter.said()
            assert_whole(out, final)
        assert 0 < crystals_in(out) < 120
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        starter.start(flags)
        assert starter.status() == 0, starter.said()
        assert content(out) == final


def command(flags: list[str], **environment: str) -> subprocess.Popen[str]:
    """The command as users start it, without a cache but the one that is given."""
    kept = {name: x for name, x in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "experiments.sample", *flags],
        cwd=ROOT,
        env=kept | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.faults
def test_four_commands_share_a_model_and_a_cache_and_sample_what_one_alone_does(model, tmp_path):
    def start(name: str, cache: str) -> subprocess.Popen[str]:
        flags = request(model, tmp_path / name, 24)
        return command(flags, XDG_CACHE_HOME=str(tmp_path / cache))

    alone = start("alone", "its own cache")
    said, _ = alone.communicate()
    assert alone.returncode == 0, said
    # Twice: programs are written side by side the first time and read the second.
    for attempt in ("first", "second"):
        names = [f"{attempt}_{i}" for i in range(4)]
        together = [start(name, "shared cache") for name in names]
        for process, name in zip(together, names, strict=True):
            said, _ = process.communicate()
            assert process.returncode == 0, said
            assert "warning" not in said.lower(), said
            assert content(tmp_path / name) == content(tmp_path / "alone")


def resident_bytes(pid: int) -> int:
    """Memory that the process has at present."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def written_bytes(pid: int) -> int:
    """What the process has written to files so far."""
    counters = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counters["wchar"])


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="memory is read from /proc")
def test_of_twenty_thousand_crystals_the_last_cost_what_the_first_do(model, tmp_path):
    num, batch_size = 20_000, 250
    memory: list[int] = []
    written: list[int] = []
    with command(request(model, tmp_path / "out", num, batch_size)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "crystals/s" in line:
                memory.append(resident_bytes(process.pid))
                written.append(written_bytes(process.pid))
                print(f"{memory[-1] / 2**20:.0f} MB, {line.strip()}")
    assert process.returncode == 0
    assert len(memory) == num // batch_size
    assert max(memory) <= 1.1 * memory[0]

    per_batch = np.diff(written)
    quarter = len(per_batch) // 4
    assert np.median(per_batch[-quarter:]) <= 1.1 * np.median(per_batch[:quarter])
    final = content(tmp_path / "out")
    assert written[-1] <= 4 * (tmp_path / "out" / "samples.db").stat().st_size
    assert_every_crystal_once(final, num)
    names = [row["cif"] for row in csv.DictReader(final["samples.csv"].decode().splitlines())]
    assert set(final) == {*names, "samples.db", "samples.extxyz", "samples.csv"}
