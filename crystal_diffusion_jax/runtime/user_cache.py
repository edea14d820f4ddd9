"""The cache folder of downloads and prepared data."""

import os
from pathlib import Path

from crystal_diffusion_jax.errors import UserError


def cache_folder() -> Path:
    """`$CRYSTAL_DIFFUSION_CACHE`, by default crystal-diffusion-jax in the user's cache folder."""
    if own := os.environ.get("CRYSTAL_DIFFUSION_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "crystal-diffusion-jax"


def write_cached(path: Path, content: bytes) -> None:
    """Writes a file of the cache atomically; several processes may write the same one at once.

    Raises:
      OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_required(path: Path, content: bytes) -> None:
    """`write_cached` for what a command cannot do without.

    Raises:
      UserError: it cannot be written.
    """
    try:
        write_cached(path, content)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}): set CRYSTAL_DIFFUSION_CACHE to a folder that can."
        ) from error
