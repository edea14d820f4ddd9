"""evaluation/hulls.py: the columns of --hull, from energies that make them known."""

import math
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation import hulls
from crystal_diffusion_jax.potentials import references
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxedCrystal, failed
from crystal_diffusion_jax.structures.reading import Inputs

PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Ba", "Ti", "O", "O", "O"],
    [[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)
INPUTS = Inputs([PEROVSKITE], ["a.cif"], {})
PHASES = "formula,formation_energy_per_atom\nBaO,-2.8\nTiO2,-3.2\nTi2O3,-3.1\n"


def relaxed(structure: Structure, energy_per_atom: float) -> RelaxedCrystal:
    moments = np.zeros(len(structure))
    outcome = Relaxation(structure, energy_per_atom, energy_per_atom, 0, True, moments, None)
    return RelaxedCrystal("a.cif", outcome)


@pytest.fixture
def phases(tmp_path: Path) -> str:
    (tmp_path / "phases.csv").write_text(PHASES)
    return str(tmp_path / "phases.csv")


def test_a_crystal_is_compared_with_the_mixture_of_its_composition(phases: str) -> None:
    columns = hulls.hull_columns(phases, "chgnet", INPUTS)([relaxed(PEROVSKITE, -7.5)])
    fitted = references.load("mp20").energies
    # CHGNet's energy per atom minus the mean of the elements'; a third of the atoms is oxygen.
    formation = -7.5 - (fitted[56] + fitted[22] + 3 * fitted[8]) / 5
    assert columns["formation_energy_per_atom"] == [pytest.approx(formation)]
    mixture = 0.4 * -2.8 + 0.6 * -3.2
    assert columns["energy_above_hull"] == [pytest.approx(formation - mixture)]
    assert columns["decomposition"] == ["BaO (0.400) + TiO2 (0.600)"]


def test_what_is_unknown_stays_empty(phases: str) -> None:
    americium = Structure(Lattice.cubic(3.6), ["Am"], [[0, 0, 0]])
    crystals = [relaxed(americium, -3.0), RelaxedCrystal("b.cif", failed("isolated atom"))]
    columns = hulls.hull_columns(phases, "chgnet", INPUTS)(crystals)
    for name in ("formation_energy_per_atom", "energy_above_hull"):
        assert all(isinstance(x, float) and math.isnan(x) for x in columns[name])
    assert columns["decomposition"] == ["", ""]


@pytest.mark.parametrize(
    ("hull", "sentence"),
    [
        ("mp2", "--hull=mp2 is neither a csv of known phases nor one of .*; did you mean mp20?"),
        ("missing.csv", "--hull=missing.csv is neither a csv of known phases nor one of perov5"),
    ],
)
def test_an_unknown_hull_is_a_sentence(hull: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        hulls.hull_columns(hull, "chgnet", INPUTS)
