"""What is asked of the sampler: one description for flags, Python, records and reports."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from crystal_diffusion_jax.errors import UserError, shown

# The paper's predictor ...
ANCESTRAL: Final = "ancestral"


# ... and the same with extrapolated predictions, see `diffusion.second_order`.
SECOND_ORDER: Final = "second_order"


Solver = Literal["ancestral", "second_order"]


SOLVERS: tuple[Solver, ...] = (ANCESTRAL, SECOND_ORDER)


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What was asked for; on one machine, equal settings in equal batches give the same crystals.

    Attributes:
      model: path or name of the model folder.
      model_sha256: hash of the model's weights; it, not the path, tells models apart.
      conditions: requested value, or [lowest, highest], of each conditioned property, in the
        property's own unit; empty for unconditional samples.
      num: how many crystals.
      seed: of all randomness.
      guidance: weight w of classifier-free guidance; 0 is plain conditional sampling.
      num_steps: steps of the reverse process.
      corrector_step_size: step size of the Langevin corrector; 0 does without it.
      elements: symbols the crystals may consist of, None for the whole vocabulary.
      num_atoms: atoms in every crystal, None to draw it as in the training data.
      symprec: tolerance of the CIF files' symmetry in Angstrom, 0 for P1.
      solver: of the predictor; records from before there was a choice lack it and mean ANCESTRAL.
      chemical_system: whether a crystal that lacks one of `elements` is rejected; likewise False.
      renoising_steps: of the coordinates at some times, see `sampling.relaxation`; likewise 0.
      charge_balance: of the species, see `sampling.charges`; likewise False.
    """

    model: str
    model_sha256: str
    conditions: dict[str, float | list[float]]
    num: int
    seed: int
    guidance: float
    num_steps: int
    corrector_step_size: float
    elements: list[str] | None
    num_atoms: int | None
    symprec: float
    solver: Solver = ANCESTRAL
    chemical_system: bool = False
    renoising_steps: int = 0
    charge_balance: bool = False

    @property
    def target(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest requested value of each conditioned property."""
        return {
            name: (asked[0], asked[1]) if isinstance(asked, list) else (asked, asked)
            for name, asked in self.conditions.items()
        }

    @property
    def use_corrector(self) -> bool:
        """Whether each step begins with a corrector step."""
        return self.corrector_step_size != 0


def recorded_settings(content: Any) -> SampleSettings:
    """The settings that a record holds, which somebody may have edited or made up.

    Raises:
      ValueError: they are none; the message says what is wrong.
    """
    if not isinstance(content, dict):
        raise ValueError("the settings are no object with fields")
    fields = dataclasses.fields(SampleSettings)
    names = {field.name for field in fields}
    if differing := sorted(names.symmetric_difference(content) - set(_LATER)):
        raise ValueError(f"fields too many or too few: {', '.join(map(ascii, differing))}")
    for field in fields:
        if field.name in content and not _KINDS[field.name](content[field.name]):
            raise ValueError(f"{field.name} is {shown(repr(content[field.name]))}")
    return SampleSettings(**content)


# Far beyond any number that is asked for; larger ones are integers that no float can hold.
_LARGEST = 1e300


def _is_text(value: Any) -> bool:
    # Json may hold halves of characters (surrogates), which cannot be written.
    return type(value) is str and not re.search("[\ud800-\udfff]", value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _are_conditions(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name)
        and (
            all(map(_is_number, asked)) and len(asked) == 2
            if isinstance(asked, list)
            else _is_number(asked)
        )
        for name, asked in value.items()
    )


def _are_elements(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


# Fields that records from before they existed lack.
_LATER = ("solver", "chemical_system", "renoising_steps", "charge_balance")


_KINDS: dict[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "model_sha256": _is_text,
    "conditions": _are_conditions,
    "num": _is_count,
    "seed": _is_count,
    "guidance": _is_number,
    "num_steps": _is_count,
    "corrector_step_size": _is_number,
    "elements": _are_elements,
    "num_atoms": lambda value: value is None or _is_count(value),
    "symprec": _is_number,
    "solver": lambda value: value in SOLVERS,
    "chemical_system": lambda value: type(value) is bool,
    "renoising_steps": _is_count,
    "charge_balance": lambda value: type(value) is bool,
}


def refuse_other_settings(out: Path, recorded: dict[str, Any], settings: SampleSettings) -> None:
    """Checks that a folder was begun by the same request.

    Args:
      out: the folder.
      recorded: the settings that its record holds.
      settings: the present ones.

    Raises:
      UserError: some differ; they are named with both values.
    """
    present = dataclasses.asdict(settings)
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    recorded = {name: defaults[name] for name in _LATER} | recorded
    if recorded.get("model_sha256") == settings.model_sha256:
        recorded = recorded | {"model": settings.model}  # the same model under another path
    differing = ", ".join(
        f"{field} (there {json.dumps(recorded.get(field))}, now {json.dumps(value)})"
        for field, value in present.items()
        if recorded.get(field) != value
    )
    if differing:
        raise UserError(
            f"{out} holds samples of another request, which differs in {differing}: choose "
            "another --out, or remove the folder."
        )


# Lowest and highest requested value of each property asked for, equal for a single value.
Target = dict[str, tuple[float, float]]


def show_range(asked: tuple[float, float]) -> str:
    """A value, or LOWEST:HIGHEST."""
    return ":".join(f"{end:.10g}" for end in asked[: 1 + (asked[0] < asked[1])])


def draw_values(target: Target, num: int, seed: int) -> dict[str, np.ndarray]:
    """[num] values of each property asked for, one a crystal, uniform over its range."""
    # A stream for each property; that of the numbers of atoms starts from the seed alone.
    return {
        name: np.random.default_rng([seed, *name.encode()]).uniform(low, high, num)
        if low < high
        else np.full(num, low)
        for name, (low, high) in target.items()
    }
