"""Which sampled crystals are worth relaxing, and what relaxing shows, as columns of samples.db.

How far a crystal moved and its energy are what `relax` says, in columns with the prefix `relaxed_`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.discovery.known import Comparison, compare
from crystal_diffusion_jax.discovery.plan import Plan
from crystal_diffusion_jax.evaluation.checks import check
from crystal_diffusion_jax.evaluation.predictions import predict_inputs, prediction_columns
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.structures.reading import Inputs

Columns = dict[str, list[Any]]

SUFFIX = "_after_relaxing"


def screen(inputs: Inputs, plan: Plan, progress: bool = True) -> Columns:
    """Checks crystals one after another; a check has values for those that passed the ones before.

    Args:
      inputs: the sampled crystals by index.
      plan: what is asked.
      progress: show progress bars on stderr.

    Returns:
      Name -> value of every crystal, None for none: `valid` and `invalid_because`; the prediction
      and `in_tolerance`; `same_as`, the first crystal that is the same if it is another one; `new`
      and `known_as`; `comparison_failure`.

    Raises:
      UserError: the oracle cannot be downloaded, or known crystals cannot be read.
    """
    num = len(inputs.structures)
    checked = check(inputs)
    columns: Columns = {"valid": [None] * num, "invalid_because": [None] * num}
    for index in checked.present:
        columns["valid"][index] = bool(checked.valid[index])
        reasons = (checked.failures[stage].get(index) for stage in ("structure", "composition"))
        columns["invalid_because"][index] = next(filter(None, reasons), None)
    passed = {i: s for i, s in enumerate(inputs.structures) if s is not None and checked.valid[i]}
    if plan.spec is not None:
        values, found = predicted(passed, plan, num)
        columns |= found
        if plan.tolerance is not None:
            close = {i: plan.miss(i, values[i]) <= plan.tolerance for i in passed}
            columns["in_tolerance"] = _column(close, num)
            passed = {i: structure for i, structure in passed.items() if close[i]}
    return columns | comparison_columns(compare(passed, plan.known, progress), num, suffix="")


def judge(
    crystals: Mapping[int, Structure], num: int, plan: Plan, progress: bool = True
) -> Columns:
    """Whether relaxed crystals are as requested, still new, still different from the others.

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


def predicted(
    crystals: Mapping[int, Structure], plan: Plan, num: int, suffix: str = ""
) -> tuple[np.ndarray, Columns]:
    """Predictions of some crystals out of `num`: [num] values, NaN for none; and columns."""
    assert plan.spec is not None
    found = Predictions(np.full(num, np.nan), {})
    if crystals:  # else the network is not needed, nor its weights
        structures = [crystals.get(index) for index in range(num)]
        found = predict_inputs(Inputs(structures, [""] * num, {}), plan.spec.name)
    columns = prediction_columns(plan.spec, found.values, found.failures)
    return found.values, {f"{name}{suffix}": column for name, column in columns.items()}


def comparison_columns(compared: Comparison, num: int, suffix: str) -> Columns:
    """`same_as`, `new`, `known_as` and `comparison_failure`, their names with a suffix."""
    columns: dict[str, Mapping[int, Any]] = {
        "same_as": {i: first for i, first in compared.group.items() if first != i},
        "new": {i: not name for i, name in compared.known_as.items()},
        "known_as": {i: name for i, name in compared.known_as.items() if name},
        "comparison_failure": compared.failures,
    }
    return {f"{name}{suffix}": _column(values, num) for name, values in columns.items()}


def _column(values: Mapping[int, Any], num: int) -> list[Any]:
    return [values.get(index) for index in range(num)]
