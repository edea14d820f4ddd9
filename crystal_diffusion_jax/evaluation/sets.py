"""Several sets of crystals scored alike: what was generated, and the controls beside it."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

from pymatgen.core import Structure

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.relaxed import Relaxed, relaxed_scores
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.stability import AboveHullOf
from crystal_diffusion_jax.potentials.relax_folder import relax_into
from crystal_diffusion_jax.potentials.relaxation import RelaxSettings
from crystal_diffusion_jax.potentials.relaxed_crystals import RelaxedCrystal
from crystal_diffusion_jax.potentials.relaxed_database import digest
from crystal_diffusion_jax.runtime.user_cache import cache_folder
from crystal_diffusion_jax.structures.reading import Inputs


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of one set.

    Attributes:
      report: of its crystals as they are.
      relaxed: of the relaxed crystals; None if they were not relaxed.
    """

    report: Report
    relaxed: Relaxed | None = None


def score_controls(
    sets: Mapping[str, Sequence[Structure]],
    score: Callable[[Inputs], Report],
    relax: Callable[[str, Inputs], Sequence[RelaxedCrystal]] | None,
    above_hull: AboveHullOf | None,
) -> dict[str, Scored]:
    """The scores of controls, by name.

    Args:
      sets: the crystals by name, see `controls.control_sets`.
      score: scores crystals; the same for controls and generated crystals.
      relax: relaxes the crystals of the control of a name; None to leave that out.
      above_hull: energies above the hull; None to leave them out.
    """
    scored = {}
    for name, crystals in sets.items():
        names = [f"{name} {index}" for index in range(len(crystals))]
        inputs = Inputs(list(crystals), names, {})
        report = score(inputs)
        relaxed = None
        if relax is not None:
            outcomes = relax(name, inputs)
            relaxed = relaxed_scores(inputs.structures, report, outcomes, score, above_hull)
        scored[name] = Scored(report, relaxed)
    return scored


def relax_in_cache(name: str, inputs: Inputs, settings: RelaxSettings) -> list[RelaxedCrystal]:
    """The relaxed crystals of a control, which the user's cache keeps.

    They are found again by the crystals, the settings and our version.

    Args:
      name: of the control, e.g. "held_out".
      inputs: its crystals.
      settings: how they are relaxed.

    Raises:
      UserError: they cannot be relaxed or kept.
    """
    parts = [digest(structure) for structure in inputs.structures if structure is not None]
    key = hashlib.sha256(repr((parts, settings, __version__)).encode()).hexdigest()[:16]
    folder = cache_folder() / "controls" / f"{name}_{key}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return relax_into(folder, inputs, settings)
    except (OSError, UserError) as error:
        raise UserError(
            f"the control {name} cannot be relaxed in {folder} ({error}): leave out the controls "
            "(--controls=0), or set CRYSTAL_DIFFUSION_CACHE to another folder"
        ) from error
