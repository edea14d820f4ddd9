"""`--part` and `experiments.merge`: the parts of one request are what one job makes."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.cli import merge, program, sample
from crystal_diffusion_jax.request import FormulaRequest, Part, Trajectory
from crystal_diffusion_jax.sampling import generate
from crystal_diffusion_jax.structures.samples_reader import read_request, read_samples, read_values
from crystal_diffusion_jax.structures.store import Samples
from tests import discoveries, make_tiny_model
from tests.discoveries import Bench
from tests.test_discover import files
from tests.test_store import REQUEST, batch, defective, finish

NUM = 10
FLAGS = [f"--model={make_tiny_model.FOLDER}", f"--num={NUM}", "--target=min", "--num_steps=4"]
FLAGS += ["--batch_size=3", "--elements=Ba,Sr,Ti,Zr,O"]


def sample_into(out: Path, *flags: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sample.py", *FLAGS, f"--out={out}", *flags])
        program.run(sample.main)


def join(out: Path, *parts: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        listed = ",".join(map(str, parts))
        patch.setattr(sys, "argv", ["merge.py", f"--parts={listed}", f"--out={out}"])
        program.run(merge.main)


def refused(capsys: pytest.CaptureFixture[str], out: Path, *parts: Path) -> str:
    with pytest.raises(SystemExit) as caught:
        join(out, *parts)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single") / "out"
    sample_into(out)
    return out


def test_every_crystal_is_in_one_part() -> None:
    members = [Part(number, 3).members(8).nonzero()[0].tolist() for number in (1, 2, 3)]
    assert members == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_parts_of_which_one_was_cut_short_are_the_single_run(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number in (1, 3):
        sample_into(parts[number - 1], f"--part={number}/3")
    said = capsys.readouterr().out
    assert "4/4 crystals: 4 written, 0 rejected" in said
    assert "3/3 crystals: 3 written, 0 rejected" in said
    add = Samples.add

    def cut_short(self: Samples, sampled: Any) -> None:
        add(self, sampled)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "add", cut_short)
        # Fewer in a batch than the part has, so that something is left.
        patch.setattr(generate, "batches", _first_of_each_batch(generate.batches))
        with pytest.raises(SystemExit):
            sample_into(parts[1], "--part=2/3")
    join(tmp_path / "early", *parts)
    assert "2 crystals are in none of the parts yet" in capsys.readouterr().out
    sample_into(parts[1], "--part=2/3")
    for out in (tmp_path / "early", tmp_path / "late"):
        join(out, *parts)
        assert files(out) == files(single)
        assert read_samples(out / "samples.db") == read_samples(single / "samples.db")
        assert read_request(out) == read_request(single)
    whole = Samples(tmp_path / "late", _request(single))
    assert whole.remaining() == []
    seconds = [Samples(part, _request(single)).cost()[0] for part in parts]
    assert whole.cost()[0] == pytest.approx(sum(seconds))
    # The joined folder goes on as any other: there is nothing left to do.
    sample_into(tmp_path / "late")
    assert files(tmp_path / "late") == files(single)


def _first_of_each_batch(batches: Any) -> Any:
    def firsts(*given: Any) -> Any:
        for rows, size, shape in batches(*given):
            yield rows[:1], size, shape

    return firsts


def _request(out: Path) -> Any:
    stored = read_request(out)
    assert stored is not None
    return stored.request


def test_rejected_crystals_are_joined_with_their_reasons(tmp_path: Path) -> None:
    finish(tmp_path / "single", sample=defective)
    for number in (1, 2):
        samples = Samples(tmp_path / str(number), REQUEST, Part(number, 2))
        samples.add(batch(samples.remaining(), defective))
    join(tmp_path / "whole", tmp_path / "1", tmp_path / "2")
    assert files(tmp_path / "whole") == files(tmp_path / "single")
    whole = Samples(tmp_path / "whole", REQUEST)
    assert whole.counts() == (5, 3)
    assert whole.reasons() == Samples(tmp_path / "single", REQUEST).reasons()


def test_what_was_asked_of_the_crystals_of_a_formula_is_joined_too(tmp_path: Path) -> None:
    formulas = (
        FormulaRequest("BaTiO3", material_id="mp-1", target={"gap": (1.0, 1.0)}),
        FormulaRequest("BaTiO3", material_id="17"),
    )
    request = dataclasses.replace(REQUEST, formulas=formulas)
    finish(tmp_path / "single", request)
    for number in (1, 2):
        samples = Samples(tmp_path / str(number), request, Part(number, 2))
        samples.add(batch(samples.remaining()))
    join(tmp_path / "whole", tmp_path / "1", tmp_path / "2")
    values = read_values(tmp_path / "whole" / "samples.db")
    assert values == read_values(tmp_path / "single" / "samples.db")
    assert (values[0]["target_gap"], values[0]["material_id"]) == (1.0, "mp-1")
    assert files(tmp_path / "whole") == files(tmp_path / "single")


def test_joined_trajectories_are_those_of_the_parts(tmp_path: Path, capsys) -> None:
    for number in (1, 2):
        samples = Samples(tmp_path / str(number), REQUEST, Part(number, 2))
        given = batch(samples.remaining())
        states = [
            Trajectory(
                np.array([1, 0]),
                *(
                    np.repeat(array, 2, axis=0)
                    for array in (one.lattice, one.frac_coords, one.atomic_numbers)
                ),
            )
            for one in given.trajectories
        ]
        samples.add(dataclasses.replace(given, trajectories=states))
    join(tmp_path / "whole", tmp_path / "1", tmp_path / "2")
    names = {path.name for path in (tmp_path / "whole" / "trajectories").iterdir()}
    assert names == {f"{index:05d}.extxyz" for index in range(REQUEST.num)}
    shutil.rmtree(tmp_path / "whole" / "trajectories")
    (tmp_path / "whole" / "trajectories").touch()
    said = refused(capsys, tmp_path / "whole", tmp_path / "1", tmp_path / "2")
    assert "whole cannot be written (File exists): what is complete is kept" in said


def test_mistakes_are_sentences(single: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    said = refused(capsys, tmp_path / "out", single, tmp_path / "empty")
    assert f"{tmp_path / 'empty'} holds no samples: give folders of `sample` or `discover`" in said
    sample_into(tmp_path / "other", "--seed=1")
    said = refused(capsys, tmp_path / "out", single, tmp_path / "other")
    assert "is no part of the request of" in said
    assert "which differs in seed (there 0, now 1)" in said
    assert "is one of the parts" in refused(capsys, single, single)
    assert "--parts names no folder" in refused(capsys, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # A whole in which more crystals are than in the parts is not touched.
    sample_into(tmp_path / "part", "--part=1/2")
    before = files(single)
    shutil.copytree(single, tmp_path / "copy")
    said = refused(capsys, tmp_path / "copy", tmp_path / "part")
    assert "holds 5 crystals that are in none of the parts" in said
    assert files(tmp_path / "copy") == before


def test_two_crystals_of_one_number_must_be_the_same(tmp_path: Path, capsys) -> None:
    finish(tmp_path / "1")
    finish(tmp_path / "2", sample=lambda index: defective(index) if index != 1 else _other())
    said = refused(capsys, tmp_path / "out", tmp_path / "1", tmp_path / "2")
    assert f"crystal 1 of {tmp_path / '2'} differs from that of {tmp_path / '1'}" in said


def _other() -> Any:
    lattice, frac_coords, numbers = defective(0)
    return lattice * 1.1, frac_coords, numbers


def test_parts_of_discover_are_the_single_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    bench = Bench.of(discoveries.write_model(tmp_path / "model"), monkeypatch)
    bench.run(tmp_path / "single")
    bench.relaxed.clear()
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3, 4)]
    for number, part in enumerate(parts, start=1):
        if number == 2:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("crystal_diffusion_jax.cli.discover.end_if_any", _stop)
                with pytest.raises(SystemExit):
                    bench.run(part, f"--part={number}/4")
        bench.run(part, f"--part={number}/4")
        assert not (part / "shortlist.csv").exists()
    said = capsys.readouterr().out
    assert "sample: 14 asked for, 13 written\n" in said
    for share in ("4 asked for, 4", "4 asked for, 4", "3 asked for, 2", "3 asked for, 3"):
        assert f"sample: {share} written\n" in said
    join(tmp_path / "whole", *parts)
    num_relaxed = len(bench.relaxed)
    bench.run(tmp_path / "whole")
    # The second BaTiO3 is the only one of its part, which therefore relaxed it.
    more = {"relaxed/cif/00001_BaTiO3.cif", "relaxed/relaxed.csv"}
    found = {name: text for name, text in files(tmp_path / "whole").items() if name not in more}
    wanted = {name: text for name, text in files(tmp_path / "single").items() if name not in more}
    assert found == wanted
    assert len(bench.relaxed) == num_relaxed == 10  # the parts had them all


def _stop(received: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_four_jobs_of_which_one_is_killed_are_the_single_run(single: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3, 4)]

    def start(number: int) -> "subprocess.Popen[bytes]":
        flags = [*FLAGS, f"--out={parts[number - 1]}", f"--part={number}/4"]
        command = [sys.executable, "-m", "experiments.sample", *flags]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
        return subprocess.Popen(command, cwd=Path(__file__).parent.parent, env=environment)

    jobs = [start(number) for number in (1, 2, 3, 4)]
    while not (parts[2] / "samples.db").exists() and jobs[2].poll() is None:
        time.sleep(0.05)
    jobs[2].send_signal(signal.SIGKILL)
    for job in jobs:
        job.wait()
    assert start(3).wait() == 0
    join(tmp_path / "whole", *parts)
    with (single / "samples.csv").open(newline="") as file:
        formulas = [row["formula"] for row in csv.DictReader(file)]
    with (tmp_path / "whole" / "samples.csv").open(newline="") as file:
        assert [row["formula"] for row in csv.DictReader(file)] == formulas
    assert files(tmp_path / "whole").keys() == files(single).keys()
