"""`cdj.relax` and `cdj.potential`: crystals of either package in, one result each, in order."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures.conversion import to_ase
from tests.potential_crystals import golden, parameters, rock_salt
from tests.relaxed_sets import EMT, metal


@pytest.mark.usefixtures("in_this_process")
def test_one_crystal_or_several_of_either_package_can_be_relaxed() -> None:
    (alone,) = cdj.relax(metal(0), potential=EMT)
    first, second = cdj.relax([metal(1), to_ase(metal(0))], potential=EMT)
    assert first.structure is not None
    assert first.structure.formula == "Al4"
    assert alone.energy_per_atom == pytest.approx(second.energy_per_atom, abs=1e-9)
    (fixed,) = cdj.relax(metal(0), fixed_cell=True, fmax=0.01, potential=EMT)
    assert fixed.structure is not None
    np.testing.assert_array_equal(fixed.structure.lattice.matrix, metal(0).lattice.matrix)


def test_settings_are_checked_and_nothing_gives_nothing() -> None:
    with pytest.raises(UserError, match="--fmax=0"):
        cdj.relax(metal(0), fmax=0, potential=EMT)
    with pytest.raises(UserError, match="neither chgnet nor ase"):
        cdj.relax(metal(0), potential="emt")
    assert cdj.relax([], potential=EMT) == []


def test_the_potential_predicts_what_the_original_does_or_says_why_not() -> None:
    parameters()
    known = golden()[0]
    structure = Structure(Lattice(known["lattice"]), known["atomic_numbers"], known["frac_coords"])
    lone = Structure(Lattice.cubic(30.0), ["Ar"], [[0, 0, 0]])
    found, failure = cdj.potential().predict([structure, to_ase(lone)])
    assert not isinstance(found, str)
    assert found.energy_per_atom == pytest.approx(known["energy_per_atom"], abs=5e-5)
    np.testing.assert_allclose(found.forces, known["forces"], atol=1e-3)
    assert isinstance(failure, str)
    assert failure.startswith("isolated atom")


@pytest.mark.slow
def test_rock_salt_relaxes_back_to_where_no_force_acts() -> None:
    parameters()
    stretched = rock_salt(displacement=0.1)
    stretched.scale_lattice(1.1 * stretched.volume)
    (found,) = cdj.relax(stretched)
    assert found.converged
    assert found.structure is not None
    assert found.energy_per_atom < found.initial_energy_per_atom - 0.01
    (there,) = cdj.potential().predict(found.structure)
    assert not isinstance(there, str)
    assert there.energy_per_atom == pytest.approx(found.energy_per_atom, abs=1e-5)
    assert np.linalg.norm(there.forces, axis=-1).max() < 0.05
    assert np.abs(there.stress).max() < 0.5
