"""Several steps of FIRE on a batch of crystals, in one program with one set of neighbour lists."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from crystal_diffusion_jax.potentials import fire
from crystal_diffusion_jax.potentials.batching import AtomBatch
from crystal_diffusion_jax.potentials.chgnet import Outputs, bond_vectors
from crystal_diffusion_jax.potentials.fire import Frame, Inertia
from crystal_diffusion_jax.potentials.neighbours import CUTOFF, SHORT_CUTOFF, SKIN
from crystal_diffusion_jax.runtime import devices

# A bond may be shorter than its cutoff by this share of it before it must be in a list: its weight
# is below 0.005.
_MISSED = 1 / 30
# Share of the atoms that moved in the first step, below which a round ends early.
_LEAST_MOVING = 0.75

# (parameters, batch) -> energy, forces, stress; `chgnet.outputs` is one.
Potential = Callable[[Any, AtomBatch], Outputs]


@flax.struct.dataclass
class Limits:
    """When crystals stop.

    Attributes:
      force: largest on an atom at convergence, in eV/A.
      stress: largest component at convergence, in eV/A^3; infinite for fixed cells.
      steps: at most.
      fixed_cell: only atoms move.
    """

    force: float
    stress: float
    steps: int
    fixed_cell: bool


@flax.struct.dataclass
class Progress:
    """Where crystals are.

    Attributes:
      lattice: cell vectors as rows, in Angstrom.
      frac_coords: any real numbers.
      inertia: of FIRE.
    """

    lattice: Float[Array, "crystals 3 3"]
    frac_coords: Float[Array, "atoms 3"]
    inertia: Inertia


@flax.struct.dataclass
class Round:
    """What a round of steps gives.

    Attributes:
      progress: at its end.
      energy: of each cell at its beginning, where the lists are fresh, in eV; NaN without finite
        forces and stress.
      magnetic_moments: at its beginning.
      converged: at its beginning.
      settled: converged at its beginning or later, and stays there.
    """

    progress: Progress
    energy: Float[Array, " crystals"]
    magnetic_moments: Float[Array, " atoms"]
    converged: Bool[Array, " crystals"]
    settled: Bool[Array, " crystals"]


def run(
    potential: Potential,
    parameters: Any,
    batch: AtomBatch,
    frame: Frame,
    inertia: Inertia,
    limits: Limits,
    evaluations: int,
) -> Round:
    """Evaluates the potential and takes a step, several times.

    A crystal stays where it converges, where it has moved too far for the lists, after the most
    steps, and where a number is not finite. The round ends when too few of the atoms still move.

    Args:
      potential: to relax with.
      parameters: of the potential.
      batch: the crystals at the beginning.
      frame: of their variables.
      inertia: at the beginning.
      limits: when they stop.
      evaluations: of the potential at most, each followed by a step.
    """

    def evaluate(state: _State) -> _State:
        now, here = state.now, state.now.progress
        present = dataclasses.replace(batch, lattice=here.lattice, frac_coords=here.frac_coords)
        out = potential(parameters, present)
        force = _longest(frame, out.forces)
        stress = jnp.where(limits.fixed_cell, 0.0, out.stress)
        largest_stress = jnp.max(jnp.abs(stress), axis=(1, 2))
        converged = (force < limits.force) & (largest_stress < limits.stress)
        settled = now.settled | (converged & ~state.stale)
        finite = jnp.isfinite(out.energy) & jnp.isfinite(force) & jnp.isfinite(largest_stress)
        moving = finite & ~settled & ~state.stale & (here.inertia.steps < limits.steps)
        generalised = fire.generalised_forces(frame, here.inertia, here.lattice, out.forces, stress)
        move, after = fire.step(frame, here.inertia, generalised, moving)
        lattice, frac_coords = fire.moved(frame, after, here.frac_coords, move)
        moved = dataclasses.replace(batch, lattice=lattice, frac_coords=frac_coords)
        stale = _is_stale(frame, batch, moved, after, inertia)
        first = state.num_evaluations == 0
        # Without finite forces there is no way on, whatever the energy.
        energy = jnp.where(finite, out.energy, jnp.nan)
        at_first = jnp.where(first, _num_atoms(frame, moving), state.num_moving)
        enough = _num_atoms(frame, moving & ~stale) > _LEAST_MOVING * at_first
        return _State(
            num_evaluations=jnp.where(enough, state.num_evaluations + 1, evaluations),
            num_moving=at_first,
            stale=stale,
            now=Round(
                progress=Progress(lattice, frac_coords, after),
                energy=jnp.where(first, energy, now.energy),
                magnetic_moments=jnp.where(first, out.magnetic_moments, now.magnetic_moments),
                converged=jnp.where(first, converged, now.converged),
                settled=settled,
            ),
        )

    nothing = jnp.zeros(len(batch.lattice), bool)
    start = Round(
        progress=Progress(batch.lattice, batch.frac_coords, inertia),
        energy=jnp.zeros(len(batch.lattice)),
        magnetic_moments=jnp.zeros(len(batch.crystal)),
        converged=nothing,
        settled=nothing,
    )
    end = jax.lax.while_loop(
        lambda state: state.num_evaluations < evaluations,
        evaluate,
        _State(jnp.int32(0), jnp.float32(0), nothing, start),
    )
    return end.now


class _State(NamedTuple):
    """Of the loop: evaluations so far, atoms that moved after the first, stale lists, results."""

    num_evaluations: Array
    num_moving: Array
    stale: Bool[Array, " crystals"]
    now: Round


def _num_atoms(frame: Frame, which: Bool[Array, " crystals"]) -> Array:
    """Atoms of these crystals together."""
    return jnp.sum(jnp.where(which, frame.num_atoms, 0.0))


def _is_stale(
    frame: Frame, before: AtomBatch, now: AtomBatch, inertia: Inertia, first: Inertia
) -> Bool[Array, " crystals"]:
    """Which crystals may have bonds, or short bonds, that are not in their lists.

    Args:
      frame: of the crystals.
      before: when the lists were made.
      now: at present.
      inertia: at present, with the deformation.
      first: when the lists were made.
    """
    num_crystals = len(frame.num_atoms)
    # Every bond is in the list of all, so that those that became short can be seen.
    long = bond_vectors(now)[now.num_short :]
    nearest = jax.ops.segment_min(
        jnp.linalg.norm(long, axis=-1), now.crystal[now.first[now.num_short :]], num_crystals
    )
    distance = jnp.einsum(
        "ai,aij->aj", now.frac_coords - before.frac_coords, now.lattice[frame.crystal]
    )
    strain = jnp.linalg.norm(inertia.log_deformation - first.log_deformation, axis=(1, 2))
    approach = 2 * _longest(frame, distance) + CUTOFF * strain
    return (nearest < SHORT_CUTOFF * (1 - _MISSED)) | (approach > SKIN + CUTOFF * _MISSED)


@functools.cache
def compiled(potential: Potential) -> Callable[..., Round]:
    """`run` with this potential, compiled once for each shape."""
    return jax.jit(functools.partial(run, potential), compiler_options=devices.compiler_options())


def _longest(frame: Frame, vectors: Float[Array, "atoms 3"]) -> Float[Array, " crystals"]:
    """Length of the longest vector on an atom of each crystal."""
    squares = jax.ops.segment_max(
        jnp.sum(vectors**2, axis=-1),
        frame.crystal,
        num_segments=len(frame.num_atoms),
        indices_are_sorted=True,
    )
    return jnp.sqrt(squares)
