"""COV-R and COV-P: the share of test crystals near a generated one, and the reverse.

As `compute_cov` in `scripts/eval_utils.py` of CDVAE (Xie et al., arXiv:2110.06197): a crystal is
covered if its nearest structure fingerprint (CrystalNN order parameters, mean over sites) and its
nearest composition fingerprint (Magpie, standardised) are both within the cutoffs. The two nearest
neighbours are looked up independently and need not be the same crystal.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from crystal_diffusion_jax.evaluation.intervals import Rate


class Cutoffs(NamedTuple):
    """Largest distances that count as near.

    Attributes:
      structure: of structure fingerprints.
      composition: of standardised composition fingerprints.
    """

    structure: float
    composition: float


# `COV_Cutoffs` of CDVAE's scripts/compute_metrics.py.
CUTOFFS: Mapping[str, Cutoffs] = {
    "perov5": Cutoffs(0.2, 4.0),
    "carbon24": Cutoffs(0.2, 4.0),
    "mp20": Cutoffs(0.4, 10.0),
}


class Fingerprint(NamedTuple):
    """Fingerprints of one crystal.

    Attributes:
      structure: [61] mean CrystalNN order parameters.
      composition: [132] Magpie statistics, standardised.
    """

    structure: np.ndarray
    composition: np.ndarray


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Coverage and the mean distances behind it.

    Attributes:
      recall: COV-R, test crystals near a generated one, out of all test crystals.
      precision: COV-P, generated crystals near a test crystal, out of all requested.
      mean_distances: mean nearest distance by name (amsd: structure, amcd: composition), over the
        test fingerprints for recall and over the generated ones for precision; None if either set
        has no fingerprints.
    """

    recall: Rate
    precision: Rate
    mean_distances: dict[str, float | None]


def coverage(
    generated: Sequence[Fingerprint | None],
    reference: Sequence[Fingerprint | None],
    cutoffs: Cutoffs,
) -> Coverage:
    """Coverage of a test set.

    Args:
      generated: n fingerprints, None where there is none: a miss for COV-P.
      reference: those of the test crystals, None where there is none: not recalled.
      cutoffs: the data set's.
    """
    found = [fingerprint for fingerprint in generated if fingerprint is not None]
    known = [fingerprint for fingerprint in reference if fingerprint is not None]
    names = ("amsd_recall", "amsd_precision", "amcd_recall", "amcd_precision")
    if not (found and known):
        nothing: dict[str, float | None] = dict.fromkeys(names)
        return Coverage(Rate(0, len(reference)), Rate(0, len(generated)), nothing)
    structure = _distances([f.structure for f in found], [f.structure for f in known])
    composition = _distances([f.composition for f in found], [f.composition for f in known])
    near = [
        (structure.min(axis) <= cutoffs.structure) & (composition.min(axis) <= cutoffs.composition)
        for axis in (0, 1)
    ]
    means = [matrix.min(axis).mean() for matrix in (structure, composition) for axis in (0, 1)]
    return Coverage(
        recall=Rate(int(near[0].sum()), len(reference)),
        precision=Rate(int(near[1].sum()), len(generated)),
        mean_distances=dict(zip(names, map(float, means), strict=True)),
    )


def _distances(generated: list[np.ndarray], reference: list[np.ndarray]) -> np.ndarray:
    """[G, R] Euclidean distances."""
    return cdist(np.stack(generated), np.stack(reference))
