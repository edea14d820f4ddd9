"""CHGNet and crystals that are none: a named failure or a finite number, in few steps."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials.drivers import driver
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxSettings
from tests.potential_crystals import parameters

CUBE = Lattice.cubic(4.0)
FACES = [[0.0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def cell(volume: float, symbol: str = "Cu") -> Structure:
    """One atom in a cube."""
    return Structure(Lattice.cubic(volume ** (1 / 3)), [symbol], [[0, 0, 0]])


# Crystals, and how their failure begins.
REFUSED = {
    "two atoms in one place": (
        Structure(CUBE, ["Cu", "Cu"], [[0, 0, 0], [0, 0, 0]]),
        "atoms in one place",
    ),
    "a hundredth of a cubic Angstrom": (cell(0.01), "volume below"),
    "a fifth of a cubic Angstrom": (cell(0.2), "too dense"),
    "a lone atom": (cell(15.0**3, "Ar"), "isolated atom"),
    "two atoms in a void": (
        Structure(Lattice.cubic(50.0), ["Cu", "Cu"], [[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        "isolated atom",
    ),
    "americium": (cell(20.0, "Am"), "element unknown to the potential: number 95"),
    "oganesson": (cell(20.0, "Og"), "element unknown to the potential: number 118"),
    "a coordinate that is not a number": (Structure(CUBE, ["Cu"], [[np.nan, 0, 0]]), "non-finite"),
    "an infinite coordinate": (Structure(CUBE, ["Cu"], [[np.inf, 0, 0]]), "non-finite"),
    "a cell that is not a number": (
        Structure(Lattice(np.diag([np.nan, 3, 3])), ["Cu"], [[0, 0, 0]]),
        "non-finite",
    ),
    "a site shared by two elements": (
        Structure(CUBE, [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]),
        "partial occupancy",
    ),
}
# Odd, but with energy and forces.
STRANGE = {
    "atoms 0.6 A apart": Structure(CUBE, ["Cu", "O"], [[0.0, 0, 0], [0, 0, 0.15]]),
    "one atom": cell(12.0),
    "a slab in a vacuum": Structure(
        Lattice.orthorhombic(3.6, 3.6, 40), ["Cu"] * 2, [[0.0, 0, 0], [0.5, 0.5, 0.045]]
    ),
    "a chain": Structure(Lattice.orthorhombic(2.5, 30, 30), ["C"], [[0, 0, 0]]),
    "helium": cell(20.0, "He"),
    "xenon": Structure(Lattice.cubic(6.2), ["Xe"] * 4, FACES),
    "uranium": cell(20.8, "U"),
    "plutonium": cell(24.9, "Pu"),
    "a left-handed cell": Structure(Lattice(np.diag([3.6, 3.6, -3.6])), ["Cu"], [[0, 0, 0]]),
    "coordinates far outside of the cell": Structure(
        Lattice.cubic(2.8), ["Fe"], [[1e6, -1e6, 0.5]]
    ),
}


def relax(crystals: Iterable[Structure], max_steps: int) -> list[Relaxation]:
    parameters()
    crystals = list(crystals)
    settings = RelaxSettings(max_steps=max_steps)
    found = dict(driver(settings)(crystals, settings, progress=False))
    return [found[index] for index in range(len(crystals))]


def test_what_is_no_crystal_is_refused_by_name() -> None:
    for (structure, failure), found in zip(
        REFUSED.values(), relax((one for one, _ in REFUSED.values()), 500), strict=True
    ):
        assert found.failure is not None, structure
        assert found.failure.startswith(failure)
        assert found.structure is None
        assert found.steps == 0
        assert math.isnan(found.energy_per_atom)


@pytest.mark.slow
def test_strange_crystals_have_finite_energies_or_a_named_failure() -> None:
    for name, found in zip(STRANGE, relax(STRANGE.values(), 30), strict=True):
        if found.failure is None:
            assert found.structure is not None
            numbers = [found.initial_energy_per_atom, found.energy_per_atom]
            assert np.isfinite(numbers).all(), name
            assert np.isfinite(found.structure.lattice.matrix).all(), name
            assert np.isfinite(found.structure.frac_coords).all(), name
        else:
            assert found.failure.split(":")[0] in ("exploded", "isolated atom", "too dense"), name
        assert found.steps <= 30


@pytest.mark.slow
def test_crystals_that_fail_leave_the_others_alone() -> None:
    good = Structure(Lattice.cubic(3.7), ["Cu"] * 4, FACES)
    (alone,) = relax([good], 30)
    *_, among_failures = relax([*(one for one, _ in REFUSED.values()), good], 30)
    assert among_failures.failure is None
    assert among_failures.steps == alone.steps
    assert among_failures.energy_per_atom == pytest.approx(alone.energy_per_atom, abs=1e-5)
