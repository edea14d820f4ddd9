"""structures/radial_fingerprints.py."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.structures.canonical import Cell
from crystal_diffusion_jax.structures.radial_fingerprints import (
    fingerprint_difference,
    radial_fingerprint,
)

SITES = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], SITES.tolist())
CHLORIDE = Structure(Lattice.cubic(2.7), ["Mg", "O"], SITES)


def of(structure: Structure) -> np.ndarray:
    numbers = np.array(structure.atomic_numbers)
    return radial_fingerprint(
        Cell(structure.lattice.matrix, structure.frac_coords, numbers), [8, 12]
    )


def scaled(structure: Structure) -> Structure:
    return Structure(structure.lattice.matrix * 1.4, structure.species, structure.frac_coords)


@pytest.mark.parametrize(
    "same",
    [SALT.get_primitive_structure(), SALT * (1, 1, 2), scaled(SALT), SALT[::-1]],
    ids=["primitive", "supercell", "scaled", "order"],
)
def test_the_description_of_a_crystal_does_not_matter(same: Structure | list) -> None:
    other = same if isinstance(same, Structure) else Structure.from_sites(same)
    np.testing.assert_allclose(of(other), of(SALT), atol=1e-9)
    assert fingerprint_difference(of(other), of(SALT)) == pytest.approx(0, abs=1e-9)


def test_entries_are_smeared_numbers_of_neighbours() -> None:
    # Rock salt: 6 unlike neighbours at a / 2; (a^3 / 8)^(1/3) = a / 2, so at distance 1.
    unlike = of(SALT)[0, 1]
    assert unlike[14] == pytest.approx(6 / 2)  # distance 0.3 + 14 * 0.05, per atom of both kinds
    assert unlike[:24].argmax() == 14


def test_other_structures_differ() -> None:
    assert fingerprint_difference(of(SALT), of(CHLORIDE)) > 0.5
    assert fingerprint_difference(np.zeros(3), np.zeros(3)) == 0
