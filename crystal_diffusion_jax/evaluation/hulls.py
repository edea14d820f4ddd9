"""--hull: formation energy and energy above the hull of relaxed crystals, as columns."""

import math
from collections.abc import Sequence
from pathlib import Path

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.evaluation.stability import training_hull
from crystal_diffusion_jax.potentials import hull as hulls
from crystal_diffusion_jax.potentials import references
from crystal_diffusion_jax.potentials.hull import AboveHull, Hull
from crystal_diffusion_jax.potentials.references import References
from crystal_diffusion_jax.potentials.relax_folder import HullColumns
from crystal_diffusion_jax.potentials.relaxation import CHGNET, RelaxedCrystal
from crystal_diffusion_jax.potentials.relaxed_table import HULL_COLUMNS
from crystal_diffusion_jax.structures.reading import Inputs

MATERIALS_PROJECT = "mp"
# Its labels are formation energies from the elements, as those of other sources.
_GENERAL = "mp20"


def hull_columns(hull: str, potential: str, inputs: Inputs) -> HullColumns:
    """What computes the columns of --hull; the hull itself is read now.

    Args:
      hull: name of a known data set, a csv, or "mp".
      potential: that relaxes; only CHGNet's reference energies are known.
      inputs: the crystals, whose chemical systems are asked of the Materials Project.

    Raises:
      UserError: there is no such hull, or it cannot be read.
    """
    if potential != CHGNET:
        raise UserError(
            f"--hull needs --potential={CHGNET}: the reference energies of the elements are known "
            "for no other potential"
        )
    return columns_of(*_open(hull, inputs))


def columns_of(fitted: References, phases: Hull) -> HullColumns:
    """What computes the columns of a hull, from CHGNet's energies."""

    def columns(relaxed: Sequence[RelaxedCrystal]) -> dict[str, list[float | str]]:
        rows = [_row(fitted, phases, one) for one in relaxed]
        return {name: [row[i] for row in rows] for i, name in enumerate(HULL_COLUMNS)}

    return columns


def _open(hull: str, inputs: Inputs) -> tuple[References, Hull]:
    if hull in KNOWN_DATASETS:
        return training_hull(hull, load(DataConfig(name=hull))["train"])
    if hull == MATERIALS_PROJECT:
        systems = [structure.atomic_numbers for structure in inputs.structures if structure]
        return references.load(_GENERAL), hulls.from_materials_project(systems)
    if not Path(hull).is_file():
        known = [*KNOWN_DATASETS, MATERIALS_PROJECT]
        raise UserError(
            f"--hull={hull} is neither a csv of known phases nor one of {', '.join(known)}"
            f"{did_you_mean(hull, known)}"
        )
    return references.load(_GENERAL), hulls.read_csv(Path(hull))


def _row(fitted: References, hull: Hull, one: RelaxedCrystal) -> tuple[float, float, str]:
    """The `HULL_COLUMNS` of one crystal."""
    structure = one.relaxation.structure
    if structure is None:
        return math.nan, math.nan, ""
    numbers = structure.atomic_numbers
    energy = fitted.formation_energy(numbers, one.relaxation.energy_per_atom)
    above = hull.above(numbers, energy)
    return energy, math.nan if above is None else above.energy, decomposition(above)


def decomposition(above: AboveHull | None) -> str:
    """For example "BaO (0.400) + TiO2 (0.600)": the phases and their shares of the atoms."""
    phases = above.decomposition if above else {}
    return " + ".join(f"{formula} ({share:.3f})" for formula, share in sorted(phases.items()))


def phases_of(decomposition: str) -> list[str]:
    """The formulas of such a text, "BaO" and "TiO2"; none of an empty one."""
    return [phase.split(" ")[0] for phase in decomposition.split(" + ")] if decomposition else []
