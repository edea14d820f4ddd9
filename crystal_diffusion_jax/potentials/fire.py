"""FIRE, fast inertial relaxation, on the atoms and cells of several crystals at once.

Each crystal has a time step, a velocity and counters of its own, so its path does not depend on the
others. The frame is that of ASE's `FrechetCellFilter`, and the path is the one that ASE's `FIRE`
takes in it. The variables of a crystal of N atoms are the positions that the atoms would have in
its first cell, and N times the logarithm of the deformation from that cell to the present one.
Atoms follow the cell. (With the deformation itself, `UnitCellFilter`, crystals that are far from
equilibrium take a sixth more steps.)

References: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006); Tadmor et al., Phys. Rev. B 59, 235
(1999) for atoms and cells together.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

# Terms of the series of the exponential: enough for deformations by a factor of four.
_NUM_TERMS = 16
# As in ASE 3.29. The unit of time is that of Angstrom, eV and atoms of mass 1.
_FIRST_TIME_STEP = 0.1
_FIRST_MIXING = 0.1
_LARGEST_TIME_STEP = 1.0
_LARGEST_MOVE = 0.2  # Angstrom, norm of the move of all variables of a crystal
_FASTER, _SLOWER, _LESS_MIXING = 1.1, 0.5, 0.99
_PATIENCE = 5  # steps downhill before the time step grows


@flax.struct.dataclass
class Frame:
    """What stays the same on the path: which atoms are a crystal, and where it started.

    Attributes:
      crystal: index of each atom's crystal, ascending.
      num_atoms: of each crystal.
      lattice: the cells that deformations refer to, rows in Angstrom.
      inverse: of these matrices.
    """

    crystal: Int[Array, " atoms"]
    num_atoms: Float[Array, " crystals"]
    lattice: Float[Array, "crystals 3 3"]
    inverse: Float[Array, "crystals 3 3"]


@flax.struct.dataclass
class Variables:
    """The variables, changes of them, velocities, or generalised forces.

    Attributes:
      atoms: in the frame of the first cell.
      cells: of the number of atoms times the logarithm of the deformation gradient.
    """

    atoms: Float[Array, "atoms 3"]
    cells: Float[Array, "crystals 3 3"]


@flax.struct.dataclass
class Inertia:
    """What FIRE remembers from step to step.

    Attributes:
      log_deformation: logarithm of the deformation gradient from the first cell to the present one.
      velocity: of the variables.
      time_step: of each crystal.
      mixing: share of the force's direction in the velocity, alpha in the paper.
      downhill: steps since the last one that went uphill.
      steps: taken so far.
    """

    log_deformation: Float[Array, "crystals 3 3"]
    velocity: Variables
    time_step: Float[Array, " crystals"]
    mixing: Float[Array, " crystals"]
    downhill: Int[Array, " crystals"]
    steps: Int[Array, " crystals"]


def at_rest(num_atoms: int, num_crystals: int) -> Inertia:
    """Inertia before the first step, in NumPy arrays."""

    def full(value: float, *shape: int) -> Any:
        return np.full(shape, value)

    return Inertia(
        log_deformation=full(0.0, num_crystals, 3, 3),
        velocity=Variables(full(0.0, num_atoms, 3), full(0.0, num_crystals, 3, 3)),
        time_step=full(_FIRST_TIME_STEP, num_crystals),
        mixing=full(_FIRST_MIXING, num_crystals),
        downhill=full(0, num_crystals),
        steps=full(0, num_crystals),
    )


def generalised_forces(
    frame: Frame,
    inertia: Inertia,
    lattice: Float[Array, "crystals 3 3"],
    forces: Float[Array, "atoms 3"],
    stress: Float[Array, "crystals 3 3"],
) -> Variables:
    """Minus the derivatives of each crystal's energy with respect to its variables.

    With the deformation F = exp(U), lattice = first lattice @ F^T, they are f F for the force f on
    an atom; for the cell, -V stress F^-T / N, carried over from F to U by the adjoint of the
    derivative of exp at U, which is the derivative of exp at U^T.

    Args:
      frame: of the crystals.
      inertia: at the present point.
      lattice: present cells, in Angstrom.
      forces: in eV/A, Cartesian.
      stress: dE/dstrain / V, in eV/A^3.
    """
    # The transposed inverse of a lattice is this over its determinant.
    cofactors = jnp.cross(jnp.roll(lattice, -1, axis=1), jnp.roll(lattice, -2, axis=1))
    handedness = jnp.sign(jnp.sum(lattice[:, 0] * cofactors[:, 0], axis=-1))
    volume_over_deformation = _product(_transposed(cofactors), frame.lattice)
    by_deformation = _product(stress, volume_over_deformation)
    transposed, by_log = _exponential(_transposed(inertia.log_deformation), by_deformation)
    atoms = _product(forces[:, None], _transposed(transposed)[frame.crystal])
    return Variables(atoms[:, 0], by_log * (-handedness / frame.num_atoms)[:, None, None])


def moved(
    frame: Frame,
    inertia: Inertia,
    frac_coords: Float[Array, "atoms 3"],
    move: Variables,
) -> tuple[Float[Array, "crystals 3 3"], Float[Array, "atoms 3"]]:
    """The lattice and fractional coordinates after a step.

    Args:
      frame: of the crystals.
      inertia: after the step.
      frac_coords: before it.
      move: of the step.
    """
    nothing = jnp.zeros_like(inertia.log_deformation)
    transposed, _ = _exponential(_transposed(inertia.log_deformation), nothing)
    atoms = _product(move.atoms[:, None], frame.inverse[frame.crystal])[:, 0]
    return _product(frame.lattice, transposed), frac_coords + atoms


def step(
    frame: Frame, inertia: Inertia, force: Variables, moving: Bool[Array, " crystals"]
) -> tuple[Variables, Inertia]:
    """One step of FIRE.

    Args:
      frame: of the crystals.
      inertia: after the step before.
      force: generalised forces at the present point.
      moving: False for crystals that stay where they are, whatever their numbers.

    Returns:
      The changes of the variables, and the new inertia.
    """
    velocity = inertia.velocity
    downhill = _dot(frame, force, velocity) > 0
    # At rest and without forces there is no direction, and the factor is not used.
    turn = _norm(frame, velocity) / jnp.where(downhill, _norm(frame, force), 1.0)
    velocity = jax.tree.map(
        jnp.add,
        _scaled(frame, jnp.where(downhill, 1 - inertia.mixing, 0.0), velocity),
        _scaled(frame, jnp.where(downhill, inertia.mixing * turn, 0.0), force),
    )
    patient = downhill & (inertia.downhill > _PATIENCE)
    faster = jnp.minimum(inertia.time_step * _FASTER, _LARGEST_TIME_STEP)
    # The first step starts from rest, which says nothing about uphill or downhill.
    slower = inertia.time_step * jnp.where(inertia.steps == 0, 1.0, _SLOWER)
    time_step = jnp.select([patient, downhill], [faster, inertia.time_step], slower)
    less_mixing = inertia.mixing * _LESS_MIXING
    mixing = jnp.select([patient, downhill], [less_mixing, inertia.mixing], _FIRST_MIXING)

    velocity = jax.tree.map(jnp.add, velocity, _scaled(frame, time_step, force))
    move = _scaled(frame, time_step, velocity)
    length = _norm(frame, move)
    move = _scaled(frame, _LARGEST_MOVE / jnp.maximum(length, _LARGEST_MOVE), move)
    move = _where(frame, moving, move, jax.tree.map(jnp.zeros_like, move))
    new = Inertia(
        log_deformation=inertia.log_deformation + move.cells / frame.num_atoms[:, None, None],
        velocity=_where(frame, moving, velocity, inertia.velocity),
        time_step=jnp.where(moving, time_step, inertia.time_step),
        mixing=jnp.where(moving, mixing, inertia.mixing),
        downhill=jnp.where(moving, jnp.where(downhill, inertia.downhill + 1, 0), inertia.downhill),
        steps=inertia.steps + moving,
    )
    return move, new


def _dot(frame: Frame, a: Variables, b: Variables) -> Float[Array, " crystals"]:
    atoms = jax.ops.segment_sum(
        jnp.sum(a.atoms * b.atoms, axis=-1),
        frame.crystal,
        num_segments=len(frame.num_atoms),
        indices_are_sorted=True,
    )
    return atoms + jnp.sum(a.cells * b.cells, axis=(1, 2))


def _norm(frame: Frame, a: Variables) -> Float[Array, " crystals"]:
    return jnp.sqrt(_dot(frame, a, a))


def _scaled(frame: Frame, factor: Float[Array, " crystals"], a: Variables) -> Variables:
    return Variables(factor[frame.crystal, None] * a.atoms, factor[:, None, None] * a.cells)


def _where(
    frame: Frame, condition: Bool[Array, " crystals"], yes: Variables, no: Variables
) -> Variables:
    return Variables(
        jnp.where(condition[frame.crystal, None], yes.atoms, no.atoms),
        jnp.where(condition[:, None, None], yes.cells, no.cells),
    )


def _exponential(
    a: Float[Array, "n 3 3"], change: Float[Array, "n 3 3"]
) -> tuple[Float[Array, "n 3 3"], Float[Array, "n 3 3"]]:
    """exp(a), and how it changes with a, by their series."""

    def add_term(n: Array, terms: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
        power, power_change, total, total_change = terms
        # a^n / n! from the term before, and its derivative.
        power_change = (_product(power_change, a) + _product(power, change)) / n
        power = _product(power, a) / n
        return power, power_change, total + power, total_change + power_change

    one, zero = jnp.broadcast_to(jnp.eye(3, dtype=a.dtype), a.shape), jnp.zeros_like(a)
    # A loop, as sixteen copies of it take long to compile.
    terms = jax.lax.fori_loop(1, _NUM_TERMS, add_term, (one, zero, one, zero))
    _, _, total, total_change = terms
    return total, total_change


def _product(a: Float[Array, "n i j"], b: Float[Array, "n j k"]) -> Float[Array, "n i k"]:
    # Not a matrix product, for which some accelerators have few digits.
    return jnp.sum(a[..., None] * b[:, None], axis=2)


def _transposed(a: Float[Array, "n i j"]) -> Float[Array, "n j i"]:
    return jnp.swapaxes(a, 1, 2)
