"""A trained model is a folder with weights.npz, model.json and a model card, without pickle."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import jax
import msgspec
import numpy as np

from crystal_diffusion_jax import commands, denoising
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data import few, training_crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.files import file_sha256, read_json

_MAX_DESCRIPTION = 2**20  # bytes; model.json has at most 50,000

# Shipped models, one folder each.
SHIPPED = Path(__file__).parent / "checkpoints"

# Former names of models and configs -> their replacements.
OLD_NAMES = {
    "perov5_cds_plus": "perov5_cds",
    "perov5_csp": "perov5_cds",
    "carbon24_cdi_plus": "carbon24_cdi",
    "carbon24_cds_plus": "carbon24_cds",
    "carbon24_cds_ranks": "carbon24_cds",
    "mp20_cdi_plus": "mp20_cdi",
    "mp20_cdi_ranks": "mp20_cdi",
    "mp20_csp": "mp20_cdi",
    "mp20_cds_plus": "mp20_cds",
}


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """Everything that sampling needs, without the data set.

    Attributes:
      params: moving average of the weights of the denoiser.
      config: config of the experiment that trained it.
      statistics: statistics of the training data.
      training: steps, losses, time, devices and versions of the training.
      weights_sha256: checksum of weights.npz; empty before the model is saved.
      folder: where it was loaded from.
    """

    params: Any
    config: ExperimentConfig
    statistics: DatasetStatistics
    training: dict[str, Any]
    weights_sha256: str = ""
    folder: Path | None = None

    @property
    def denoiser(self) -> Denoiser:
        """The network of the weights."""
        return denoising.build(self.config, self.statistics)

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def predicts(self) -> bool:
        """Whether it predicts structures of a given formula."""
        return self.config.loss.species_given > 0 or len(self.statistics.vocabulary) == 1

    def training_crystals(self) -> CrystalDataset | None:
        """The crystals that it was trained on, None if it came without them.

        Raises:
          UserError: their file is damaged.
        """
        return None if self.folder is None else training_crystals.load(self.folder)


@dataclasses.dataclass(frozen=True)
class _Description:
    """Content of model.json."""

    format_version: Literal[1]
    weights_sha256: str
    config: dict[str, Any]
    statistics: DatasetStatistics
    training: dict[str, Any]


def save(model: TrainedModel, folder: Path, crystals: CrystalDataset | None = None) -> None:
    """Writes a model folder atomically, replacing an older one.

    Args:
      model: the model.
      folder: takes it.
      crystals: those that it was trained on; None leaves those of the older folder.
    """
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)  # an earlier save was killed between its two renames
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in flat.items()}
    np.savez(new / "weights.npz", **arrays)
    description = _Description(
        format_version=1,
        weights_sha256=file_sha256(new / "weights.npz"),
        config=config_module.to_dict(model.config),
        statistics=model.statistics,
        training=model.training,
    )
    text = json.dumps(dataclasses.asdict(description), indent=1)
    (new / "model.json").write_text(text + "\n")
    (new / "README.md").write_text(model_card(model))
    if crystals is not None:
        training_crystals.save(crystals, new)
    elif (folder / training_crystals.FILE).exists():
        shutil.copyfile(folder / training_crystals.FILE, new / training_crystals.FILE)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def shipped_names() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def load(path: Path | str) -> TrainedModel:
    """Reads a model folder, the one inside a training run's workdir, or a shipped model.

    Args:
      path: the folder, or a name of `shipped_names()`; a folder of that name takes precedence.

    Raises:
      UserError: the model does not exist, or its files are damaged or do not belong together.
    """
    folder = _find(path)
    try:
        values = read_json(folder / "model.json", _MAX_DESCRIPTION)
        description = msgspec.convert(values, _Description)
        config = config_module.from_dict(description.config)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise UserError(
            f"{folder}/model.json is damaged ({printable(str(error), 300)}); copy the model again, "
            "or upgrade crystal-diffusion-jax if a newer version wrote it"
        ) from error
    return TrainedModel(
        params=_read_weights(folder / "weights.npz", description.weights_sha256),
        config=config,
        statistics=description.statistics,
        training=description.training,
        weights_sha256=description.weights_sha256,
        folder=folder,
    )


def _find(path: Path | str) -> Path:
    """The folder with the model.json of a path or a shipped model's name, as `load` takes it.

    Raises:
      UserError: there is none.
    """
    path = Path(os.path.expanduser(path))
    for folder in (path, path / "model", SHIPPED / path):
        with contextlib.suppress(OSError, ValueError):  # name too long, no access
            if (folder / "model.json").exists():
                return folder
    name = printable(str(path), 500)
    if name in OLD_NAMES:
        raise UserError(f"{name} is now {OLD_NAMES[name]}")
    if os.path.isdir(path / "checkpoints"):  # pathlib raises if the name is too long
        raise UserError(
            f"{name} is a training run that has not saved a model yet, which its first validation "
            "does: run the same train command again"
        )
    names = shipped_names()
    raise UserError(
        f"{name} is neither a folder with a trained model nor a model of this package, which has "
        f"{', '.join(names)}; train another with python -m experiments.train"
        f"{did_you_mean(str(path), names)}"
    )


def _read_weights(path: Path, sha256: str) -> Any:
    if not path.is_file() or file_sha256(path) != sha256:
        raise UserError(f"{path} is missing or does not match model.json; copy the model again")
    try:
        # A matching checksum does not make a stranger's file trustworthy.
        flat = read_arrays(path)
        for name, array in flat.items():
            if array.dtype.kind != "f":
                raise ValueError(f"{name} holds {array.dtype} instead of floats")
            parts = name.split("/")
            if any("/".join(parts[:depth]) in flat for depth in range(1, len(parts))):
                raise ValueError(f"{name} is below another array")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} does not hold weights ({printable(str(error), 300)}); copy the model again"
        ) from error
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def example_target(
    conditioning: str, property_names: Sequence[str], class_names: Mapping[str, Sequence[str]]
) -> str:
    """A `--target` that a model with this conditioning and these properties accepts."""
    if conditioning == "none":
        return "none"
    name = property_names[0]
    value = class_names[name][0] if name in class_names else "min"
    return value if len(property_names) == 1 else f"{name}={value}"


def example_request(
    config: ExperimentConfig,
    property_names: Sequence[str],
    class_names: Mapping[str, Sequence[str]],
) -> dict[str, object]:
    """Flags of `sample` that a model accepts; FORMULA stands for a formula of the user's."""
    if config.loss.species_given == 1:  # it never chose the species
        return {"formula": "FORMULA", "num": 20}
    target = example_target(config.model.conditioning, property_names, class_names)
    return {"target": target, "num": 200}


