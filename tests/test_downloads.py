"""runtime/downloads.py: files are checked, and failures say what to do."""

import dataclasses
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.downloads import fetch

CONTENT = b"material_id,heat_ref,cif\nid,0.5,text\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "https://example.org/train.csv"


class Server:
    """A local server that stands in for every https address.

    Attributes:
      paths: requested so far.
      content: sent in reply to every request.
      missing: bytes of the content that it announces and does not send.
      status: of every reply.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.content = CONTENT
        self.missing = 0
        self.status = 200


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server()
    responses: list[requests.Response] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.paths.append(self.path)
            self.send_response(served.status)
            self.send_header("Content-Length", str(len(served.content)))
            self.end_headers()
            self.wfile.write(served.content[: len(served.content) - served.missing])

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever).start()
        get = requests.get

        def get_locally(url: str, **options: Any) -> requests.Response:
            path = url.removeprefix("https://").partition("/")[2]
            port = listening.server_address[1]
            response = get(f"http://127.0.0.1:{port}/{path}", proxies={"http": ""}, **options)
            responses.append(response)
            return response

        monkeypatch.setattr(requests, "get", get_locally)
        yield served
        listening.shutdown()
        for response in responses:  # pooch leaves those that fail to the garbage collector
            response.close()


def test_a_file_arrives_under_its_name_and_only_once(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "new" / "folder" / "train.csv"
    for _ in range(2):
        assert fetch(URL, SHA256, path, progress=False) == path
        assert path.read_bytes() == CONTENT
    assert len(server.paths) == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_file_is_fetched_again(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(CONTENT[:-1])
    assert fetch(URL, SHA256, path, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT.replace(b"0.5", b"0.6"), b""])
def test_another_file_than_the_published_one_is_not_kept(
    tmp_path: Path, server: Server, content: bytes
) -> None:
    server.content = content
    with pytest.raises(UserError, match=re.escape(URL)) as caught:
        fetch(URL, SHA256, tmp_path / "train.csv", progress=False)
    assert SHA256 in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "missing"), [(404, 0), (200, 10)])
def test_a_failed_download_says_what_to_do_by_hand(
    tmp_path: Path, server: Server, status: int, missing: int
) -> None:
    server.status, server.missing = status, missing
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        fetch(URL, SHA256, tmp_path / "train.csv", progress=False)
    for part in (URL, "by hand", str(tmp_path / "train.csv")):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_a_connection_the_message_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, **_: Any) -> requests.Response:
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", fail)
    with pytest.raises(UserError, match=r"Name or service not known.* by hand"):
        fetch(URL, SHA256, tmp_path / "train.csv", progress=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* CRYSTAL_DIFFUSION_CACHE"):
        fetch(URL, SHA256, tmp_path / "file" / "folder" / "train.csv", progress=False)


def test_only_https_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an https address"):
        fetch("http://example.org/train.csv", SHA256, tmp_path / "train.csv")


def test_all_splits_of_a_data_set_are_downloaded(tmp_path: Path, server: Server) -> None:
    spec = dataclasses.replace(KNOWN_DATASETS["perov5"], sha256=dict.fromkeys(SPLITS, SHA256))
    files = spec.download(tmp_path, progress=False)
    assert files == {split: tmp_path / f"{split}.csv" for split in SPLITS}
    assert [path.rpartition("/")[2] for path in server.paths] == [f"{s}.csv" for s in SPLITS]
    assert all(path.read_bytes() == CONTENT for path in files.values())


def test_addresses_and_contents_are_pinned() -> None:
    for spec in KNOWN_DATASETS.values():
        for split in SPLITS:
            url = spec.url(split)
            assert url.startswith("https://")
            assert url.endswith(f"/{spec.official_folder}/{split}.csv")
            assert any(len(part) == 40 for part in url.split("/"))
            assert re.fullmatch("[0-9a-f]{64}", spec.sha256[split])
