"""Structures -> energy, forces, stress and magnetic moments."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.potentials import weights
from crystal_diffusion_jax.potentials.batching import pad
from crystal_diffusion_jax.potentials.chgnet import GPA, Parameters, outputs
from crystal_diffusion_jax.potentials.neighbours import (
    AtomGraph,
    CannotEvaluate,
    Capacity,
    atom_graph,
)

# Of a batch. Its largest arrays, with 128 columns for each angle, then stay in a CPU's cache.
_CAPACITY = Capacity(crystals=65, atoms=257, long_bonds=4097, short_bonds=1025, angles=8193)
_NOTHING = Capacity(0, 0, 0, 0, 0)

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


def structure_graph(structure: Structure, skin: bool = False) -> AtomGraph:
    """`atom_graph` of a structure.

    Raises:
      CannotEvaluate: see there; or sites that no single element occupies.
    """
    if not structure.is_ordered:
        raise CannotEvaluate("partial occupancy")
    # `Z` of a species without one, a dummy, is 0 or missing.
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure], dtype=np.int64)
    return atom_graph(structure.lattice.matrix, structure.frac_coords, numbers, skin)


def load_parameters(progress: bool = True) -> Parameters:
    """The weights as arrays of JAX; see `weights.load`."""
    return {name: jnp.asarray(value) for name, value in weights.load(progress).items()}


def evaluate_all(structures: Sequence[Structure], progress: bool = True) -> list[Evaluated | str]:
    """Energy and its derivatives of each structure, or why there are none.

    Args:
      structures: any number of them.
      progress: show a progress bar on stderr.

    Raises:
      UserError: the weights cannot be downloaded.
    """
    parameters = load_parameters(progress)
    results: list[Evaluated | str] = ["not evaluated"] * len(structures)
    graphs: dict[int, AtomGraph] = {}
    for index, structure in enumerate(structures):
        try:
            graphs[index] = structure_graph(structure)
        except CannotEvaluate as error:
            results[index] = str(error)
    with tqdm(total=len(graphs), desc="energies", disable=not progress) as bar:
        for members, capacity in _split(graphs):
            batch = pad([graphs[index] for index in members], capacity)
            out = jax.device_get(_outputs(parameters, batch))
            end = 0
            for row, index in enumerate(members):
                start, end = end, end + len(graphs[index].atomic_numbers)
                if not np.isfinite(out.energy[row]):
                    results[index] = "the potential predicts a non-finite energy"
                    continue
                results[index] = Evaluated(
                    energy_per_atom=float(out.energy[row]) / (end - start),
                    forces=out.forces[start:end],
                    stress=out.stress[row] * GPA,
                    magnetic_moments=out.magnetic_moments[start:end],
                )
            bar.update(len(members))
    return results


def _split(graphs: dict[int, AtomGraph]) -> Iterator[tuple[list[int], Capacity]]:
    """Indices of the crystals of each batch, in order, and its capacity."""
    members: list[int] = []
    total = _NOTHING
    for index, graph in graphs.items():
        if not graph.size.fits(_CAPACITY):
            yield [index], own_capacity(graph.size)
            continue
        if not (total + graph.size).fits(_CAPACITY):
            yield members, _CAPACITY
            members, total = [], _NOTHING
        members.append(index)
        total += graph.size
    if members:
        yield members, _CAPACITY


def own_capacity(size: Capacity) -> Capacity:
    """Capacity for a single crystal, one of few so that others of its kind share the program."""
    return Capacity(*(2 ** int(rows).bit_length() for rows in dataclasses.astuple(size)))
