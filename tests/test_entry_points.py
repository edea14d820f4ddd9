import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.cli import sample, train
from crystal_diffusion_jax.structures.samples_reader import read_request, read_samples
from tests import make_tiny_model, smoke_run

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "crystal_diffusion_jax" / "checkpoints" / "perov5_cds"
SMOKE = "--config=tests/smoke_config.py"

# Each mistake in a child of one program, which saves importing everything once for each.
MAKE_MISTAKES = """
import json, os, sys, tempfile
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.cli import train

results = []
for flags in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.argv = ["train.py", *flags]
            cli.run(train.main)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        results.append((status, said.read()))
print(json.dumps(results))
"""

TRAINING_MISTAKES = {
    "no workdir": ([SMOKE], "--workdir is missing"),
    "empty workdir": ([SMOKE, "--workdir="], "--workdir is missing"),
    "no config": (["--workdir=WORKDIR"], "--config is missing"),
    "unknown flag": ([SMOKE, "--workdir=WORKDIR", "--wrokdir=x"], "'wrokdir'"),
    "stray argument": ([SMOKE, "--workdir=WORKDIR", "quickly"], "'quickly'"),
    "mistyped field": (
        [SMOKE, "--workdir=WORKDIR", "--config.training.batchsize=3"],
        'Did you mean "batch_size"',
    ),
    "mistyped section": ([SMOKE, "--workdir=WORKDIR", "--config.trainig.batch_size=3"], "trainig"),
    "wrong type": (
        [SMOKE, "--workdir=WORKDIR", "--config.training.batch_size=abc"],
        "--config.training.batch_size=abc",
    ),
    "no such config file": (
        ["--config=configs/nothing.py:smoke", "--workdir=WORKDIR"],
        "--config=configs/nothing.py:smoke is neither a file nor one of carbon24_cdi",
    ),
    "mistyped config file": (
        ["--config=configs/perov_cds.py", "--workdir=WORKDIR"],
        "did you mean perov5_cds?",
    ),
    "mistyped config": (["--config=mp20cdi", "--workdir=WORKDIR"], "did you mean mp20_cdi?"),
    "old name of a config": (
        ["--config=mp20_cdi_ranks:smoke", "--workdir=WORKDIR"],
        "mp20_cdi_ranks is now mp20_cdi",
    ),
    "old name of a config file": (
        ["--config=configs/perov5_cds_plus.py", "--workdir=WORKDIR"],
        "perov5_cds_plus is now perov5_cds",
    ),
    "mistyped data set": (
        [SMOKE, "--workdir=WORKDIR", "--config.data.name=perov-5"],
        "did you mean perov5?",
    ),
    "no such config file, but an override": (
        ["--config=configs/nothing.py", "--workdir=WORKDIR", "--config.seed=3"],
        "configs/nothing.py",
    ),
    "warm-up as long as the training": (
        ["--config=perov5_cds:smoke", "--workdir=WORKDIR", "--config.training.warmup_steps=10"],
        "warmup_steps=10",
    ),
    "unknown variant": (
        ["--config=configs/perov5_cds.py:fast", "--workdir=WORKDIR"],
        'choose "", "paper" or "smoke"',
    ),
    "impossible value": ([SMOKE, "--workdir=WORKDIR", "--config.model.width=7"], "config.model"),
    "another config in the workdir": (
        [SMOKE, "--workdir=WORKDIR", "--config.training.batch_size=16"],
        "training.batch_size: 32 -> 16",
    ),
    "workdir is a file": ([SMOKE, "--workdir=WORKDIR/config.json"], "use another --workdir"),
}