def model_card(model: TrainedModel) -> str:
    """README.md of a model: data, network, training, use."""
    config, statistics = model.config, model.statistics
    columns = (statistics.property_min, statistics.property_max, statistics.property_mean)
    rows = [
        f"| {name} | {low:.4g} .. {high:.4g} | {mean:.4g} | {std:.4g} |"
        if name not in statistics.class_names
        else f"| {name} | {', '.join(statistics.class_names[name])} | | |"
        for name, low, high, mean, std in zip(
            statistics.property_names, *columns, statistics.property_std, strict=True
        )
    ]
    facts = [
        f"- {name}: {str(fact).translate(str.maketrans('', '', '{}'))}".replace("'", "")
        for name, fact in model.training.items()
    ]
    sizes = sorted({statistics.num_atoms_histogram[end][0] for end in (0, -1)})
    count, elements = statistics.num_crystals, len(statistics.vocabulary)
    sentence = few.banner(count)
    banner = f"\n> {sentence}\n" if sentence else ""
    sparse = [
        f"Only {known:,} crystals have a value of {name}; the others were trained with it hidden.\n"
        for name, known in zip(statistics.property_names, statistics.num_known, strict=True)
        if known < count
    ]
    example = example_request(config, statistics.property_names, statistics.class_names)
    example = {"model": "."} | example | {"out": "../samples"}
    formulas = "It predicts the structures of given formulas: --formula=FORMULA.\n"
    return f"""# Crystal diffusion model, data set {config.data.name or config.data.root}
{banner}
{model.num_parameters:,} parameters, conditioning {config.model.conditioning}, trained on {count:,}
crystals of {" to ".join(map(str, sizes))} atoms and {elements} element{"s"[: elements - 1]}.
Targets outside the training range of a property are extrapolations.
{formulas if model.predicts else ""}
| property | training range | mean | standard deviation |
|---|---|---|---|
{chr(10).join(rows)}

{"".join(sparse)}{chr(10) if sparse else ""}Training:

{chr(10).join(facts)}

In this folder:

    {commands.command("sample", commands.flags(example))}

weights.npz holds the averaged weights, model.json the whole configuration and the data statistics,
{training_crystals.FILE}, if it is there, the training crystals, which tell what is new and serve
as templates. The model works without them: remove them from a copy if they are not for others.
"""
