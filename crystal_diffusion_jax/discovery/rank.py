"""The order of the candidates, and which of them make the shortlist.

A crystal's score is a sum of terms without unit; the lowest is the best:

  score_energy     max(energy above the hull, 0) / 0.1 eV/atom, as a hull that lacks phases puts
                   crystals far below itself; without a hull the energy that relaxing released,
                   over 0.1 eV/atom
  score_property   |predicted after relaxing - target| / tolerance; 0 if it is not checked
  score_elements   1 if an element is among the phases that a compound competes with on the hull:
                   then the hull knows too little to call it stable; else 0

Of crystals that became the same by relaxing the best stays, then at most `per_formula` of each
reduced formula. Equal scores are ordered by index.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from crystal_diffusion_jax.discovery.funnel import Rows
from crystal_diffusion_jax.discovery.plan import Plan
from crystal_diffusion_jax.discovery.screen import SUFFIX, Columns
from crystal_diffusion_jax.evaluation.hulls import phases_of
from crystal_diffusion_jax.potentials.hull import NEAR_HULL
from crystal_diffusion_jax.structures.compositions import parse_formula

TERMS = ("score_energy", "score_property", "score_elements")


def terms(index: int, row: Mapping[str, Any], plan: Plan) -> dict[str, float]:
    """The `TERMS` of a candidate's score.

    Args:
      index: of the crystal.
      row: its values.
      plan: what is asked.
    """
    energy = row["relaxed_energy_gain"]
    if plan.hull is not None:
        energy = max(row["relaxed_energy_above_hull"], 0.0)
    miss = 0.0
    if plan.tolerance is not None and plan.spec is not None:
        predicted = row[f"predicted_{plan.spec.property_name}{SUFFIX}"]
        miss = plan.miss(index, predicted) / plan.tolerance
    elements = _competes_with_elements(row.get("relaxed_decomposition", ""))
    return dict(zip(TERMS, (energy / NEAR_HULL, miss, float(elements)), strict=True))


def _competes_with_elements(decomposition: str) -> bool:
    """Whether phases such as "BaO (0.400) + TiO2 (0.600)" include an element beside others.

    A crystal of one element always competes with that.
    """
    phases = phases_of(decomposition)
    return len(phases) > 1 and any(len(parse_formula(phase)) == 1 for phase in phases)


def rank(
    rows: Rows, candidates: Sequence[int], formulas: Mapping[int, str], num: int, plan: Plan
) -> Columns:
    """Scores the candidates and puts the best on the shortlist.

    Args:
      rows: values of the crystals.
      candidates: indices of those that passed all checks.
      formulas: reduced formula of each of them.
      num: number of crystals of the request.
      plan: what is asked.

    Returns:
      Name -> value of every crystal, None for none: `score` and its terms, of the best of each set
      of equal crystals; `rank` from 1, of those on the shortlist.
    """
    found = {index: terms(index, rows[index], plan) for index in candidates}
    order = sorted(candidates, key=lambda index: (sum(found[index].values()), index))
    columns: Columns = {name: [None] * num for name in ("rank", "score", *TERMS)}
    groups: set[int] = set()
    taken: Counter[str] = Counter()
    for index in order:
        group = rows[index].get(f"same_as{SUFFIX}", index)
        if group in groups:
            continue
        groups.add(group)
        columns["score"][index] = sum(found[index].values())
        for name, value in found[index].items():
            columns[name][index] = value
        formula = formulas[index]
        if taken[formula] < plan.settings.per_formula and taken.total() < plan.settings.top:
            taken[formula] += 1
            columns["rank"][index] = taken.total()
    return columns
