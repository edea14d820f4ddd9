"""Several sets of crystals scored alike: what was generated, and the controls beside it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from pymatgen.core import Structure

from crystal_diffusion_jax.evaluation.relaxed import Relaxed, relaxed_scores
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.stability import AboveHullOf
from crystal_diffusion_jax.potentials.relaxed_crystals import RelaxedCrystal
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
