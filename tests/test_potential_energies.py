"""potentials/energies.py: every crystal gets its own numbers, whatever the batches."""

import jax
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials import energies, packing
from crystal_diffusion_jax.potentials.chgnet import GPA
from crystal_diffusion_jax.structures.conversion import to_ase
from tests import toy_potential
from tests.test_relax import HOPELESS, crystals, fcc, rattled


@pytest.fixture(autouse=True)
def _toy_potential(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of a few crystals each, chosen from few."""
    monkeypatch.setattr(energies.weights, "load", lambda progress: toy_potential.PARAMETERS)
    monkeypatch.setattr(energies, "_outputs", jax.jit(toy_potential.outputs))
    monkeypatch.setattr(energies, "_TO_CHOOSE_FROM", 8)
    monkeypatch.setattr(packing, "_ROWS_ON_CPU", 2048)


def test_energies_forces_and_stress_are_those_of_each_crystal_alone() -> None:
    large = fcc(4)
    large.make_supercell([1, 2, 1])  # in a batch of another capacity
    given = [*crystals(19), rattled(large, seed=0)]
    found = energies.evaluate_all(given, progress=False)
    for structure, evaluated in zip(given, found, strict=True):
        assert isinstance(evaluated, energies.Evaluated)
        atoms = to_ase(structure)
        atoms.calc = toy_potential.BondCalculator()
        energy = atoms.get_potential_energy() / len(atoms)
        assert evaluated.energy_per_atom == pytest.approx(energy, abs=1e-5)
        np.testing.assert_allclose(evaluated.forces, atoms.get_forces(), atol=1e-4)
        stress = atoms.get_stress(voigt=False) * GPA
        np.testing.assert_allclose(evaluated.stress, stress, atol=1e-3)
        np.testing.assert_array_equal(evaluated.magnetic_moments, structure.atomic_numbers)


def test_failures_are_named_and_stand_in_their_places() -> None:
    hopeless = {name: one for name, one in HOPELESS.items() if name != "exploded"}
    given = [structure for bad in hopeless.values() for structure in (bad, fcc(1))]
    found = energies.evaluate_all(given, progress=False)
    for reason, failure in zip(hopeless, found[::2], strict=True):
        assert isinstance(failure, str)
        assert failure.startswith(reason)
    assert all(isinstance(one, energies.Evaluated) for one in found[1::2])
    lone = Structure(Lattice.cubic(30), ["Ar"], [[0, 0, 0]])
    assert isinstance(energies.evaluate_all([lone], progress=False)[0], str)
    assert energies.evaluate_all([], progress=False) == []
