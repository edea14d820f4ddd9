"""Wasserstein distances between the distributions of generated crystals and of the test set.

As in `scripts/compute_metrics.py` of CDVAE (Xie et al., arXiv:2110.06197): density, number of
elements and predicted property of at most 1000 valid generated crystals, against the whole test
set. Two differences: the draw is seeded, and fewer than 1000 valid crystals are allowed, at the
cost of a wider interval.
"""

from collections.abc import Callable, Sequence

import numpy as np
from pymatgen.core import Structure
from scipy.stats import wasserstein_distance

from crystal_diffusion_jax.evaluation.intervals import SampleStatistic, bootstrap

MAX_DRAWN = 1000


def draw_valid(valid: np.ndarray) -> np.ndarray:
    """Indices of at most `MAX_DRAWN` valid crystals, ascending; the same for the same input.

    Args:
      valid: [n] bool.
    """
    indices = np.flatnonzero(valid)
    if len(indices) > MAX_DRAWN:
        indices = np.random.default_rng(0).choice(indices, MAX_DRAWN, replace=False)
    return np.sort(indices)


def distances(
    generated: Sequence[Structure],
    generated_values: np.ndarray,
    reference: Sequence[Structure],
    reference_values: np.ndarray,
) -> dict[str, SampleStatistic]:
    """Wasserstein distances with bootstrap intervals.

    Even two samples of one distribution have a distance above zero, so an interval that excludes
    zero does not by itself show a difference.

    Args:
      generated: valid generated crystals.
      generated_values: their predicted property, NaN where the prediction failed.
      reference: crystals of the test set.
      reference_values: their predicted property (never the label), NaN where it failed.

    Returns:
      "density" in g/cm^3, "num_elements", and "property" in the property's unit.
    """

    def distance(of: Callable[[Structure], float]) -> SampleStatistic:
        samples = (np.array([*map(of, crystals)]) for crystals in (generated, reference))
        return bootstrap(wasserstein_distance, *samples)

    return {
        "density": distance(lambda structure: float(structure.density)),
        "num_elements": distance(lambda structure: len(set(structure.atomic_numbers))),
        "property": bootstrap(
            wasserstein_distance, finite(generated_values), finite(reference_values)
        ),
    }


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are not NaN."""
    return values[~np.isnan(values)]
