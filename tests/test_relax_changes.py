"""potentials/changes.py: displacements known in closed form."""

import math

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials.changes import compare, rmsd, volume_change

SPINEL_LIKE = Structure(
    Lattice.from_parameters(5.1, 6.2, 7.4, 85, 97, 104),
    ["Li", "Ti", "O", "O", "O", "F"],
    np.random.default_rng(3).uniform(size=(6, 3)),
)


def moved(crystal: Structure, moves: np.ndarray) -> Structure:
    """With each atom moved by a [3] vector in Angstrom."""
    coords = crystal.cart_coords + moves
    return Structure(crystal.lattice, crystal.species, coords, coords_are_cartesian=True)


@pytest.mark.parametrize("distance", [0.01, 0.1, 0.3])
def test_one_atom_that_moves_counts_without_the_common_shift(distance: float) -> None:
    moves = np.zeros((6, 3))
    moves[1] = distance * np.array([2, -1, 2]) / 3
    # N atoms, one moved by d: after removing the mean, d^2 (1 - 1/N)^2 + (N - 1) d^2 / N^2.
    expected = distance * math.sqrt(5) / 6
    assert rmsd(SPINEL_LIKE, moved(SPINEL_LIKE, moves)) == pytest.approx(expected, rel=1e-6)


def test_all_atoms_that_move_count_in_the_root_mean_square() -> None:
    moves = np.random.default_rng(0).normal(0, 0.05, (6, 3))
    deviations = moves - moves.mean(axis=0)
    expected = math.sqrt((deviations**2).sum(axis=-1).mean())
    assert rmsd(SPINEL_LIKE, moved(SPINEL_LIKE, moves)) == pytest.approx(expected, rel=1e-6)


def test_the_same_crystal_told_otherwise_has_not_moved() -> None:
    angle = 0.7
    turn = np.array(
        [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    other = Structure(
        Lattice(1.02 * SPINEL_LIKE.lattice.matrix @ turn),
        SPINEL_LIKE.species[::-1],
        SPINEL_LIKE.frac_coords[::-1] + np.array([3.2, -0.4, 17.0]),
    )
    assert rmsd(SPINEL_LIKE, other) == pytest.approx(0, abs=1e-6)
    assert volume_change(SPINEL_LIKE, other) == pytest.approx(1.02**3 - 1)


def test_a_crystal_that_becomes_more_symmetric_is_still_the_same_structure() -> None:
    # Of the relaxed one a quarter is a primitive cell.
    fcc = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    before = moved(fcc, np.random.default_rng(1).normal(0, 0.1, (4, 3)))
    assert 0.03 < rmsd(before, fcc) < 0.3


def test_another_structure_has_no_distance() -> None:
    other = Structure(
        Lattice.tetragonal(SPINEL_LIKE.volume ** (1 / 3) / 2, 4 * SPINEL_LIKE.volume ** (1 / 3)),
        SPINEL_LIKE.species,
        SPINEL_LIKE.frac_coords,
    )
    assert math.isnan(rmsd(SPINEL_LIKE, other))


def test_the_cif_of_the_comparison_is_that_of_the_relaxed_crystal() -> None:
    relaxed = moved(SPINEL_LIKE, np.full((6, 3), 0.01))
    compared = compare(0.1, (SPINEL_LIKE, relaxed))
    reread = Structure.from_str(compared.cif, fmt="cif")
    assert reread.formula == relaxed.formula
    assert reread.volume == pytest.approx(relaxed.volume, rel=1e-6)
