"""Files made to do harm are refused with a sentence, within bounded memory and time."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.structures.reading import read_structures
from tests.hostile_arrays import objects
from tests.test_trained_model import made_up_model

ROOT = Path(__file__).parents[1]
# MB, of a read that is refused at once: twice what was measured with Python 3.11 and 3.13, and a
# third of what the smallest of the files unpacks to.
LITTLE = 12.0
# What the limit itself takes: a line as bytes and as text, a million rows, a file of 16 MiB; for
# the config the libraries that take the lock.
MORE = {"csv line": 32.0, "csv.gz line": 32.0, "csv.gz rows": 200.0}
MORE |= {"config": 17.0}
# A file of 10 or 40 MB as bytes and as text; the 16 MiB up to which anything may expand.
MORE |= {"json depth": 20.0, "json values": 80.0, "json.gz bomb": 32.0}


@pytest.fixture(scope="module")
def hostile_reads(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """How reads of hostile files ended, in a process of their own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile_reads", str(folder)],
        cwd=ROOT,
        # Large blocks of memory go back to the system, where they are counted.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_hostile_file_takes_no_more_memory_than_its_limit(hostile_reads: Any) -> None:
    growth = hostile_reads["growth_mb"]
    assert growth.keys() == hostile_reads["ends"].keys() > MORE.keys()
    too_much = {case: mb for case, mb in growth.items() if mb > MORE.get(case, 0.0) + LITTLE}
    assert too_much == {}
    # It is measured at all: the line that is read until it is too long.
    assert growth["csv line"] > 16


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("cif line", r"UserError: .*line\.cif is larger than"),
        ("cif atoms", r"UserError: .*million\.cif is larger than"),
        ("cif atoms as text", "ValueError: too large"),
        ("cif images", "ValueError: too many atoms: 3600000 images"),
        ("cif in a folder", "read: too large"),
        ("csv cif", "read: too large"),
        ("csv beside cif", r"row=1, .*too large: larger than"),
        ("csv line", r"UserError: .*line\.csv .* a line is longer than"),
        ("csv.gz line", r"UserError: .*zeros\.csv\.gz .* a line is longer than"),
        ("csv.gz rows", r"UserError: .*rows\.csv\.gz has more than 1,000,000 rows"),
        ("db hole", r"UserError: .*hole\.db .* was not written by"),
        ("db num", r"UserError: .*samples\.db .*request\.num is 1000000000000"),
        ("db depth", r"UserError: .*samples\.db .*RecursionError"),
        ("db value", r"UserError: .*samples\.db .*too big"),
        ("db reason", r"UserError: .*samples\.db .*too big"),
        ("extxyz line", r"UserError: .*line\.extxyz .* a line is longer than"),
        ("extxyz count", r"UserError: .*endless\.extxyz .* frame 0: the file ends"),
        ("extxyz atoms", "read: too many atoms: 1000000"),
        ("extxyz columns", "read: unreadable frame: .* columns"),
        ("poscar count", "read: too many atoms"),
        ("poscar line", r"UserError: .*line\.vasp is larger than"),
        ("json depth", r"UserError: .*depth\.json .*unreadable JSON"),
        ("json values", r"UserError: .*values\.json .*too large"),
        ("json type", "read: "),
        ("json.gz bomb", r"UserError: .*bomb\.json\.gz is larger than"),
        ("xsf count", r"UserError: .*count\.xsf cannot be read: unreadable XSF"),
        ("traj frames", r"UserError: .*frames\.traj cannot be read: 1000000000000 frames"),
        ("traj size", "read: unreadable frame: .* bytes of description"),
        ("traj array", "read: unreadable frame: numbers of type float64"),
        ("npz bomb", "ValueError: the archive's .* would expand to"),
        ("npz shape", r"ValueError: a\.npy declares an array of shape"),
        ("npz axis", r"ValueError: a\.npy declares an array of shape"),
        ("torch memo", r"UserError: memo\.pt .*memo"),
        ("torch description", r"UserError: long\.pt .*pickle of more"),
        ("model.json", r"UserError: .*model\.json is damaged \(larger than"),
        ("prepared meta", "TooLarge: larger than 4 MiB"),
        ("owner", r"read: .*was cut short \(another process\)"),
        ("config", r"UserError: .*config\.json cannot be read \(larger .*another --workdir"),
        ("checkpoint checksums", r"DamagedError: .*sha256\.json cannot be read .*nested too deep"),
    ],
)
def test_a_hostile_file_is_refused_with_its_name(
    hostile_reads: Any, case: str, reason: str
) -> None:
    assert_matches(hostile_reads["ends"][case], reason)


def assert_matches(sentence: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"^(?:{reason}|.*{reason})"):
        raise UserError(sentence)
    assert len(sentence) < 1000
    assert sentence.isprintable()


def test_pickles_in_arrays_are_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    np.savez(tmp_path / "a.npz", kernel=objects(mark))
    with pytest.raises(ValueError, match="type object"):
        read_arrays(tmp_path / "a.npz")
    folder = saved_model(tmp_path)
    with_weights(folder, tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"weights\.npz does not hold weights .*type object"):
        trained_model.load(folder)
    assert not mark.exists()


def saved_model(tmp_path: Path) -> Path:
    trained_model.save(made_up_model(), tmp_path / "model")
    return tmp_path / "model"


def with_weights(folder: Path, weights: Path) -> None:
    """Puts other weights into a model folder, with the checksum that belongs to them."""
    content = weights.read_bytes()
    (folder / "weights.npz").write_bytes(content)
    description = json.loads((folder / "model.json").read_text())
    description["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"kernel": np.array(["text"])}, "instead of floats"),
        ({"a": np.zeros(2), "a/b": np.zeros(2)}, "a/b is below another array"),
    ],
)
def test_made_up_weights_are_refused(tmp_path: Path, arrays: Any, reason: str) -> None:
    folder = saved_model(tmp_path)
    np.savez(tmp_path / "w.npz", **arrays)
    with_weights(folder, tmp_path / "w.npz")
    with pytest.raises(UserError, match=rf"weights\.npz does not hold weights .*{reason}"):
        trained_model.load(folder)


def test_arrays_come_back_as_numpy_wrote_them(tmp_path: Path) -> None:
    arrays = {
        "block/kernel": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(2, dtype=np.int8),
        "text": np.array(["é", "abc"]),
        "none": np.zeros((0, 3), dtype=np.float32),
    }
    writers: tuple[Any, ...] = (np.savez, np.savez_compressed)
    for save in writers:
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("name", ["set.csv", "set.cif", "set.extxyz", "set.zip", "samples.db"])
def test_a_pipe_is_refused_without_blocking(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=name):
        read_structures(tmp_path / name)


def test_a_path_too_long_for_any_file_is_refused() -> None:
    with pytest.raises(UserError, match="File name too long"):
        read_structures(Path("a" * 5000))
    with pytest.raises(UserError, match="is neither a folder with a trained model"):
        trained_model.load("a" * 5000)
