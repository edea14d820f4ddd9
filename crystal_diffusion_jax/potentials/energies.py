"""Structures -> energy, forces, stress and magnetic moments."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.potentials import packing, weights
from crystal_diffusion_jax.potentials.batching import pad
from crystal_diffusion_jax.potentials.chgnet import GPA, outputs
from crystal_diffusion_jax.potentials.neighbours import (
    AtomGraph,
    CannotEvaluate,
    Capacity,
    structure_graph,
)

# Crystals of which some make the next batch; more than fit into most.
_TO_CHOOSE_FROM = 256

_outputs = jax.jit(outputs)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What the potential says of one crystal of N atoms.

    Attributes:
      energy_per_atom: in eV.
      forces: in eV/A.
      stress: dE/dstrain / volume in GPa, positive when the cell would shrink.
      magnetic_moments: absolute, in Bohr magnetons.
    """

    energy_per_atom: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "3 3"]
    magnetic_moments: Float[np.ndarray, " atoms"]


def evaluate_all(structures: Sequence[Structure], progress: bool = True) -> list[Evaluated | str]:
    """Energy and its derivatives of each structure, or why there are none.

    Args:
      structures: any number of them.
      progress: show a progress bar on stderr.

    Raises:
      UserError: the weights cannot be downloaded.
    """
    parameters = jax.device_put(weights.load(progress))
    results: list[Evaluated | str] = ["not evaluated"] * len(structures)
    graphs: dict[int, AtomGraph] = {}
    for index, structure in enumerate(structures):
        try:
            graphs[index] = packing.bounded(structure_graph(structure))
        except CannotEvaluate as error:
            results[index] = str(error)
    with tqdm(total=len(graphs), desc="energies", disable=not progress) as bar:
        for members, capacity in _batches(graphs):
            batch = pad([graphs[index] for index in members], capacity)
            out = jax.device_get(_outputs(parameters, batch))
            end = 0
            for row, index in enumerate(members):
                start, end = end, end + len(graphs[index].atomic_numbers)
                if not np.isfinite(out.energy[row]):
                    results[index] = "the potential predicts no finite energy"
                    continue
                results[index] = Evaluated(
                    energy_per_atom=float(out.energy[row]) / (end - start),
                    forces=out.forces[start:end],
                    stress=out.stress[row] * GPA,
                    magnetic_moments=out.magnetic_moments[start:end],
                )
            bar.update(len(members))
    return results


def _batches(graphs: Mapping[int, AtomGraph]) -> Iterator[tuple[list[int], Capacity]]:
    """Indices of the crystals of each batch, and its capacity."""
    if not graphs:
        return
    sizes = [graph.size for graph in graphs.values()]
    capacities, common = packing.capacities(sizes), packing.common(sizes, packing.least_rows())
    waiting = list(graphs)
    while waiting:
        first = [graphs[index].size for index in waiting[:_TO_CHOOSE_FROM]]
        chosen, capacity = packing.choose(first, capacities, common, 1)
        yield [waiting[row] for row in chosen], capacity
        for row in sorted(chosen, reverse=True):
            del waiting[row]
        # A small batch at the end would take longer to compile than it saves.
        capacities, common = capacities[common:], 0
