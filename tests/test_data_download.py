"""data/download.py: what is fetched is checked, and what fails is said."""

import dataclasses
import hashlib
import http.client
import io
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from crystal_diffusion_jax.data import download as downloading
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS, DatasetSpec
from crystal_diffusion_jax.data.download import download, open_url
from crystal_diffusion_jax.errors import UserError

NUM_ROWS = {"train": 3, "val": 2, "test": 1}
CONTENT = {
    split: ("material_id,heat_ref,cif\n" + "id,0.5,text\n" * size).encode()
    for split, size in NUM_ROWS.items()
}
SPEC = dataclasses.replace(
    KNOWN_DATASETS["perov5"],
    sha256={split: hashlib.sha256(CONTENT[split]).hexdigest() for split in SPLITS},
)


class Response(io.BytesIO):
    """What a server sends for one file."""

    def __init__(self, content: bytes, length: int | None = None) -> None:
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": str(length)}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Puts a server that sends CONTENT in place of the network; returns the list of requests."""

    def start(spec: DatasetSpec = SPEC, content: dict[str, bytes] = CONTENT) -> list[str]:
        requests: list[str] = []
        by_url = {spec.url(split): content[split] for split in SPLITS}

        def answer(url: str) -> Response:
            requests.append(url)
            return Response(by_url[url], len(by_url[url]))

        monkeypatch.setattr(downloading, "open_url", answer)
        return requests

    return start


def test_files_arrive_under_their_names_and_only_once(
    tmp_path: Path, serve: Callable[..., list[str]]
) -> None:
    requests = serve()
    first = download(SPEC, tmp_path / "new" / "folder", progress=False)
    assert requests == [SPEC.url(split) for split in SPLITS]
    for split in SPLITS:
        assert first[split].read_bytes() == CONTENT[split]
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 3
    assert download(SPEC, tmp_path / "new" / "folder", progress=False) == first
    assert len(requests) == 3


def test_addresses_and_contents_are_pinned_and_use_tls() -> None:
    for spec in KNOWN_DATASETS.values():
        for split in SPLITS:
            url = spec.url(split)
            assert url.startswith("https://")
            assert url.endswith(f"/{spec.official_folder}/{split}.csv")
            assert any(len(part) == 40 for part in url.split("/"))
            assert re.fullmatch("[0-9a-f]{64}", spec.sha256[split])


@pytest.mark.parametrize(
    ("split", "content"),
    [("val", CONTENT["val"].replace(b"0.5", b"0.6")), ("train", CONTENT["test"]), ("train", b"")],
)
def test_an_altered_file_is_refused_and_not_kept(
    tmp_path: Path, serve: Callable[..., list[str]], split: str, content: bytes
) -> None:
    serve(content={**CONTENT, split: content})
    with pytest.raises(UserError) as caught:
        download(SPEC, tmp_path, progress=False)
    for part in ("has the sha256", SPEC.url(split), "--root"):
        assert part in str(caught.value)
    assert f"{split}.csv" not in {path.name for path in tmp_path.iterdir()}
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


def test_an_altered_file_that_is_already_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(CONTENT["test"])
    with pytest.raises(UserError, match=r"train\.csv has the sha256 .*: delete it .* --root"):
        download(SPEC, tmp_path, progress=False)


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("https://x", 404, "Not Found", http.client.HTTPMessage(), None),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failed_connection_says_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(url: str) -> Response:
        raise failure

    monkeypatch.setattr(downloading, "open_url", fail)
    with pytest.raises(UserError) as caught:
        download(SPEC, tmp_path, progress=False)
    for part in (str(failure), SPEC.url("train"), "by hand", str(tmp_path / "train.csv")):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = CONTENT["train"]

    def answer(url: str) -> Response:
        return Response(content[: content.index(b"id,0.5")], len(content))

    monkeypatch.setattr(downloading, "open_url", answer)
    with pytest.raises(UserError, match="the connection broke after"):
        download(SPEC, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_length_is_not_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        downloading, "open_url", lambda url: Response(CONTENT[url.split("/")[-1][:-4]])
    )
    assert download(SPEC, tmp_path, progress=False)["train"].is_file()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, serve: Callable[..., list[str]]
) -> None:
    serve()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* CRYSTAL_DIFFUSION_CACHE"):
        download(SPEC, tmp_path / "file" / "folder", progress=False)


def test_nothing_is_fetched_without_tls() -> None:
    with pytest.raises(UserError, match="TLS only"):
        open_url("http://example.org/train.csv")


def test_no_redirect_leaves_tls() -> None:
    request = urllib.request.Request("https://example.org/train.csv")
    follow = downloading._TlsOnlyRedirects().redirect_request
    headers = http.client.HTTPMessage()
    with pytest.raises(UserError, match="TLS only"):
        follow(request, io.BytesIO(), 302, "Found", headers, "http://example.org/other.csv")
    followed = follow(request, io.BytesIO(), 302, "Found", headers, "https://example.org/other.csv")
    assert followed is not None
    assert followed.full_url == "https://example.org/other.csv"
