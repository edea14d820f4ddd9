"""A trained model as one folder: weights.npz, model.json and a model card. No pickle anywhere."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import msgspec
import numpy as np

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError, did_you_mean, shown
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.files import file_sha256, read_json

FORMAT_VERSION = 1

_MAX_DESCRIPTION = 2**20  # bytes; model.json has some thousands

# Models that come with the package, one folder each.
SHIPPED = Path(__file__).parent / "checkpoints"


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """All that sampling needs; no data set.

    Attributes:
      params: averaged weights of the denoiser.
      config: the experiment that trained it.
      statistics: vocabulary, property statistics, atom counts and lattice scale.
      training: how it was trained: step, losses, seconds, device, versions.
      weights_sha256: of weights.npz; empty before the model is saved.
    """

    params: Any
    config: ExperimentConfig
    statistics: DatasetStatistics
    training: dict[str, Any]
    weights_sha256: str = ""

    @property
    def denoiser(self) -> Denoiser:
        """The network that the weights belong to."""
        return denoising.build(self.config.model, self.statistics)

    @property
    def num_parameters(self) -> int:
        """Weights in all."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def save(model: TrainedModel, folder: Path) -> None:
    """Writes the folder beside its final place and then swaps it in, replacing an older one."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)  # an earlier save was killed between its two renames
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in flat.items()}
    np.savez(new / "weights.npz", **arrays)
    digest = file_sha256(new / "weights.npz")
    description = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": digest,
        "config": config_module.to_dict(model.config),
        "statistics": dataclasses.asdict(model.statistics),
        "training": model.training,
    }
    (new / "model.json").write_text(json.dumps(description, indent=1) + "\n")
    (new / "README.md").write_text(model_card(model))
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def shipped_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def _find(path: Path) -> Path:
    """The folder with model.json that a path or a shipped model's name stands for."""
    for folder in (path, path / "model", SHIPPED / path):
        with contextlib.suppress(OSError, ValueError):  # a name too long, a folder of someone else
            if (folder / "model.json").exists():
                return folder
    if os.path.isdir(path / "checkpoints"):  # pathlib's raises where a name is too long
        raise UserError(
            f"{shown(str(path), 500)} is a training that has not written a model yet, which comes "
            "with its first validation: give the same train command again"
        )
    names = shipped_names()
    raise UserError(
        f"{shown(str(path), 500)} is neither a folder with a trained model nor a model of this "
        f"package, which has {', '.join(names)}; train another with python -m experiments.train"
        f"{did_you_mean(str(path), names)}"
    )


def load(path: Path | str) -> TrainedModel:
    """Reads a model folder, the one inside a training run's workdir, or a shipped model.

    Args:
      path: the folder, or a name of `shipped_names()`; a folder of that name comes first.

    Raises:
      UserError: no model there, a newer format, or weights that are damaged or belong elsewhere.
    """
    folder = _find(Path(path))
    for name in ("model.json", "weights.npz"):
        _refuse_link_out(folder, folder / name)
    try:
        description = read_json(folder / "model.json", _MAX_DESCRIPTION)
        version = description["format_version"]
        if type(version) is not int:
            raise TypeError(f"format_version is {version!r}")
        if version <= FORMAT_VERSION:
            statistics = msgspec.convert(description["statistics"], DatasetStatistics)
            config = config_module.from_dict(description["config"])
            digest, training = description["weights_sha256"], description["training"]
            if not isinstance(training, dict):
                raise TypeError("training is no object with fields")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}/model.json is damaged ({shown(str(error), 300)}); copy the model again"
        ) from error
    if version > FORMAT_VERSION:
        raise UserError(
            f"{folder} was written by a newer version (format {version}, this one reads "
            f"{FORMAT_VERSION}); upgrade crystal-diffusion-jax"
        )
    return TrainedModel(
        params=_read_weights(folder / "weights.npz", digest),
        config=config,
        statistics=statistics,
        training=training,
        weights_sha256=digest,
    )


def _read_weights(path: Path, digest: str) -> Any:
    if not path.is_file() or file_sha256(path) != digest:
        raise UserError(f"{path} is missing or does not match model.json; copy the model again")
    try:
        # Of a file that somebody made up, the checksum says nothing.
        flat = read_arrays(path)
        for name, array in flat.items():
            if array.dtype.kind != "f":
                raise ValueError(f"{name} holds {array.dtype} instead of floats")
            if any(
                "/".join(name.split("/")[:depth]) in flat for depth in range(1, 1 + name.count("/"))
            ):
                raise ValueError(f"{name} is below another array")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} does not hold weights ({shown(str(error), 300)}); copy the model again"
        ) from error
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _refuse_link_out(folder: Path, path: Path) -> None:
    """Refuses a file of the model that is a link to something elsewhere.

    Somebody else's folder could name any file of this machine.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} is a link to a file outside of its folder; copy the model with the files "
            "themselves (cp -rL)"
        )


def example_target(conditioning: str, property_names: Sequence[str]) -> str:
    """A `--target` that a model with this conditioning and these properties understands."""
    if conditioning == "none":
        return "none"
    return "min" if len(property_names) == 1 else f"{property_names[0]}=min"


def model_card(model: TrainedModel) -> str:
    """A short page for people: data, network, training, use."""
    config, statistics, training = model.config, model.statistics, model.training
    rows = [
        f"| {name} | {low:.4g} .. {high:.4g} | {mean:.4g} | {std:.4g} |"
        for name, low, high, mean, std in zip(
            statistics.property_names,
            statistics.property_min,
            statistics.property_max,
            statistics.property_mean,
            statistics.property_std,
            strict=True,
        )
    ]
    facts = "\n".join(f"- {name}: {value}" for name, value in training.items())
    smallest, largest = (statistics.num_atoms_histogram[end][0] for end in (0, -1))
    sizes = f"{smallest} to {largest}" if smallest < largest else f"{smallest}"
    target = example_target(config.model.conditioning, statistics.property_names)
    count = sum(crystals for _, crystals in statistics.num_atoms_histogram)
    return f"""# Crystal diffusion model, data set {config.data.name or config.data.root}

{model.num_parameters:,} parameters, conditioning {config.model.conditioning}, trained on {count:,}
crystals of {sizes} atoms and {len(statistics.vocabulary)} elements. Requests
outside the range of a property are extrapolations.

| property | training range | mean | standard deviation |
|---|---|---|---|
{chr(10).join(rows)}

Training:

{facts}

    python -m experiments.sample --model=THIS_FOLDER --target={target} --num=200 --out=samples

weights.npz holds the averaged weights, model.json the whole configuration and the data statistics.
"""
