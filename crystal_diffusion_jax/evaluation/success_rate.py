"""SR5, SR10, SR15: how many crystals reach the best 5, 10 and 15 % of a data set's property.

The literature uses three definitions that differ by a factor of two and more, so each is computed
under its own name:

  single        share of the crystals at or below the threshold
  single_valid  the same, where an invalid crystal counts as a failure
  best_of_10    share of the groups of ten whose best valid crystal is at or below the threshold,
                as in the optimisation task of CDVAE (arXiv:2110.06197) and DiffCSP
                (arXiv:2309.04475), which decode each of 100 starts about ten times

Lower is better for all known data sets.
"""

import numpy as np

from crystal_diffusion_jax.evaluation.intervals import Rate, rate

NAMES = ("SR5", "SR10", "SR15")
GROUP_SIZE = 10


def success_rates(
    values: np.ndarray, valid: np.ndarray, thresholds: tuple[float, float, float]
) -> dict[str, dict[str, Rate]]:
    """The rates by definition, then by threshold.

    Args:
      values: [n] predicted property; NaN where there is none, which counts as a failure.
      valid: [n] bool, valid in structure and composition.
      thresholds: for SR5, SR10, SR15.

    Returns:
      {"single": {"SR5": Rate, ...}, "single_valid": ..., "best_of_10": ...}. Groups of ten are
      consecutive crystals; an incomplete last group is left out.
    """
    valid_values = np.where(valid & ~np.isnan(values), values, np.inf)
    num_groups = len(values) // GROUP_SIZE
    groups = valid_values[: num_groups * GROUP_SIZE].reshape(num_groups, GROUP_SIZE)
    definitions = {
        "single": values,
        "single_valid": valid_values,
        "best_of_10": groups.min(axis=1),
    }
    return {
        definition: {
            name: rate(best <= threshold)  # False for NaN
            for name, threshold in zip(NAMES, thresholds, strict=True)
        }
        for definition, best in definitions.items()
    }