SAMPLING_MISTAKES = {
    "no model given": (["--out=OUT"], "--model"),
    "target": (["--model=MODEL", "--out=OUT", "--target=abc"], "--target=abc"),
    "no such element": (["--model=MODEL", "--out=OUT", "--elements=O,Xx"], "'Xx'"),
    "element never seen": (["--model=MODEL", "--out=OUT", "--elements=O,He"], "never saw He"),
    "no crystals": (["--model=MODEL", "--out=OUT", "--num=0"], "--num=0"),
    "number of crystals in words": (["--model=MODEL", "--out=OUT", "--num=ten"], "--num"),
    "no batch": (["--model=MODEL", "--out=OUT", "--batch_size=0"], "--batch_size=0"),
    "no steps": (["--model=MODEL", "--out=OUT", "--num_steps=0"], "within 1 .. 50"),
    "too many": (["--model=MODEL", "--out=OUT", "--num=10000000000000"], "within 1 .. 1000000"),
    "more steps than trained": (["--model=MODEL", "--out=OUT", "--num_steps=51"], "1 .. 50"),
    "unknown solver": (["--model=MODEL", "--out=OUT", "--solver=fast"], "--solver=fast"),
    "too many atoms": (["--model=MODEL", "--out=OUT", "--num_atoms=9"], "--num_atoms=9"),
    "guidance": (["--model=MODEL", "--out=OUT", "--guidance=nan"], "--guidance=nan must be finite"),
    "corrector step": (
        ["--model=MODEL", "--out=OUT", "--corrector_step_size=-1"],
        "--corrector_step_size=-1.0",
    ),
    "symmetry tolerance": (["--model=MODEL", "--out=OUT", "--symprec=inf"], "--symprec=inf"),
    "seed": (["--model=MODEL", "--out=OUT", "--seed=-1"], "--seed=-1"),
    "folder with other things": (["--model=MODEL", "--out=MODEL"], "is not empty"),
}


