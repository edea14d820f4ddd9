"""One crystal on its way downhill, between rounds: how it enters a batch, and how it leaves."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials import fire, relaxation
from crystal_diffusion_jax.potentials.batching import AtomBatch, pad
from crystal_diffusion_jax.potentials.fire import Frame, Inertia
from crystal_diffusion_jax.potentials.neighbours import (
    AtomGraph,
    CannotEvaluate,
    Capacity,
    atom_graph,
    structure_graph,
)
from crystal_diffusion_jax.potentials.packing import bounded
from crystal_diffusion_jax.potentials.relaxation import Relaxation, failed
from crystal_diffusion_jax.potentials.rounds import Round

# A cell that is stretched more than this was never a crystal of the potential either.
_LARGEST_STRETCH = 4.0


@dataclasses.dataclass(frozen=True)
class Descent:
    """A crystal that is being relaxed.

    Attributes:
      index: in the input.
      structure: as it came.
      graph: the crystal as it is now, with fresh lists.
      inertia: of FIRE.
      initial_energy_per_atom: in eV; NaN before the first round.
      settled: has ended its steps, with lists that may have missed a bond that became short.
    """

    index: int
    structure: Structure
    graph: AtomGraph
    inertia: Inertia
    initial_energy_per_atom: float = np.nan
    settled: bool = False

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self.inertia.steps[0])


def begin(index: int, structure: Structure, skin: bool) -> Descent | Relaxation:
    """A crystal before its first round, or why it cannot be relaxed.

    Args:
      index: in the input.
      structure: the crystal.
      skin: it will take steps.
    """
    try:
        graph = bounded(structure_graph(structure, skin))
    except CannotEvaluate as error:
        return failed(str(error))
    return Descent(index, structure, graph, fire.at_rest(len(structure), 1))


def gather(descents: Sequence[Descent], capacity: Capacity) -> tuple[AtomBatch, Frame, Inertia]:
    """A batch of crystals with their frames and inertia, in NumPy arrays."""
    batch = pad([descent.graph for descent in descents], capacity)
    num_atoms: Any = np.bincount(batch.crystal, minlength=capacity.crystals)
    lattice: Any = np.array(batch.lattice)
    lattice[: len(descents)] = [descent.structure.lattice.matrix for descent in descents]
    inverse: Any = np.linalg.inv(lattice)
    # Crystals of the padding may have no atoms.
    frame = Frame(batch.crystal, np.maximum(num_atoms, 1).astype(np.float32), lattice, inverse)
    taken = sum(len(descent.structure) for descent in descents)
    padding = fire.at_rest(capacity.atoms - taken, capacity.crystals - len(descents))
    inertia = jax.tree.map(
        lambda *parts: np.concatenate(parts).astype(jax.dtypes.canonicalize_dtype(parts[0].dtype)),
        *[descent.inertia for descent in descents],
        padding,
    )
    return batch, frame, inertia


def after(
    descents: Sequence[Descent], batch: AtomBatch, end: Round, max_steps: int
) -> list[Descent | Relaxation]:
    """Each crystal of a batch after a round: on its way still, relaxed, or failed.

    Args:
      descents: the crystals before the round.
      batch: of `gather`.
      end: of the round, in NumPy arrays.
      max_steps: steps of a crystal at most.
    """
    outcomes = []
    last = 0
    for row, descent in enumerate(descents):
        first, last = last, last + len(descent.structure)
        outcomes.append(_after(descent, batch, end, row, slice(first, last), max_steps))
    return outcomes


def _after(
    before: Descent, batch: AtomBatch, end: Round, row: int, atoms: slice, max_steps: int
) -> Descent | Relaxation:
    structure, graph = before.structure, before.graph
    energy = float(end.energy[row]) / len(structure)
    initial = energy if before.steps == 0 else before.initial_energy_per_atom
    if not np.isfinite(energy):
        return failed("the potential predicts no finite energy or forces", initial, before.steps)
    if end.converged[row] or before.steps >= max_steps:
        return Relaxation(
            structure=_present(before),
            initial_energy_per_atom=initial,
            energy_per_atom=energy,
            steps=before.steps,
            converged=bool(end.converged[row]),
            magnetic_moments=np.asarray(end.magnetic_moments[atoms]),
            failure=None,
        )
    # As changes, so that what float32 rounds off does not move the crystal.
    now = end.progress
    lattice = graph.lattice + (now.lattice[row] - batch.lattice[row])
    frac_coords = graph.frac_coords + (now.frac_coords[atoms] - batch.frac_coords[atoms])
    inertia = Inertia(
        velocity=fire.Variables(
            now.inertia.velocity.atoms[atoms], now.inertia.velocity.cells[row : row + 1]
        ),
        **{
            name: getattr(now.inertia, name)[row : row + 1]
            for name in ("log_deformation", "time_step", "mixing", "downhill", "steps")
        },
    )
    steps = int(inertia.steps[0])
    settled = bool(end.settled[row]) or steps >= max_steps
    try:
        _check_cell(structure.lattice.matrix, lattice)
        graph = bounded(atom_graph(lattice, frac_coords, graph.atomic_numbers, skin=not settled))
    except CannotEvaluate as error:
        return failed(f"{error}, after {steps} steps", initial, steps)
    return Descent(before.index, structure, graph, inertia, initial, settled)


def _present(descent: Descent) -> Structure:
    """The crystal as it is now."""
    given = descent.structure
    if descent.steps == 0:
        return given
    return Structure(
        Lattice(descent.graph.lattice),
        given.species,
        descent.graph.frac_coords,
        site_properties=given.site_properties,
    )


def _check_cell(first: Float[np.ndarray, "3 3"], now: Float[np.ndarray, "3 3"]) -> None:
    """Raises CannotEvaluate if the cell has exploded or collapsed."""
    if not np.isfinite(now).all():
        raise CannotEvaluate("exploded: non-finite numbers")
    stretch = np.linalg.svd(np.linalg.solve(first, now), compute_uv=False)
    volume = np.prod(stretch)
    if not 1 / relaxation.LARGEST_VOLUME_RATIO < volume < relaxation.LARGEST_VOLUME_RATIO:
        raise CannotEvaluate(f"exploded: the volume has changed by a factor of {volume:.2g}")
    if stretch[0] > _LARGEST_STRETCH or stretch[-1] < 1 / _LARGEST_STRETCH:
        raise CannotEvaluate(
            f"exploded: the cell is stretched by factors from {stretch[-1]:.2g} to {stretch[0]:.2g}"
        )
