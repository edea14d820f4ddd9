"""Download of the official csv files, over TLS only, each checked before it gets its name."""

import http.client
import os
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from crystal_diffusion_jax.data.datasets import SPLITS, DatasetSpec
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import file_sha256, megabytes

_BLOCK = 1 << 16
_AS_IT_IS = "name another folder by --root, whose files are taken as they are"
_TIMEOUT = 60.0  # seconds without a byte
_MAX_BYTES = 2**30  # the largest official file has some 0.1 GB


class _TlsOnlyRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to another https address, and to nothing else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(spec: DatasetSpec, folder: Path, progress: bool = True) -> dict[str, Path]:
    """Makes sure that the official files of a data set are in a folder, complete and unaltered.

    A file that is there already is checked, but not fetched again.

    Args:
      spec: the data set.
      folder: where to; made when it does not exist.
      progress: show a progress bar on stderr.

    Returns:
      The files by split.

    Raises:
      UserError: no connection (the message says which file to fetch by hand and where to put it),
        another file than the official one, or a folder that cannot be written.
    """
    files = {}
    for split in SPLITS:
        path = folder / f"{split}.csv"
        if path.is_file():
            problem = _find_problem(path, spec, split)
            if problem:
                raise UserError(f"{path} {problem}: delete it and run this again, or {_AS_IT_IS}.")
        else:
            _fetch(spec, split, path, progress)
        files[split] = path
    return files


def _fetch(spec: DatasetSpec, split: str, path: Path, progress: bool) -> None:
    url = spec.url(split)
    by_hand = f"download {url} by hand and save it as {path}"
    # The final name is given last, so a file under it is complete.
    partial = path.with_name(f"{split}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(partial, "wb")  # noqa: SIM115 (closed below; an error here has another message)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error}): set CRYSTAL_DIFFUSION_CACHE to a folder "
            "that can."
        ) from error
    try:
        with file:
            _receive(url, file, progress)
        problem = _find_problem(partial, spec, split)
        if problem:
            raise UserError(f"What {url} sent {problem}: run this again, or {_AS_IT_IS}.")
        os.replace(partial, path)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url} could not be downloaded ({error}): {by_hand}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _receive(url: str, file: IO[bytes], progress: bool) -> None:
    """Writes what `url` sends; OSError or HTTPException when that is not all of it."""
    with open_url(url) as response:
        length = _length(response.headers)
        with tqdm(
            total=length,
            unit="B",
            unit_scale=True,
            desc="/".join(url.split("/")[-2:]),
            disable=not progress,
        ) as bar:
            received = 0
            while block := response.read(_BLOCK):
                file.write(block)
                received += len(block)
                if received > _MAX_BYTES:
                    raise OSError(f"more than the {megabytes(_MAX_BYTES)} that a data set can have")
                bar.update(len(block))
    if length is not None and received != length:
        raise OSError(f"the connection broke after {received} of {length} bytes")


def open_url(url: str) -> Any:
    """The response to a GET request over TLS, its certificate checked against the system's.

    Raises:
      UserError: the address, or one it redirects to, is not https.
      OSError: no connection, or an HTTP error status.
    """
    _require_https(url)
    return urllib.request.build_opener(_TlsOnlyRedirects).open(url, timeout=_TIMEOUT)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise UserError(f"{url} is not an https address: data are fetched over TLS only.")


def _length(headers: Mapping[str, str]) -> int | None:
    """Bytes to come, where the server says so."""
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,15}", length) else None


def _find_problem(path: Path, spec: DatasetSpec, split: str) -> str:
    """What is wrong with a file that should be an official csv, "" when nothing is."""
    sha256 = file_sha256(path)
    if sha256 == spec.sha256[split]:
        return ""
    return f"has the sha256 {sha256} instead of {spec.sha256[split]}"
