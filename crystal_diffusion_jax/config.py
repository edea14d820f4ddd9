"""ExperimentConfig: everything that defines a run, frozen, checked, and readable back from json."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from crystal_diffusion_jax.data.load import DataConfig
from crystal_diffusion_jax.diffusion.schedules import NoiseConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.denoiser import DenoiserConfig
from crystal_diffusion_jax.sampling.sampler import SamplingConfig
from crystal_diffusion_jax.training.loss import LossConfig
from crystal_diffusion_jax.training.state import TrainingConfig


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment; each section is documented beside the code that reads it.

    Attributes:
      seed: of the initial weights, the batches and all noise.
      data: which crystals and which properties.
      scale_by_num_atoms: measure lattices in units that grow as N^(1/3).
      noise: the forward process.
      model: shape of the denoiser.
      loss: weights of the loss.
      training: optimisation, logging, checkpoints.
      sampling: defaults of the sampler.
    """

    seed: int
    data: DataConfig
    scale_by_num_atoms: bool
    noise: NoiseConfig
    model: DenoiserConfig
    loss: LossConfig
    training: TrainingConfig
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        """Rejects a seed that numpy's generators refuse, and sections that contradict another."""
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")
        if self.model.num_radial > 0 and not self.scale_by_num_atoms:
            raise ValueError(
                f"model.num_radial={self.model.num_radial} needs scale_by_num_atoms=True: its "
                "distances are in units that grow as N^(1/3)"
            )


# Where the data lie does not change what is learnt from them, so a moved folder can be resumed.
_LOCATION_FIELDS = ("data.root",)


def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
    """Builds the config from nested dictionaries (a ConfigDict's, or those of a model folder).

    Raises:
      UserError: a field that does not exist, is missing, has the wrong type or an impossible value.
    """
    return _build(ExperimentConfig, values, "config")


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Nested plain dictionaries, ready for json; `from_dict` reads them back."""
    return dataclasses.asdict(config)


def differences(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """Fields that differ, as "section.field: old -> new"; the place of the data is not compared."""
    flat_old, flat_new = _flatten(to_dict(old)), _flatten(to_dict(new))
    return [
        f"{name}: {flat_old[name]!r} -> {flat_new[name]!r}"
        for name in flat_old
        if name not in _LOCATION_FIELDS and flat_old[name] != flat_new[name]
    ]


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise UserError(f"{where}.{name} does not exist; {where} has {', '.join(fields)}")
    built = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _checked(hints[name], values[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{where}.{name} is missing")
    try:
        return kind(**built)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _checked(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a section of fields, not {value!r}")
        return _build(hint, value, where)
    if isinstance(hint, types.GenericAlias):  # tuple[X, ...]: json and the command line give lists
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(_checked(inner, item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be of type {hint.__name__}, not {value!r}")
    if hint is float and not math.isfinite(value):
        section, _, field = where.rpartition(".")
        raise UserError(f"{section}: {field} must be finite, not {value!r}")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
