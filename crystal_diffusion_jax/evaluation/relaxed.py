"""What relaxing shows of a set of crystals: its distance from equilibrium and from stability."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.evaluation.checks import Failure, list_failures
from crystal_diffusion_jax.evaluation.distributions import finite
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic, bootstrap, rate
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.stability import AboveHullOf, Stability, stability
from crystal_diffusion_jax.potentials.hull import AboveHull
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.structures.reading import Inputs

# Angstrom. Of 100 real test crystals of MP-20 the median RMSD to the relaxed crystal is 0.007.
CLOSE = 0.1

Average = Mapping[str, SampleStatistic]


@dataclasses.dataclass(frozen=True)
class Relaxed:
    """Scores of n crystals that were relaxed; rates are out of all n.

    Averages are "median" and "mean" over the crystals with a relaxed structure, converged or not;
    their sizes say how many those are.

    Attributes:
      counts: "asked_for" (n), "relaxed" (with a relaxed structure), "same_structure" (of these,
        with an RMSD) and "above_hull" (of these, with a known energy above the hull).
      converged: to the forces and stress that were asked for.
      energy_gain: energy released, in eV/atom.
      rmsd: root mean square displacement of the atoms in Angstrom, of the crystals that are still
        the same structure to StructureMatcher.
      volume_change: relative.
      absolute_volume_change: its magnitude.
      close: displaced by less than `CLOSE`; another structure is not.
      stability_before: with the energies before relaxing; None without a hull.
      stability_after: of the relaxed crystals.
      scores: of the relaxed crystals, as of any set.
      failures: why crystals have no relaxed structure.
    """

    counts: Mapping[str, int]
    converged: Rate
    energy_gain: Average
    rmsd: Average
    volume_change: Average
    absolute_volume_change: Average
    close: Rate
    stability_before: Stability | None
    stability_after: Stability | None
    scores: Report
    failures: Sequence[Failure]


def relaxed_scores(
    structures: Sequence[Structure | None],
    unrelaxed: Report,
    relaxed: Sequence[RelaxedCrystal],
    score: Callable[[Inputs], Report],
    above_hull: AboveHullOf | None,
) -> Relaxed:
    """Scores crystals that were relaxed.

    Args:
      structures: n crystals before, None where there is none.
      unrelaxed: their scores.
      relaxed: their outcomes.
      score: scores the relaxed crystals.
      above_hull: energies above the hull; None leaves them out.
    """
    outcomes = [each.relaxation for each in relaxed]
    names = [each.name for each in relaxed]
    failures = {
        index: outcome.failure or "no relaxed structure"
        for index, outcome in enumerate(outcomes)
        if outcome.structure is None
    }
    scores = score(Inputs([outcome.structure for outcome in outcomes], names, failures))
    rmsd = np.array([each.rmsd for each in relaxed], np.float64)
    volume_change = np.array([each.volume_change for each in relaxed], np.float64)
    before: list[AboveHull | None] = []
    after: list[AboveHull | None] = []
    if above_hull is not None:
        for structure, outcome in zip(structures, outcomes, strict=True):
            numbers = () if structure is None else structure.atomic_numbers
            for found, energy in (
                (before, outcome.initial_energy_per_atom),
                (after, outcome.energy_per_atom),
            ):
                found.append(above_hull(numbers, energy) if np.isfinite(energy) else None)
    return Relaxed(
        counts={
            "asked_for": len(relaxed),
            "relaxed": len(relaxed) - len(failures),
            "same_structure": len(finite(rmsd)),
            "above_hull": len(after) - after.count(None),
        },
        converged=rate([outcome.converged for outcome in outcomes]),
        energy_gain=_average(np.array([each.energy_gain for each in relaxed], np.float64)),
        rmsd=_average(rmsd),
        volume_change=_average(volume_change),
        absolute_volume_change=_average(np.abs(volume_change)),
        close=rate(rmsd < CLOSE),  # False for NaN
        stability_before=None if above_hull is None else stability(before, unrelaxed.compared),
        stability_after=None if above_hull is None else stability(after, scores.compared),
        scores=scores,
        failures=list_failures(names, {"relaxation": failures}),
    )


def _average(values: np.ndarray) -> dict[str, SampleStatistic]:
    known = finite(values)
    return {"median": bootstrap(np.median, known), "mean": bootstrap(np.mean, known)}
