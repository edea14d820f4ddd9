"""The cache folder of downloads and prepared data."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$CRYSTAL_DIFFUSION_CACHE`, or else crystal-diffusion-jax in the user's cache folder."""
    if own := os.environ.get("CRYSTAL_DIFFUSION_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "crystal-diffusion-jax"
