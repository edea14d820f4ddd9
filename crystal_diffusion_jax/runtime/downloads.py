"""Downloads over https, by pooch: a file gets its name only when it is complete and checked."""

from pathlib import Path

import pooch

from crystal_diffusion_jax.errors import UserError

_TIMEOUT = 60.0  # seconds without a byte


def fetch(url: str, sha256: str | None, path: Path, progress: bool = True) -> Path:
    """Makes sure that a file is there and is the one that was published.

    A file that is there already is checked, and fetched again only where its checksum differs.
    Proxies and certificates are those of the environment (HTTPS_PROXY, REQUESTS_CA_BUNDLE).

    Args:
      url: an https address whose content never changes.
      sha256: the file's checksum; None if the caller checks its content.
      path: where to save it; the folder is created.
      progress: show a progress bar on stderr.

    Returns:
      `path`.

    Raises:
      UserError: no connection, another file than the published one, or a folder that cannot be
        written; the message says which file to download by hand and where to put it.
    """
    if not url.startswith("https://"):
        raise ValueError(f"{url} is not an https address")
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            url,
            known_hash=sha256 and f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=_TIMEOUT),
        )
    except ValueError as error:
        raise UserError(
            f"What {url} sent is not the published file: its sha256 is not {sha256}. Try again, or "
            f"save the published file as {path}."
        ) from error
    except OSError as error:  # requests' errors are among them, without a number
        if error.errno is not None:
            raise UserError(
                f"{path.parent} cannot be written ({error}): set CRYSTAL_DIFFUSION_CACHE to a "
                "folder that can."
            ) from error
        raise UserError(
            f"{url} could not be downloaded ({error}): download it by hand and save it as {path}."
        ) from error
    return path
