"""Which reference crystals a predicted crystal matches, and how far its atoms are displaced.

The displacement is the root mean square over the atoms, `StructureMatcher.get_rms_dist(predicted,
reference)[0]`, in units of (V/N)^(1/3), as in CDVAE (arXiv:2110.06197) and DiffCSP
(arXiv:2309.04475). The matcher scales both cells to one volume first, so a crystal in a stretched
cell of the right shape matches without any displacement; the error of the volume is a score of its
own (`prediction`).

The root mean square has to stay below the tolerance, whereas for `comparing.is_same` the largest
displacement of an atom has to.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pymatgen.core import Structure

from crystal_diffusion_jax.evaluation.matching import (
    TIME_LIMIT,
    bucket,
    by_key,
    reason,
    reduce_all,
)
from crystal_diffusion_jax.runtime.workers import map_in_processes
from crystal_diffusion_jax.structures.comparing import CELL_MATCHER, or_error
from crystal_diffusion_jax.structures.compositions import reduced_composition

_CHUNK = 8  # a pair takes about 10 ms


@dataclasses.dataclass(frozen=True)
class Displacements:
    """Of predicted crystals from reference crystals.

    Attributes:
      rms: predicted crystal -> reference crystal -> displacement below `STOL`, for those that
        match.
      failures: predicted crystal -> why one of its comparisons failed, which counts as no match.
    """

    rms: Mapping[int, Mapping[int, float]]
    failures: Mapping[int, str]


def displacements(
    predicted: Sequence[Structure | None],
    references: Sequence[Structure],
    progress: bool = True,
    time_limit: float = TIME_LIMIT,
) -> Displacements:
    """Compares each predicted crystal with all reference crystals of its composition.

    Two crystals can match only if their reduced compositions and the numbers of sites of their
    primitive cells agree, so only such pairs are compared.

    Args:
      predicted: crystals by index, None where there is none.
      references: crystals by index.
      progress: show progress bars on stderr.
      time_limit: seconds to reduce a crystal, and for each comparison.
    """
    known = {reduced_composition(each.atomic_numbers) for each in references}
    present = {
        index: each
        for index, each in enumerate(predicted)
        if each is not None and reduced_composition(each.atomic_numbers) in known
    }
    cells, reference_cells, failures = reduce_all(present, references, progress, time_limit)
    places = by_key(range(len(references)), map(bucket, reference_cells))
    pairs = [(i, j) for i, cell in cells.items() for j in places.get(bucket(cell), [])]
    found = map_in_processes(
        functools.partial(_rms, cells, reference_cells),
        pairs,
        "comparison with the references",
        time_limit,
        _CHUNK,
        progress,
    )
    rms: dict[int, dict[int, float]] = defaultdict(dict)
    for (i, j), displacement in zip(pairs, found, strict=True):
        if isinstance(displacement, float):
            rms[i][j] = displacement
        elif displacement is not None:
            failures[i] = f"comparison failed: {reason(displacement)}"
    return Displacements(dict(rms), failures)


@or_error
def _rms(
    cells: Mapping[int, Structure], references: Sequence[Structure], pair: tuple[int, int]
) -> float | None:
    """Displacement of a pair, None if it does not match, or why that is unknown."""
    predicted, reference = pair
    found = CELL_MATCHER.get_rms_dist(cells[predicted], references[reference])
    return None if found is None else float(found[0])
