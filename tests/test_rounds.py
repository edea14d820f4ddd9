"""How long a round of steps may use one set of neighbour lists."""

import jax.numpy as jnp
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials import descent, rounds
from crystal_diffusion_jax.potentials.batching import AtomBatch
from crystal_diffusion_jax.potentials.chgnet import Outputs
from crystal_diffusion_jax.potentials.neighbours import Capacity
from crystal_diffusion_jax.potentials.rounds import Limits

_CAPACITY = Capacity(2, 8, 2000, 60, 60)
_EVALUATIONS = 40


def _attraction(parameters: None, batch: AtomBatch) -> Outputs:
    """Draws the first two atoms together along x, however close they are."""
    forces = jnp.zeros((len(batch.crystal), 3)).at[0, 0].set(1.0).at[1, 0].set(-1.0)
    nothing = jnp.zeros(len(batch.lattice))
    return Outputs(nothing, forces, jnp.zeros((len(batch.lattice), 3, 3)), batch.frac_coords[:, 0])


def _end(distance: float) -> tuple[int, float]:
    """Steps of a round that begins with two atoms so far apart, and their distance at its end."""
    lattice = Lattice.orthorhombic(12.0, 4.5, 4.5)
    frac_coords = [[0.1, 0.5, 0.5], [0.1 + distance / 12.0, 0.5, 0.5]]
    before = descent.begin(0, Structure(lattice, ["Si", "Si"], frac_coords), skin=True)
    assert isinstance(before, descent.Descent)
    limits = Limits(force=1e-9, stress=np.inf, steps=1000, fixed_cell=True)
    inputs = descent.gather([before], _CAPACITY)
    end = rounds.compiled(_attraction)(None, *inputs, limits, _EVALUATIONS)
    coords = np.asarray(end.progress.frac_coords[:2]) @ lattice.matrix
    return int(end.progress.inertia.steps[0]), float(coords[1, 0] - coords[0, 0])


@pytest.mark.parametrize("distance", [3.04, 3.1, 3.2])
def test_a_round_ends_when_a_bond_has_become_short_that_is_not_in_the_short_list(
    distance: float,
) -> None:
    steps, distance_at_end = _end(distance)
    assert steps < _EVALUATIONS
    # It ends with the step that brings the atoms within 2.9 A, and a step is at most 0.2 A.
    assert 2.7 < distance_at_end < 2.9


def test_short_bonds_may_become_shorter_until_other_atoms_may_have_come_within_the_cutoff() -> None:
    steps, distance_at_end = _end(2.95)
    assert steps < _EVALUATIONS
    # The list of all bonds reaches 0.2 A beyond the cutoff, and bonds may be 0.2 A shorter.
    assert 2.15 < distance_at_end < 2.55
