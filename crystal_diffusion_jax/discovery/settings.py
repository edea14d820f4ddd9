"""What `discover` is asked for beside the request."""

import dataclasses
import math
from typing import Literal, get_args

from crystal_diffusion_jax.errors import UserError, did_you_mean, require_between
from crystal_diffusion_jax.potentials.hull import NEAR_HULL
from crystal_diffusion_jax.potentials.relaxation import CHGNET
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS

Cell = Literal["as_relaxed", "primitive", "conventional"]
CELLS: tuple[Cell, ...] = get_args(Cell)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How crystals get onto the shortlist.

    Attributes:
      top: crystals on the shortlist at most.
      tolerance: largest distance of the predicted property from the target, in the property's unit;
        None for `plan.default_tolerance`.
      max_e_hull: eV/atom; crystals at or above it are left out.
      per_formula: crystals of one reduced formula at most.
      known: files or folders of crystals that are not new either.
      hull: known phases, as in `relax --hull`; None for the training crystals of the model.
      potential: that relaxes, as in `RelaxSettings`.
      cell: the cell that input files of other programs hold.

    Raises:
      UserError: a value out of range.
    """

    top: int = 20
    tolerance: float | None = None
    max_e_hull: float = NEAR_HULL
    per_formula: int = 3
    known: tuple[str, ...] = ()
    hull: str | None = None
    potential: str = CHGNET
    cell: Cell = "as_relaxed"

    def __post_init__(self) -> None:
        require_between("top", self.top, 1, MAX_CRYSTALS)
        require_between("per_formula", self.per_formula, 1, MAX_CRYSTALS)
        require_between("max_e_hull", self.max_e_hull, -math.inf, math.inf)
        if self.tolerance is not None:
            require_between("tolerance", self.tolerance, 1e-9, math.inf)
        if self.cell not in CELLS:
            raise UserError(
                f"--cell={self.cell}: choose one of {', '.join(CELLS)}"
                f"{did_you_mean(self.cell, CELLS)}"
            )
