"""Several sets of crystals scored alike: what was generated, and the controls beside it."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from pymatgen.core import Structure

from crystal_diffusion_jax.evaluation.relaxed import Relaxed, relaxed_scores
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.stability import AboveHullOf
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
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
    relax: Callable[[Inputs], Sequence[RelaxedCrystal]] | None,
    above_hull: AboveHullOf | None,
) -> dict[str, Scored]:
    """The scores of controls, by name.

    Args:
      sets: the crystals by name, see `controls.control_sets`.
      score: scores crystals; the same for controls and generated crystals.
      relax: relaxes the crystals of all controls together; None to leave that out.
      above_hull: energies above the hull; None to leave them out.
    """
    inputs = {
        name: Inputs(list(crystals), [f"{name} {i}" for i in range(len(crystals))], {})
        for name, crystals in sets.items()
    }
    reports = {name: score(each) for name, each in inputs.items()}
    if relax is None:
        return {name: Scored(report) for name, report in reports.items()}
    together = Inputs(
        [crystal for each in inputs.values() for crystal in each.structures],
        [name for each in inputs.values() for name in each.names],
        {},
    )
    outcomes = iter(relax(together))
    scored = {}
    for name, each in inputs.items():
        own = list(itertools.islice(outcomes, len(each.structures)))
        relaxed = relaxed_scores(each.structures, reports[name], own, score, above_hull)
        scored[name] = Scored(reports[name], relaxed)
    return scored
