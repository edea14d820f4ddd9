"""Several steps of FIRE on a batch of crystals, in one program with one set of neighbour lists."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from crystal_diffusion_jax.potentials import fire
from crystal_diffusion_jax.potentials.batching import AtomBatch
from crystal_diffusion_jax.potentials.chgnet import Outputs
from crystal_diffusion_jax.potentials.fire import Frame, Inertia

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
      energy: of each cell at its beginning, where the lists are fresh, in eV.
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

    A crystal stays where it converges, after the most steps, and where a number is not finite.

    Args:
      potential: to relax with.
      parameters: of the potential.
      batch: the crystals at the beginning.
      frame: of their variables.
      inertia: at the beginning.
      limits: when they stop.
      evaluations: of the potential at most, each followed by a step; fewer if all have stopped.
    """

    def evaluate(state: tuple[Array, Round]) -> tuple[Array, Round]:
        count, now = state
        here = now.progress
        present = dataclasses.replace(batch, lattice=here.lattice, frac_coords=here.frac_coords)
        out = potential(parameters, present)
        force = _largest_force(frame, out.forces)
        stress = jnp.where(limits.fixed_cell, 0.0, out.stress)
        largest_stress = jnp.max(jnp.abs(stress), axis=(1, 2))
        converged = (force < limits.force) & (largest_stress < limits.stress)
        settled = now.settled | converged
        finite = jnp.isfinite(out.energy) & jnp.isfinite(force) & jnp.isfinite(largest_stress)
        moving = finite & ~settled & (here.inertia.steps < limits.steps)
        move, inertia = fire.step(
            frame,
            here.inertia,
            fire.generalised_forces(frame, here.inertia, here.lattice, out.forces, stress),
            moving,
        )
        lattice, frac_coords = fire.moved(frame, inertia, here.frac_coords, move)
        first = count == 0
        return jnp.where(jnp.any(moving), count + 1, evaluations), Round(
            progress=Progress(lattice, frac_coords, inertia),
            energy=jnp.where(first, out.energy, now.energy),
            magnetic_moments=jnp.where(first, out.magnetic_moments, now.magnetic_moments),
            converged=jnp.where(first, converged, now.converged),
            settled=settled,
        )

    nothing = jnp.zeros(len(batch.lattice), bool)
    start = Round(
        progress=Progress(batch.lattice, batch.frac_coords, inertia),
        energy=jnp.zeros(len(batch.lattice)),
        magnetic_moments=jnp.zeros(len(batch.crystal)),
        converged=nothing,
        settled=nothing,
    )
    _, end = jax.lax.while_loop(
        lambda state: state[0] < evaluations, evaluate, (jnp.int32(0), start)
    )
    return end


@functools.cache
def compiled(potential: Potential) -> Callable[..., Round]:
    """`run` with this potential, compiled once for each shape."""
    return jax.jit(functools.partial(run, potential))


def _largest_force(frame: Frame, forces: Float[Array, "atoms 3"]) -> Float[Array, " crystals"]:
    squares = jax.ops.segment_max(
        jnp.sum(forces**2, axis=-1),
        frame.crystal,
        num_segments=len(frame.num_atoms),
        indices_are_sorted=True,
    )
    return jnp.sqrt(squares)
