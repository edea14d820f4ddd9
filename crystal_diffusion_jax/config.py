"""Every config dataclass: frozen, checked, readable from and written to json."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

from crystal_diffusion_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data to use.

    Attributes:
      name: "perov5", "carbon24", "mp20", "abx3" (built-in), or "" for the user's own data.
      root: where the data are. Known data sets: their folder, "" to search `find_known`'s places.
        Own data: see `own_sources`.
      properties: columns to condition on; () for a known data set's own property.
      max_num_atoms: a crystal with more atoms is a bad row; 0: no limit.
      skip_bad_rows: go on without rows that cannot be used instead of refusing the data.
      val_fraction: part of one unsplit table that becomes "val".
      seed: of the random split of one unsplit table, and of the built-in data.
    """

    name: str = ""
    root: str = ""
    properties: tuple[str, ...] = ()
    max_num_atoms: int = 0
    skip_bad_rows: bool = False
    val_fraction: float = 0.1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The forward process.

    Attributes:
      num_steps: T.
      cosine_offset: s of the cosine schedule (Nichol and Dhariwal, arXiv:2102.09672).
      frac_sigma_min: standard deviation of fractional coordinates at t = 1.
      frac_sigma_max: the same at t = T.
    """

    num_steps: int = 1000
    cosine_offset: float = 0.008
    frac_sigma_min: float = 0.005
    frac_sigma_max: float = 0.5

    def __post_init__(self) -> None:
        """Rejects values that give no schedule."""
        # Beyond the limit the smallest steps round to nothing in float32.
        if not 1 <= self.num_steps <= 100_000:
            raise ValueError(
                f"num_steps must be at least 1 and at most 100000, not {self.num_steps}"
            )
        if not 0 <= self.cosine_offset < 1:
            raise ValueError(f"cosine_offset must be in [0, 1), not {self.cosine_offset}")
        # Beyond 0.7 the wrapped normal is flat to four digits, and its score, brought to unit
        # size, is rounding noise in float32.
        if not 0 < self.frac_sigma_min < self.frac_sigma_max <= 0.7:
            raise ValueError(
                "0 < frac_sigma_min < frac_sigma_max <= 0.7 must hold, not "
                f"{self.frac_sigma_min} and {self.frac_sigma_max}"
            )


CONDITIONINGS = ("none", "cdi", "cds")


# Far above what crystals need. The sizes of the weights are found by going through the network,
# so a made-up model must not describe one that takes minutes.
_MAX_BLOCKS, _MAX_WIDTH = 64, 8192


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the network.

    Attributes:
      conditioning: how the property enters. "cdi": with the input, eq. (16); "cds": into queries,
        keys and values of every block, eqs. (17)-(19); "none": not at all, only the time.
      width: D, features of an atom; even, a multiple of num_heads.
      num_blocks: Transformer blocks.
      num_heads: H, attention heads.
      num_frequencies: M, Fourier orders of the pair features, eq. (14).
      pair_hidden_width: hidden width of the pair MLPs.
      activation: "silu", "gelu" or "relu".
      norm: "post" (the paper's eqs. (9), (10)) or "pre".
      num_radial_features: radial functions of distances between atoms, which pairs see besides
        and which give forces on atoms and cell (`models.neighbours`); 0 disables them. Needs
        lattices that are scaled by the number of atoms.
      pair_time: whether the pair MLPs see the time; the paper's do not.
      num_rank_features: cosines of a property's rank among the training data, embedded with its
        value (`models.embeddings.PropertyEmbedding`); 0, the paper's, does without.
      mean_free_score: subtract the mean over atoms from the predicted and the target score, see
        `diffusion.coordinates.mean_free`; False is the paper's plain loss.
    """

    conditioning: str = "cds"
    width: int = 64
    num_blocks: int = 3
    num_heads: int = 8
    num_frequencies: int = 10
    pair_hidden_width: int = 64
    activation: str = "silu"
    norm: str = "post"
    mean_free_score: bool = True
    num_radial_features: int = 0
    pair_time: bool = False
    num_rank_features: int = 0

    def __post_init__(self) -> None:
        """Rejects values that name no network."""
        for field, allowed in (
            ("conditioning", CONDITIONINGS),
            ("activation", ("silu", "gelu", "relu")),
            ("norm", ("post", "pre")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, not {getattr(self, field)!r}")
        for fields, least, most in (
            (("num_blocks",), 1, _MAX_BLOCKS),
            (("width", "num_heads", "num_frequencies", "pair_hidden_width"), 1, _MAX_WIDTH),
            (("num_radial_features", "num_rank_features"), 0, _MAX_WIDTH),
        ):
            for field in fields:
                value = getattr(self, field)
                if value < least:
                    raise ValueError(f"{field} must be at least {least}, not {value}")
                if value > most:
                    raise ValueError(f"{field} must be at most {most}, not {value}")
        if self.width % self.num_heads or self.width % 2:
            raise ValueError(
                f"width must be even and a multiple of num_heads, not {self.width} "
                f"with {self.num_heads} heads"
            )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the parts; the logged parts are unweighted.

    Attributes:
      lattice: of the squared error of the lattice noise.
      frac_coords: of the squared error of the scaled score.
      species_kl: of the D3PM KL divergence. It is tiny beside the others (about 0.002 against
        0.5), hence DiffCSP's weight of 20.
      species_cross_entropy: of D3PM's auxiliary cross-entropy of the clean species.
      condition_dropout: probability of hiding a crystal's properties, see `drop_conditions`; it
        trains the unconditional branch of classifier-free guidance.
    """

    lattice: float = 1.0
    frac_coords: float = 1.0
    species_kl: float = 20.0
    species_cross_entropy: float = 0.05
    condition_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Rejects negative weights and what is no probability."""
        for field in ("lattice", "frac_coords", "species_kl", "species_cross_entropy"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(
                    f"{field} must be at least 0 and finite, not {getattr(self, field)}"
                )
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout must be in [0, 1], not {self.condition_dropout}")


ADAM: Final = "adam"


MUON: Final = "muon"


OPTIMIZERS = (ADAM, MUON)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, logging and checkpoints.

    Attributes:
      num_steps: optimizer steps in all.
      batch_size: crystals per step, a multiple of the number of devices.
      optimizer: "adam", or "muon" for the matrices of the blocks and Adam for all else, see
        `training.optimizer`.
      learning_rate: peak, reached after the warm-up.
      final_learning_rate: reached at the last step, by a cosine.
      warmup_steps: steps of linear warm-up from 0.
      weight_decay: decoupled from the gradient; 0 does without.
      gradient_clip: largest global norm of the gradient.
      ema_decay: of the moving average of the weights, which is what is validated and sampled.
      steps_per_call: steps that run as one program, without a return to Python; log_every and
        num_steps must be multiples of it.
      log_every: steps between lines of the log.
      checkpoint_every: steps between validations with a checkpoint each; a multiple of log_every.
      keep_last: checkpoints kept besides the one of the lowest validation loss.
      init_from: folder or name of a trained model whose weights training starts from, see
        `training.warm_start`; empty for fresh weights.
      tail_oversampling: times in each epoch that a crystal comes whose property is in the lowest
        or highest 5 %, where requests are made; all others come once. Data in shards need 1.
    """

    num_steps: int = 20_000
    batch_size: int = 256
    optimizer: str = ADAM
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 500
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    steps_per_call: int = 10
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_last: int = 2
    init_from: str = ""
    tail_oversampling: int = 1

    def __post_init__(self) -> None:
        """Rejects values that cannot be run."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, not {self.optimizer!r}")
        for field in (
            "num_steps",
            "batch_size",
            "steps_per_call",
            "log_every",
            "checkpoint_every",
            "keep_last",
            "tail_oversampling",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("learning_rate", "gradient_clip"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be positive and finite, not {getattr(self, field)}")
        for field in ("final_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(
                    f"{field} must be at least 0 and finite, not {getattr(self, field)}"
                )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if not 0 <= self.warmup_steps < self.num_steps:
            raise ValueError("warmup_steps must be at least 0 and fewer than num_steps")
        for field in ("num_steps", "log_every"):
            if getattr(self, field) % self.steps_per_call:
                raise ValueError(
                    f"{field} ({getattr(self, field)}) must be a multiple of steps_per_call "
                    f"({self.steps_per_call})"
                )
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every ({self.checkpoint_every}) must be a multiple of log_every "
                f"({self.log_every}), so that a resumed run logs the same means"
            )


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Defaults that belong to a data set.

    Attributes:
      corrector_step_size: Langevin step of the corrector at t = 1, in squared fractional units.
      renoising_steps: at each of the times that decide on the structure, instead of the
        corrector at all times, see `sampling.renoising`; 0 for the paper's corrector.
    """

    corrector_step_size: float = 1e-6
    renoising_steps: int = 0

    def __post_init__(self) -> None:
        """Rejects a negative step."""
        for field in ("corrector_step_size", "renoising_steps"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field} must be at least 0, not {getattr(self, field)}")


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
        if self.model.num_radial_features > 0 and not self.scale_by_num_atoms:
            raise ValueError(
                f"model.num_radial_features={self.model.num_radial_features} needs "
                "scale_by_num_atoms=True: its distances are in units that grow as N^(1/3)"
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
