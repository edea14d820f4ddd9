"""From the crystals that were asked for to those worth computing: how many are left at each stage.

`discover` counts its stages itself, in the folder's funnel.json; for other crystals the page counts
those that it can.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.evaluation.goal import Goal
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.potentials.hull import NEAR_HULL
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json

FUNNEL = "funnel.json"


class Stage(msgspec.Struct, frozen=True):
    """A stage of the funnel.

    Attributes:
      name: what a crystal has to be; `text` in the file.
      count: crystals that passed this stage and all before it.
    """

    name: str = msgspec.field(name="text")
    count: Annotated[int, msgspec.Meta(ge=0)]


class Funnel(msgspec.Struct, frozen=True):
    """What funnel.json says.

    Attributes:
      stages: in their order; `steps` in the file.
      command: that chose the crystals, "" if unknown.
    """

    stages: list[Stage] = msgspec.field(name="steps")
    command: str = ""


def read_funnel(structures: Path) -> Funnel | None:
    """The funnel.json beside the crystals; None if there is none.

    Args:
      structures: folder of the crystals, or a file in it.

    Raises:
      UserError: the file cannot be read.
    """
    path = (structures if structures.is_dir() else structures.parent) / FUNNEL
    if not path.is_file():
        return None
    try:
        return read_json(path, MAX_RECORD_BYTES, Funnel)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({printable(str(error), 200)}): remove it, and the page counts "
            "what it can itself."
        ) from error


def count_stages(
    scores: Report, goal: Goal | None, outcomes: Sequence[RelaxedCrystal]
) -> list[Stage]:
    """The stages that are known.

    Args:
      scores: of n crystals.
      goal: what was asked of the property.
      outcomes: what relaxing the first of them gave; empty if none was relaxed.
    """
    num = len(scores.valid)
    left = np.ones(num, bool)
    stages = [Stage("asked", num), Stage("written", int(scores.counts["read"] or 0))]

    def keep(name: str, passed: np.ndarray) -> None:
        left[:] &= passed
        stages.append(Stage(name, int(left.sum())))

    keep("valid", scores.valid)
    if goal is not None and scores.success_rate:
        keep(goal.rule, goal.met(scores.values))
    keep("unique", _first_of_each(scores.compared.group, left))
    if scores.compared.novel is not None:
        keep("not in the training set", scores.compared.novel)
    if outcomes:
        kept, above = np.zeros(num, bool), np.full(num, np.nan)
        for index, outcome in enumerate(outcomes[:num]):
            kept[index] = outcome.relaxation.converged and bool(np.isfinite(outcome.rmsd))
            above[index] = outcome.energy_above_hull
        keep("relaxed and kept its structure", kept)
        if np.isfinite(above).any():
            keep(f"above hull < {NEAR_HULL:g} eV/atom", above < NEAR_HULL)
    return stages


def _first_of_each(group: np.ndarray, left: np.ndarray) -> np.ndarray:
    """[n] bool, the first crystal that is left of each group of equal ones."""
    known = np.flatnonzero(left & (group >= 0))
    _, first = np.unique(group[known], return_index=True)
    found = np.zeros(len(group), bool)
    found[known[first]] = True
    return found