def program(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"},  # of macOS, for os.fork
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """Of a finished smoke run: its config and a model, made without training."""
    workdir = tmp_path_factory.mktemp("entry") / "runs" / "smoke"
    shutil.copytree(make_tiny_model.FOLDER, workdir / "model")
    config = config_module.to_dict(smoke_run.CONFIG)
    record = {"config": config, "data": {"train": "", "val": ""}}
    (workdir / "config.json").write_text(json.dumps(record))
    return workdir


def sampling_flags(workdir: Path) -> list[str]:
    flags = ["--target=min", "--num=6", "--guidance=1", "--elements=Ba,Sr,Ti,O"]
    return [*flags, "--num_steps=10", f"--model={workdir}", f"--out={workdir.parent / 'samples'}"]


@pytest.fixture(scope="module")
def sampling(workdir) -> Path:
    """Output folder of sampling from that run."""
    with pytest.MonkeyPatch.context() as patch:
        run_sample(patch, *sampling_flags(workdir))
    return workdir.parent / "samples"


@pytest.fixture(scope="module")
def training_mistakes(workdir) -> dict[str, tuple[int, str]]:
    """Exit status and output after each of `TRAINING_MISTAKES`."""
    commands = [
        [flag.replace("WORKDIR", str(workdir)) for flag in flags]
        for flags, _ in TRAINING_MISTAKES.values()
    ]
    finished = program("-c", MAKE_MISTAKES, json.dumps(commands))
    assert finished.returncode == 0, finished.stderr
    return dict(zip(TRAINING_MISTAKES, json.loads(finished.stdout), strict=True))


def assert_one_sentence(said: str, fragment: str) -> None:
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    assert fragment in said


def run_sample(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sample.py", *flags])
    cli.run(sample.main)


@pytest.mark.slow
def test_training_and_then_sampling_from_the_command_line(tmp_path):
    workdir, out = tmp_path / "runs" / "smoke", tmp_path / "runs" / "samples"
    finished = program("-m", "experiments.train", SMOKE, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    assert (workdir / "model" / "model.json").is_file()
    assert "step 20/20" in finished.stdout
    assert finished.stdout.splitlines()[-1].startswith(
        f"sample from it with: python -m experiments.sample --model={workdir} "
    )
    assert finished.stderr == ""  # the libraries' remarks would bury the progress lines
    finished = program("-m", "experiments.sample", *sampling_flags(workdir))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    written = assert_all_kinds_of_files(out)
    assert f"{written} of 6 crystals in {out}" in finished.stdout


def assert_all_kinds_of_files(out: Path) -> int:
    """Checks the files of `sampling_flags` against each other; returns the number of crystals."""
    written = sum(isinstance(one, Structure) for one in read_samples(out / "samples.db"))
    assert len(list((out / "cif").glob("*.cif"))) == written
    assert len((out / "samples.csv").read_text().splitlines()) == written + 1
    frames = ase.io.read(out / "samples.extxyz", index=":") if written else []
    assert len(frames) == written
    for frame in frames:
        assert set(frame.get_chemical_symbols()) <= {"Ba", "Sr", "Ti", "O"}
    stored = read_request(out)
    assert stored is not None
    assert stored.request.guidance == 1.0
    (low,) = smoke_run.statistics().property_min
    assert stored.request.target == {"tolerance_factor": (low, low)}
    return written


def test_sampling_writes_all_kinds_of_files(sampling):
    # Of a thousand crystals of this request 991 are written; of six, one at least.
    assert assert_all_kinds_of_files(sampling) > 0


def test_the_same_sampling_command_again_changes_nothing(sampling, workdir, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in sampling.rglob("*") if path.is_file()}
    run_sample(monkeypatch, *sampling_flags(workdir))
    assert {path: path.read_bytes() for path in before} == before
    assert "of 6 crystals" in capsys.readouterr().out


def test_another_sampling_command_into_the_same_folder_is_refused(
    sampling, workdir, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as caught:
        run_sample(monkeypatch, *sampling_flags(workdir), "--seed=1")
    assert caught.value.code == 2
    assert_one_sentence(capsys.readouterr().err, "seed (there 0, now 1)")


def test_a_target_outside_the_training_range_is_warned_of(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("crystal_diffusion_jax.sampling.generate.generate", lambda *_, **__: None)
    run_sample(monkeypatch, f"--model={workdir}", f"--out={tmp_path / 'new'}", "--target=1.5")
    statistics = smoke_run.statistics()
    said = capsys.readouterr().err
    assert said.startswith("warning: the target tolerance_factor=1.5 is outside")
    assert f"{statistics.property_min[0]:g} .. {statistics.property_max[0]:g}" in said


@pytest.mark.parametrize(
    ("flags", "solver", "num_steps", "corrector_step_size"),
    [
        # 0.32 of the square of the smallest sigma, 0.005
        ([], "second_order", 50, 8e-6),
        (["--corrector_step_size=0"], "second_order", 50, 0.0),
        (["--sampler=paper"], "ancestral", 1000, 1e-6),
        (["--solver=ancestral"], "ancestral", 1000, 1e-6),
        (
            ["--solver=second_order", "--num_steps=20", "--corrector_step_size=0"],
            "second_order",
            20,
            0.0,
        ),
    ],
)
def test_steps_and_corrector_follow_from_the_solver_unless_given(
    flags, solver, num_steps, corrector_step_size, tmp_path, monkeypatch
):
    monkeypatch.setattr("crystal_diffusion_jax.sampling.generate.generate", lambda *_, **__: None)
    run_sample(monkeypatch, f"--model={SHIPPED}", f"--out={tmp_path / 'new'}", *flags)
    stored = read_request(tmp_path / "new")
    assert stored is not None
    assert (stored.request.solver, stored.request.num_steps) == (solver, num_steps)
    assert stored.request.corrector_step_size == pytest.approx(corrector_step_size)


@pytest.mark.parametrize("mistake", TRAINING_MISTAKES)
def test_a_mistake_in_training_ends_with_status_2_and_one_sentence(training_mistakes, mistake):
    status, said = training_mistakes[mistake]
    assert status == 2, said
    assert_one_sentence(said, TRAINING_MISTAKES[mistake][1])


def test_a_config_is_found_by_name_by_file_and_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = str(ROOT / "configs" / "perov5_cdi.py")
    for value in ("perov5_cdi", "configs/perov5_cdi.py"):
        assert train.find_config(value) == expected
        assert train.find_config(f"{value}:smoke") == f"{expected}:smoke"
    own = tmp_path / "perov5_cdi.py"
    own.touch()
    assert train.find_config("perov5_cdi.py:smoke") == "perov5_cdi.py:smoke"
    assert train.find_config("perov5_cdi") == expected


def test_show_config_prints_all_fields_as_they_are_overridden():
    shown = program(
        *("-m", "experiments.train", "--config=perov5_cdi:smoke", "--show_config"),
        "--config.model.width=32",
    )
    assert shown.returncode == 0, shown.stderr
    assert "--config.model.width=32\n" in shown.stdout
    assert "--config.model.conditioning='cdi'\n" in shown.stdout


@pytest.mark.parametrize("mistake", SAMPLING_MISTAKES)
def test_a_mistake_in_sampling_ends_with_status_2_and_one_sentence(
    workdir, tmp_path, monkeypatch, capsys, mistake
):
    flags, fragment = SAMPLING_MISTAKES[mistake]
    places = {"MODEL": workdir, "OUT": tmp_path / "out"}
    for name, place in places.items():
        flags = [flag.replace(f"={name}", f"={place}") for flag in flags]
    with pytest.raises(SystemExit) as caught:
        run_sample(monkeypatch, *flags)
    assert caught.value.code == 2
    assert_one_sentence(capsys.readouterr().err, fragment)
    assert not (tmp_path / "out").exists()  # else it would belong to the mistaken request
