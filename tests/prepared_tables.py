"""A table read as `load` reads it, without the user's cache."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.data.prepared import Prepared, read_folder, write_folder
from crystal_diffusion_jax.data.read import read


def read_whole(source: Source, properties: Sequence[str]) -> Prepared:
    """The crystals and bad rows of a table."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), properties, read(source, properties, progress=False))
        return read_folder(Path(folder))
