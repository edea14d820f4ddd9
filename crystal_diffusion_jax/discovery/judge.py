"""What relaxing shows of a crystal: still as requested, still new, still different from the others.

How far a crystal moved and its energy are what `relax` says, in columns with the prefix `relaxed_`.
"""

from collections.abc import Mapping

from pymatgen.core import Structure

from crystal_diffusion_jax.discovery.known import compare
from crystal_diffusion_jax.discovery.plan import Plan
from crystal_diffusion_jax.discovery.screen import Columns, comparison_columns, predicted

SUFFIX = "_after_relaxing"


def judge(
    crystals: Mapping[int, Structure], num: int, plan: Plan, progress: bool = True
) -> Columns:
    """Judges relaxed crystals.

    Args:
      crystals: index -> relaxed crystal, of those that kept their structure.
      num: number of crystals of the request.
      plan: what is asked.
      progress: show progress bars on stderr.

    Returns:
      Name -> value of every crystal, None for none: the prediction, `same_as`, `new` and
      `known_as`, each with the suffix `_after_relaxing`.
    """
    columns: Columns = {}
    if plan.spec is not None:
        _, columns = predicted(crystals, plan, num, SUFFIX)
    return columns | comparison_columns(compare(crystals, plan.known, progress), num, SUFFIX)
