"""A request, and the batches of crystals sampled for it.

Flags, Python arguments, the stored request and the report's command all map to `Request`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from crystal_diffusion_jax import commands
from crystal_diffusion_jax.config import Solver
from crystal_diffusion_jax.errors import printable

# The sampler of the paper: all times of the noise, ancestral steps, its corrector.
PAPER: Final = "paper"
# With this many second-order steps, and a corrector of this share of frac_sigma_min^2, crystals are
# as good as those of the whole chain (docs/appendix/few_step_sampling.md).
FEW_STEPS = 50
FEW_STEPS_CORRECTOR = 0.32
# Structures of given compositions take more steps, and renoising ones (docs/prediction.md).
PREDICTION_STEPS = 100
PREDICTION_RENOISING_STEPS = 5
# Diffusion time at which crystals begin that start from a template, unless the model has its own.
TEMPLATE_START_TIME = 100
TEMPLATE: Final = "template"
NOISE: Final = "noise"

_MAX_DIFFERENCE = 300  # characters of a field in a message: there may be thousands of formulas

# Lowest and highest requested value of each requested property, equal for a single value.
Target = dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class FormulaRequest:
    """One of the formulas that are asked for.

    Attributes:
      formula: as it was written, with whole amounts, e.g. "TiO2" or "Ca(OH)2".
      formula_units: how many of it are in the cell; 0 to draw it for each crystal as in the
        training data.
      material_id: of the reference crystal that the crystals predict; "" for none.
      target: as that of a request, of this formula alone.
      classes: as those of a request.
    """

    formula: str
    formula_units: int = 0
    material_id: str = ""
    target: Target = dataclasses.field(default_factory=dict)
    classes: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
    """A complete request; on one machine, equal requests give the same crystals.

    Attributes:
      model: path or name of the model folder.
      model_sha256: hash of the model's weights, which identifies it wherever it is stored.
      target: requested range of each property, in the property's own unit; empty for
        unconditional samples.
      num: number of crystals, of all formulas together.
      seed: seed of all randomness.
      guidance: weight w of classifier-free guidance; 0 gives plain conditional sampling.
      solver: solver of the predictor.
      num_steps: steps of the reverse process.
      corrector_step_size: step size of the Langevin corrector; 0 disables it.
      renoising_steps: renoising steps at each time that decides on the structure
        (`sampling.renoising`); 0 disables them.
      averaging_rounds: rounds of averaged denoising at the end (`sampling.averaging`); 0 disables
        it.
      start_time: diffusion time at which crystals begin from templates, those without a given
        formula after their composition was drawn (`sampling.placing`); 0 to begin from noise.
      elements: symbols of the allowed elements, None for all that the model knows.
      chemical_system: like `elements`, and each of them in each crystal.
      num_atoms: atoms in every crystal, None to draw it as in the training data.
      charge_balance: draw species whose oxidation states can add up to zero
        (`sampling.charges`, `sampling.placing`).
      symprec: tolerance in Angstrom for symmetrised CIF files, 0 for P1.
      classes: name of the requested class of each property that is a class; its number is in
        `target`.
      formulas: the formulas asked for, as many crystals of each, those of the first one first; ()
        to leave the compositions to the model.
      formula: the list or the table of the formulas, as it was given; "" for none.
      formula_units: as it was given: "auto" or a number; "" without `formula`.
      like: the data that the formulas are those of, as they were given; "" for none.
    """

    model: str
    model_sha256: str
    target: Target
    num: int
    seed: int
    guidance: float
    solver: Solver
    num_steps: int
    corrector_step_size: float
    renoising_steps: int
    averaging_rounds: int = 0
    start_time: int = 0
    elements: tuple[str, ...] | None = None
    chemical_system: tuple[str, ...] | None = None
    num_atoms: int | None = None
    charge_balance: bool = False
    symprec: float = 0.1
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    formulas: tuple[FormulaRequest, ...] = ()
    formula: str = ""
    formula_units: str = ""
    like: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError unless each formula has as many crystals."""
        if self.formulas and self.num % len(self.formulas):
            raise ValueError(f"num={self.num} is no multiple of {len(self.formulas)} formulas")

    @property
    def allowed_elements(self) -> tuple[str, ...] | None:
        """Symbols of the allowed elements, None for all."""
        return self.chemical_system or self.elements

    @property
    def num_each(self) -> int:
        """Number of crystals of each formula, or of all if there are no formulas."""
        return self.num // max(len(self.formulas), 1)

    @property
    def material_ids(self) -> list[str]:
        """[num] reference crystal that each crystal predicts, "" for none; [] if all are ""."""
        ids = [each.material_id for each in self.formulas for _ in range(self.num_each)]
        return ids if any(ids) else []

    def targets(self) -> list[tuple[Target, dict[str, str]]]:
        """Target and classes of each formula, with those of all; of all if there are none."""
        if not self.formulas:
            return [(self.target, self.classes)]
        return [(self.target | each.target, self.classes | each.classes) for each in self.formulas]

    def values(self) -> dict[str, np.ndarray]:
        """[num] requested value of each property; NaN where a crystal has no request for it."""
        if not self.formulas:
            return draw_values(self.target, self.num, self.seed)
        targets = [target for target, _ in self.targets()]
        values = {}
        for name in dict.fromkeys(name for target in targets for name in target):
            ranges = np.array([target.get(name, (np.nan, np.nan)) for target in targets])
            low, high = np.repeat(ranges, self.num_each, axis=0).T
            known = ~np.isnan(low)
            ends = np.where(known, low, 0.0), np.where(known, high, 0.0)
            drawn = draw_values({name: ends}, self.num, self.seed)[name]
            values[name] = np.where(known, drawn, np.nan)
        return values

    def differences(self, other: "Request") -> list[str]:
        """The fields that differ, as "seed (there 3, now 4)"; the path of the model is ignored."""
        return [
            f"{field.name} (there {_as_text(theirs)}, now {_as_text(ours)})"
            for field in dataclasses.fields(self)
            if field.name != "model"
            and (ours := getattr(self, field.name)) != (theirs := getattr(other, field.name))
        ]

    def command(self, out: Path | str) -> str:
        """The command that samples this request into the folder `out`."""
        values: dict[str, object] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        values |= {"num": self.num_each, "formulas": None, "start_time": None}
        values["start"] = f"{TEMPLATE}:{self.start_time}" if self.start_time else NOISE
        values |= {
            name: ",".join(value) for name, value in values.items() if isinstance(value, tuple)
        }
        values |= {name: values[name] or None for name in ("formula", "formula_units", "like")}
        # The target names the classes.
        values |= {"target": target_text(self.target, self.classes), "classes": None}
        values |= {"model_sha256": None, "out": out}
        return commands.command("sample", commands.flags(values))


