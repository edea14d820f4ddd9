"""How far the generated crystals as a population are from the test set: Wasserstein distances.

As in `scripts/compute_metrics.py` of CDVAE (Xie et al., arXiv:2110.06197): the distance between the
distributions of density, number of elements and predicted property of at most 1000 valid generated
crystals and of the whole test set. Two differences: the draw is seeded, and fewer than 1000 valid
crystals are no error but lead to a wider interval.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure
from scipy.stats import wasserstein_distance

from crystal_diffusion_jax.evaluation.intervals import Estimate, bootstrap

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
) -> dict[str, Estimate]:
    """Wasserstein distances with bootstrap intervals.

    Two finite samples of one distribution are some distance apart, so an interval that excludes
    zero does not by itself show a difference.

    Args:
      generated: valid generated crystals.
      generated_values: their predicted property, NaN where the prediction failed.
      reference: crystals of the test set.
      reference_values: their predicted property (never the label), NaN likewise.

    Returns:
      "density" in g/cm^3, "num_elements", and "property" in the property's unit.
    """
    return {
        "density": _distance(_densities(generated), _densities(reference)),
        "num_elements": _distance(_num_elements(generated), _num_elements(reference)),
        "property": _distance(finite(generated_values), finite(reference_values)),
    }


def finite(values: np.ndarray) -> np.ndarray:
    """The values ([n]) that are not NaN, [m] with m <= n."""
    return values[~np.isnan(values)]


def _distance(generated: np.ndarray, reference: np.ndarray) -> Estimate:
    estimate = bootstrap(wasserstein_distance, generated, reference)
    if estimate.interval is None:
        return estimate
    low, high = estimate.interval
    return dataclasses.replace(estimate, interval=(max(low, 0.0), high))


def _densities(structures: Sequence[Structure]) -> np.ndarray:
    return np.array([float(structure.density) for structure in structures])


def _num_elements(structures: Sequence[Structure]) -> np.ndarray:
    return np.array([len(set(structure.atomic_numbers)) for structure in structures])
