"""The config of an experiment: frozen dataclasses, from and to JSON.

Every field has a default, so a file in configs/ states only what its experiment changes; `describe`
prints every field.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from crystal_diffusion_jax.errors import UserError, did_you_mean


def _check_range(
    section: object,
    *names: str,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raises ValueError unless the named fields are finite and within the bounds."""
    bounds = {"at least": least, "greater than": above, "at most": most, "less than": below}
    rule = " and ".join(
        f"{word} {bound:g}" for word, bound in bounds.items() if abs(bound) < math.inf
    )
    for name in names:
        value = getattr(section, name)
        if not (abs(value) < math.inf and least <= value <= most and above < value < below):
            raise ValueError(f"{name} must be {rule}, not {value}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which crystals to train on, and which of their properties.

    Attributes:
      name: "perov5", "carbon24", "mp20", "abx3" (built-in), or "" for your own data.
      root: path of the data. Of a known data set the folder of its tables; "" looks in
        $CRYSTAL_DIFFUSION_DATA/NAME and then in the user's cache. Of your own data the table or
        folder.
      properties: columns to condition on; () for the property that a known data set comes with.
      max_num_atoms: crystals with more atoms are rejected; 0 disables the limit.
      skip_bad_rows: train without the rows that cannot be used instead of refusing the table.
      val_fraction: fraction of a table without splits that becomes the validation split; copies of
        one crystal stay together.
      seed: seed of that split, and of the built-in data.
    """

    name: str = ""
    root: str = ""
    properties: tuple[str, ...] = ()
    max_num_atoms: int = 0
    skip_bad_rows: bool = False
    val_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Rejects values out of range."""
        _check_range(self, "max_num_atoms", "seed", least=0)
        _check_range(self, "val_fraction", above=0, below=1)


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The forward process.

    Attributes:
      num_steps: number of diffusion steps T.
      cosine_offset: s of the cosine schedule of lattice and species (Nichol and Dhariwal,
        arXiv:2102.09672).
      frac_sigma_min: standard deviation of fractional coordinates at t = 1.
      frac_sigma_max: the same at t = T.
    """

    num_steps: int = 1000
    cosine_offset: float = 0.008
    frac_sigma_min: float = 0.005
    frac_sigma_max: float = 0.5

    def __post_init__(self) -> None:
        """Rejects values that define no schedule."""
        # With more steps the smallest ones round to nothing in float32.
        _check_range(self, "num_steps", least=1, most=100_000)
        _check_range(self, "cosine_offset", least=0, below=1)
        # Above 0.7 the wrapped normal is flat to four digits, and its score, scaled to unit
        # variance, is rounding noise in float32.
        _check_range(self, "frac_sigma_min", above=0)
        _check_range(self, "frac_sigma_max", above=self.frac_sigma_min, most=0.7)


# Each has a branch in `models.denoiser.Denoiser`.
CONDITIONINGS = ("none", "cdi", "cds")

DTYPES = ("float32", "bfloat16")

# The paper's predictor, and the same with extrapolated predictions (`diffusion.second_order`).
ANCESTRAL: Final = "ancestral"
SECOND_ORDER: Final = "second_order"
Solver = Literal["ancestral", "second_order"]
SOLVERS: tuple[Solver, ...] = (ANCESTRAL, SECOND_ORDER)

# Far more than crystals need. The network is traced to find the shapes of the weights, which must
# not take minutes for a forged model.json.
_MAX_BLOCKS, _MAX_WIDTH = 64, 8192


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the network.

    Attributes:
      conditioning: how the properties enter. "cdi": joined to the input, eq. (16); "cds": in the
        queries, keys and values of every block, eqs. (17)-(19); "none": not at all, only the time.
      width: D, features of an atom; even, a multiple of num_heads.
      num_blocks: Transformer blocks.
      num_heads: H, attention heads.
      num_frequencies: M, Fourier orders of the pair features, eq. (14).
      pair_hidden_width: hidden width of the pair MLPs.
      mean_free_score: subtract the mean over atoms from the predicted and the target score, see
        `diffusion.coordinates.mean_free`; False is the paper's plain loss.
      num_radial_features: radial functions of the distances between atoms, which the pair MLPs then
        see together with the time, and which give forces on atoms and cell (`models.neighbours`);
        0, the paper's choice, disables them. Needs scale_by_num_atoms.
      num_rank_features: cosines of a property's rank in the training data, embedded with its value
        (`models.embeddings.rank_features`); 0, the paper's choice, disables them.
      dtype: of the activations in the blocks: "float32", or "bfloat16" for accelerators with fast
        products of such numbers. Weights, geometry, softmax and outputs are always float32, so a
        model trained with one of them can be used with the other.
    """

    conditioning: str = "cds"
    width: int = 64
    num_blocks: int = 3
    num_heads: int = 8
    num_frequencies: int = 10
    pair_hidden_width: int = 64
    mean_free_score: bool = True
    num_radial_features: int = 0
    num_rank_features: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Rejects values that describe no network."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, not {self.dtype!r}")
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(
                f"conditioning must be one of {CONDITIONINGS}, not {self.conditioning!r}"
            )
        _check_range(self, "num_blocks", least=1, most=_MAX_BLOCKS)
        widths = ("width", "num_heads", "num_frequencies", "pair_hidden_width")
        _check_range(self, *widths, least=1, most=_MAX_WIDTH)
        _check_range(self, "num_radial_features", "num_rank_features", least=0, most=_MAX_WIDTH)
        if self.width % self.num_heads or self.width % 2:
            raise ValueError(
                f"width must be even and a multiple of num_heads, not {self.width} "
                f"with {self.num_heads} heads"
            )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss; the parts are logged without them.

    Attributes:
      lattice: weight of the squared error of the lattice noise, eq. (3).
      frac_coords: weight of the squared error of the scaled score, eq. (5).
      species_kl: weight of the D3PM KL divergence, eq. (8). That term is small (about 0.002,
        the others 0.5), hence DiffCSP's weight of 20.
      species_cross_entropy: weight of D3PM's auxiliary cross-entropy of the clean species; 0, the
        paper's choice, disables it.
      condition_dropout: probability of hiding a crystal's properties (`loss.drop_conditions`),
        which trains the unconditional branch of classifier-free guidance; 0 is the paper's choice.
      species_given: probability of showing a crystal with its clean species, which trains the
        prediction of structures for a given formula; 0 is the paper's choice.
    """

    lattice: float = 1.0
    frac_coords: float = 1.0
    species_kl: float = 20.0
    species_cross_entropy: float = 0.05
    condition_dropout: float = 0.1
    species_given: float = 0.0

    def __post_init__(self) -> None:
        """Rejects negative weights and probabilities outside [0, 1]."""
        weights = ("lattice", "frac_coords", "species_kl", "species_cross_entropy")
        _check_range(self, *weights, least=0)
        _check_range(self, "condition_dropout", "species_given", least=0, most=1)


ADAM: Final = "adam"
MUON: Final = "muon"
OPTIMIZERS = (ADAM, MUON)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, logging and checkpoints.

    Attributes:
      num_steps: total number of optimizer steps; may grow when a run resumes.
      batch_size: crystals per step, a multiple of the number of devices; at most as many as there
        are.
      optimizer: "adam", or "muon" for the matrices of the blocks with Adam for all other weights,
        see `training.optimizer`.
      learning_rate: peak learning rate, reached after the warm-up.
      property_rate: learning rate of the property embedding, in units of that of the other weights;
        more than 1 where a trained network, which changes slowly, learns a new property.
      final_learning_rate: learning rate at the last step, approached along a cosine.
      warmup_steps: steps of linear warm-up from 0; at most 40 passes over the crystals.
      decay_steps: the last steps, over which the learning rate falls; 0, or more than there are:
        all after the warm-up.
      gradient_clip: maximum global norm of the gradient.
      ema_decay: decay of the moving average of the weights, which is validated and sampled from.
      steps_per_call: steps compiled into one program; log_every and num_steps must be multiples
        of it.
      log_every: steps between lines of the log.
      checkpoint_every: steps between validations, each with a checkpoint; a multiple of log_every.
      patience: training ends early when the lowest validation loss is this many validations ago,
        and the model is that of the lowest; may grow when a run resumes. 0: it never ends early,
        and the model is that of the last step.
      keep_last: latest checkpoints to keep besides the one with the lowest validation loss.
      init_from: folder or name of a trained model to start from, see `training.init_from`; "" for
        fresh weights.
      tail_oversampling: how many times per epoch crystals with a property in the lowest or highest
        5 % are drawn, the range where most requests are made; all others are drawn once.
      rank_noise: how many places, at most, a crystal's property may come from in the order of the
        property, see `data.rank_noise`; the lowest value is then learnt from as many crystals. 0,
        the paper's choice: each crystal has its own.
    """

    num_steps: int = 20_000
    batch_size: int = 256
    optimizer: str = ADAM
    learning_rate: float = 2e-3
    property_rate: float = 1.0
    final_learning_rate: float = 1e-5
    warmup_steps: int = 500
    decay_steps: int = 0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    steps_per_call: int = 10
    log_every: int = 100
    checkpoint_every: int = 1000
    patience: int = 0
    keep_last: int = 2
    init_from: str = ""
    tail_oversampling: int = 1
    rank_noise: int = 0

    def __post_init__(self) -> None:
        """Rejects values that cannot be run."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, not {self.optimizer!r}")
        counts = ("num_steps", "batch_size", "steps_per_call", "log_every", "checkpoint_every")
        _check_range(self, *counts, "keep_last", "tail_oversampling", least=1)
        _check_range(self, "learning_rate", "property_rate", "gradient_clip", above=0)
        _check_range(self, "final_learning_rate", "decay_steps", "patience", "rank_noise", least=0)
        _check_range(self, "ema_decay", least=0, below=1)
        if not 0 <= self.warmup_steps < self.num_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be at least 0 and less than "
                f"num_steps={self.num_steps}"
            )
        for name, divisor in (
            ("num_steps", "steps_per_call"),
            ("log_every", "steps_per_call"),
            ("checkpoint_every", "log_every"),  # so that a resumed run logs the same means
        ):
            if getattr(self, name) % getattr(self, divisor):
                raise ValueError(
                    f"{name}={getattr(self, name)} must be a multiple of "
                    f"{divisor}={getattr(self, divisor)}"
                )


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Defaults of the sampler, stored with the model.

    Attributes:
      solver: "ancestral", the paper's, or "second_order" (`diffusion.second_order`).
      num_steps: steps of the reverse process; 0 for one at each time of the noise.
      corrector_step_size: step size of the Langevin corrector at t = 1, in squared fractional
        units.
      renoising_steps: steps of renoising at each time that decides on the structure, which replace
        the corrector, see `sampling.renoising`; 0 uses the paper's corrector.
      averaging_rounds: rounds of averaged denoising at the end, see `sampling.averaging`; 0, the
        paper's choice, ends with the last step.
      start_time: diffusion time at which crystals begin from templates, which are training crystals
        with other elements, see `sampling.placing`; 0, the paper's choice, begins from noise. Needs
        loss.species_given.
      sizes_by_property: draw numbers of atoms from p(N | requested property); False draws them
        from p(N) of the training data.
    """

    solver: str = ANCESTRAL
    num_steps: int = 0
    corrector_step_size: float = 1e-6
    renoising_steps: int = 0
    averaging_rounds: int = 0
    start_time: int = 0
    sizes_by_property: bool = True

    def __post_init__(self) -> None:
        """Rejects unknown solvers and negative steps."""
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}, not {self.solver!r}")
        _check_range(self, "num_steps", least=0)
        _check_range(self, "corrector_step_size", "renoising_steps", least=0)
        _check_range(self, "averaging_rounds", "start_time", least=0)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment.

    Attributes:
      seed: seed of the initial weights, the batches and all noise.
      scale_by_num_atoms: measure lattices in units that grow as N^(1/3).
      data: which crystals, and which of their properties.
      noise: the forward process.
      model: shape of the network.
      loss: weights of the terms of the loss.
      training: optimisation, logging and checkpoints.
      sampling: defaults of the sampler.
    """

    seed: int = 0
    scale_by_num_atoms: bool = False
    data: DataConfig = DataConfig()
    noise: NoiseConfig = NoiseConfig()
    model: DenoiserConfig = DenoiserConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        """Rejects a negative seed, and sections that contradict each other."""
        _check_range(self, "seed", least=0)
        if self.model.num_radial_features > 0 and not self.scale_by_num_atoms:
            raise ValueError(
                f"model.num_radial_features={self.model.num_radial_features} needs "
                "scale_by_num_atoms=True: its distances are in units that grow as N^(1/3)"
            )
        if self.sampling.start_time > 0 and self.loss.species_given == 0:
            raise ValueError(
                f"sampling.start_time={self.sampling.start_time} needs loss.species_given above 0: "
                "atoms are placed again with their species given"
            )


_PYTHON_NAMES = {"`object`": "dict", "`array`": "list", "`null`": "None"}


def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
    """Builds the config from nested dictionaries, of a ConfigDict or of JSON.

    A field that a section leaves out takes its default.

    Raises:
      UserError: a section that is missing, or a field that does not exist, has the wrong type or a
        value out of range.
    """
    _reject_unknown(ExperimentConfig, values, "config")
    for field in dataclasses.fields(ExperimentConfig):
        if field.name not in values:
            raise UserError(f"config.{field.name} is missing")
    try:
        return msgspec.convert(values, ExperimentConfig)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        where = f"config{path.rstrip('`')}"
        if types := re.fullmatch("Expected (.+), got (.+)", message):
            expected, got = (_PYTHON_NAMES.get(name, name.strip("`")) for name in types.groups())
            raise UserError(f"{where} must be of type {expected}, not {got}") from error
        raise UserError(f"{where}: {message}") from error


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Nested plain dictionaries, ready for JSON; the inverse of `from_dict`."""
    return dataclasses.asdict(config)


def differences(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """The fields that differ, as "section.field: old -> new"; `data.root` is ignored."""
    return [
        f"{path}: {before!r} -> {after!r}"
        for (path, before, _), (_, after, _) in zip(fields(old), fields(new), strict=True)
        # Where the data are stored does not affect training: a run resumes after they moved.
        if path != "data.root" and before != after
    ]


def describe(config: ExperimentConfig) -> str:
    """Every field as it is set on the command line, with its documentation."""
    return "\n".join(f"--config.{path}={value!r}\n    {doc}" for path, value, doc in fields(config))


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Path ("model.width"), value and documentation of each field of a config or a section."""
    docs = attribute_docs(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, docs[field.name]


def attribute_docs(kind: type) -> dict[str, str]:
    """The text of each field in the Attributes section of the docstring of a class."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def _reject_unknown(kind: Any, values: Any, where: str) -> None:
    """Raises UserError for a field that the dataclass does not have; msgspec ignores those."""
    if not isinstance(values, Mapping):
        return
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"{where}.{name} does not exist; {where} has {', '.join(known)}"
                f"{did_you_mean(str(name), known)}"
            )
        if dataclasses.is_dataclass(known[name]):
            _reject_unknown(known[name], value, f"{where}.{name}")
