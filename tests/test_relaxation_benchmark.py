"""benchmarks/relaxation.py: its noise, its comparison and its request; no speed is tested."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from benchmarks.relaxation import comparison, moved, reference, table
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import RelaxSettings


@pytest.fixture
def rock_salt() -> Structure:
    lattice = Lattice.cubic(5.64)
    return Structure.from_spacegroup("Fm-3m", lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_without_noise_the_crystals_stay_as_they_are(rock_salt: Structure) -> None:
    (same,) = moved([rock_salt], 0.0, 0.0, seed=1)
    np.testing.assert_allclose(same.lattice.matrix, rock_salt.lattice.matrix, atol=1e-12)
    np.testing.assert_allclose(same.frac_coords, rock_salt.frac_coords, atol=1e-12)
    assert same.species == rock_salt.species


def test_atoms_move_by_the_standard_deviation_asked_for(rock_salt: Structure) -> None:
    crystals = moved([rock_salt] * 200, 0.05, 0.0, seed=1)
    shifts = np.array([crystal.cart_coords - rock_salt.cart_coords for crystal in crystals])
    # 4,800 normal numbers: five standard errors.
    assert shifts.std() == pytest.approx(0.05, rel=5 / (2 * shifts.size) ** 0.5)
    assert not np.allclose(crystals[0].cart_coords, crystals[1].cart_coords)


def test_cells_are_strained_without_turning(rock_salt: Structure) -> None:
    (strained,) = moved([rock_salt], 0.0, 0.01, seed=1)
    strain = strained.lattice.matrix / 5.64 - np.eye(3)
    np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    assert 0.001 < np.abs(strain).max() < 0.05
    np.testing.assert_allclose(strained.frac_coords, rock_salt.frac_coords, atol=1e-12)


def row(energy: float, converged: bool = True) -> dict[str, Any]:
    return {"energy_per_atom": energy, "converged": converged}


def test_energies_are_compared_where_both_converged() -> None:
    mine = [row(-1.0), row(-2.0), row(-3.0), row(-4.0, converged=False), row(-5.0)]
    theirs = [row(-1.001), row(-1.998), row(-3.0), row(-9.0), {"failure": "RuntimeError: no"}]
    energies = comparison(mine, theirs)
    assert energies["converged_in_both"] == 3
    assert energies["converged_here"] == 4
    assert energies["converged_there"] == 4
    assert energies["median_mev_per_atom"] == pytest.approx(1.0)
    assert energies["max_mev_per_atom"] == pytest.approx(2.0)


def test_the_table_states_rates_and_ratio() -> None:
    report: dict[str, Any] = {
        "crystals": 30,
        "atoms": 300,
        "cores": 2,
        "ours": {"seconds": 10.0, "processor_seconds": 18.0},
        "reference": [
            {"processes": 1, "threads": 2, "seconds": 100.0, "processor_seconds": 150.0},
            {"processes": 2, "threads": 1, "seconds": 60.0, "processor_seconds": 120.0},
        ],
        "ratio": 6.0,
        "ratio_with_compilation": 3.0,
        "energies": comparison([row(-1.0)], [row(-1.001)]),
    }
    text = table(report)
    assert "| this package | 10.0 | 3.000 | 0.60 |" in text
    assert "| PyTorch and ASE, 2 x 1 | 60.0 | 0.500 | 4.00 |" in text
    assert "6.00 times the better of the two (3.00 with compilation)" in text
    assert (
        "in both: 1; their final energies differ by 1.00 meV/atom (median), at most 1.00." in text
    )
    report["energies"] = comparison([row(-1.0, converged=False)], [row(-1.001)])
    assert table(report).endswith("Converged in both: 0.")


def test_an_environment_without_the_original_is_a_mistake(rock_salt: Structure) -> None:
    with pytest.raises(UserError, match=r"--reference_python=.*pip install chgnet"):
        reference(Path(sys.executable), [rock_salt], RelaxSettings(), 1)
    with pytest.raises(UserError, match="--reference_python=/nowhere/python"):
        reference(Path("/nowhere/python"), [rock_salt], RelaxSettings(), 1)
