"""Download of the known data sets' csv files from CDVAE's repository."""

from pathlib import Path

from crystal_diffusion_jax.data.datasets import SPLITS, DatasetSpec
from crystal_diffusion_jax.runtime.downloads import fetch


def download(spec: DatasetSpec, folder: Path, progress: bool = True) -> dict[str, Path]:
    """Makes sure that the official files of a data set are in a folder, complete and unaltered.

    Args:
      spec: the data set.
      folder: created if it does not exist.
      progress: show progress bars on stderr.

    Returns:
      The files by split.

    Raises:
      UserError: a file cannot be downloaded, is not the official one, or cannot be written.
    """
    return {
        split: fetch(spec.url(split), spec.sha256[split], folder / f"{split}.csv", progress)
        for split in SPLITS
    }