@dataclasses.dataclass(frozen=True)
class Part:
    """One of `count` shares of a request, for as many independent jobs.

    Crystal i belongs to part 1 + i mod count. Its noise depends on the seed and i alone, and the
    shapes of batches on the whole request, so all parts together are the request.

    Attributes:
      number: from 1 to `count`.
      count: number of parts.
    """

    number: int
    count: int

    def members(self, num: int) -> np.ndarray:
        """[num] bool, which crystals of a request belong to it."""
        return np.arange(num) % self.count == self.number - 1


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """States of one crystal in the reverse process; the last one is the crystal.

    Attributes:
      times: [F] diffusion time of each state, decreasing to 0; where the atoms were placed again
        (`sampling.placing`) those of both chains, one after the other.
      lattice: [F, 3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [F, N, 3].
      atomic_numbers: [F, N] int.
    """

    times: np.ndarray
    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray


@dataclasses.dataclass(frozen=True)
class SampledBatch:
    """Crystals that were sampled together.

    Attributes:
      indices: index of each crystal in the request.
      trajectories: one per crystal; only the last state unless more were requested.
      seconds: wall time.
      calls_per_crystal: evaluations of the network for a crystal, at most; guidance takes two at a
        time.
    """

    indices: Sequence[int]
    trajectories: Sequence[Trajectory]
    seconds: float
    calls_per_crystal: int


def _as_text(value: Any) -> str:
    return printable(msgspec.json.encode(value).decode(), _MAX_DIFFERENCE)


def range_text(asked: tuple[float, float]) -> str:
    """VALUE or LOWEST:HIGHEST, in full precision."""
    return ":".join(
        repr(float(end)).removesuffix(".0") for end in asked[: 1 + (asked[0] < asked[1])]
    )


def target_text(target: Target, classes: Mapping[str, str]) -> str:
    """NAME=RANGE,NAME=CLASS or "none", as the flag --target takes it."""
    texts = {name: range_text(asked) for name, asked in target.items()} | dict(classes)
    return ",".join(f"{name}={text}" for name, text in texts.items()) or "none"


def database_key(name: str) -> str:
    """A property's name as key of samples.db, which allows no signs."""
    return "target_" + re.sub(r"\W", "_", name, flags=re.ASCII)


def draw_values(
    target: Mapping[str, tuple[float | np.ndarray, float | np.ndarray]], num: int, seed: int
) -> dict[str, np.ndarray]:
    """[num] values of each requested property, one per crystal, uniform over its range.

    Args:
      target: lowest and highest value of each property, of all crystals or [num] of each.
      num: number of crystals.
      seed: seed of the draw.
    """
    # One stream per property; numbers of atoms are drawn from the seed alone.
    return {
        name: np.random.default_rng([seed, *name.encode()]).uniform(low, high, num)
        for name, (low, high) in target.items()
    }
