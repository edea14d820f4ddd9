"""data/templates.py: training crystals with exchanged elements."""

import itertools
from collections import Counter

import numpy as np
import pytest

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.templates import Templates, anonymous_formula, element_distances

# Be, O, F, Na, Mg, Cl, Ca, Ti, Fe, Sr, Ba
CRYSTALS = [
    [56, 22, 8, 8, 8],
    [38, 22, 8, 8, 8],
    [20, 26, 8, 8, 8],
    [11, 17],
    [12, 8],
    [26],
    [4, 9, 9, 12, 12, 8],
    [12, 8, 12, 8],
]
RNG = np.random.default_rng(0)
TRAIN = CrystalDataset(
    lattice=np.eye(3) * RNG.uniform(3, 5, (len(CRYSTALS), 1, 1)),
    num_atoms=np.array([len(numbers) for numbers in CRYSTALS]),
    frac_coords=RNG.random((sum(map(len, CRYSTALS)), 3)),
    atomic_numbers=np.concatenate(CRYSTALS),
    properties=np.zeros((len(CRYSTALS), 0)),
    property_names=(),
    material_ids=np.array([f"m{i}" for i in range(len(CRYSTALS))]),
)
LIBRARY = Templates(TRAIN)


@pytest.mark.parametrize("numbers", [*CRYSTALS, [20, 22, 8, 8, 8], [3, 9], [3, 3, 9, 11, 11, 16]])
def test_every_template_has_the_composition_that_was_asked_for(numbers: list[int]) -> None:
    found = LIBRARY.find(numbers, 50)
    assert found
    for template in found:
        assert Counter(template.cell.atomic_numbers.tolist()) == Counter(numbers)
        np.testing.assert_array_equal(template.cell.lattice, TRAIN.lattice[template.row])
    ways = {(each.row, tuple(each.cell.atomic_numbers)) for each in found}
    assert len(ways) == len(found)


def test_atoms_of_one_kind_stay_on_the_sites_of_one_kind() -> None:
    for template in LIBRARY.find([57, 49, 16, 16, 16], 50):
        old = CRYSTALS[template.row]
        pairs = set(zip(old, template.cell.atomic_numbers.tolist(), strict=True))
        assert len(pairs) == len(set(old))


def test_a_training_crystal_is_its_own_best_template() -> None:
    (best,) = LIBRARY.find(CRYSTALS[1], 1)
    assert (best.row, best.cost) == (1, 0)
    assert best.cell.atomic_numbers.tolist() == CRYSTALS[1]


def test_costs_are_means_over_the_elements_for_all_ways_to_exchange_them() -> None:
    distances = element_distances()
    found = LIBRARY.find([20, 22, 8, 8, 8], 100)
    expected = [
        (distances[a, old[0]] + distances[b, old[1]] + distances[8, 8]) / 3
        for old in CRYSTALS[:3]
        for a, b in itertools.permutations([20, 22])
    ]
    np.testing.assert_allclose(sorted(each.cost for each in found), sorted(expected), atol=1e-12)


def test_the_order_of_atoms_and_of_training_crystals_decides_nothing() -> None:
    numbers = np.array([20, 22, 8, 8, 8])
    order = np.random.default_rng(1).permutation(len(TRAIN))
    shuffled = Templates(TRAIN.take(order))
    for one, other in zip(
        LIBRARY.find(numbers, 6), shuffled.find(numbers[[3, 1, 4, 0, 2]], 6), strict=True
    ):
        assert one.row == order[other.row]
        np.testing.assert_array_equal(one.cell.atomic_numbers, other.cell.atomic_numbers)
        np.testing.assert_array_equal(one.cell.frac_coords, other.cell.frac_coords)


def perovskites(corners: list[int], centres: list[int]) -> CrystalDataset:
    """Cubic ABO3, in cells of different sizes, origins and orders of atoms."""
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    rng, coords, numbers = np.random.default_rng(2), [], []
    for corner, centre in zip(corners, centres, strict=True):
        order = rng.permutation(5)
        coords.append((sites[order] + rng.random(3)) % 1)
        numbers.append(np.array([corner, centre, 8, 8, 8])[order])
    num = len(corners)
    return CrystalDataset(
        lattice=np.eye(3) * rng.uniform(3.8, 4.4, (num, 1, 1)),
        num_atoms=np.full(num, 5),
        frac_coords=np.concatenate(coords),
        atomic_numbers=np.concatenate(numbers),
        properties=np.zeros((num, 0)),
        property_names=(),
        material_ids=np.array([f"m{i}" for i in range(num)]),
    )


def test_many_near_relatives_outvote_the_nearest_one() -> None:
    # BaHfO3 with barium in the centre is the nearest to BaZrO3, but all others have it the other
    # way round.
    train = perovskites([72, 56, 38, 20, 56], [56, 22, 40, 40, 50])
    library = Templates(train)
    nearest = min(library.find([56, 40, 8, 8, 8], 10), key=lambda each: each.cost)
    assert nearest.row == 0
    first, second = library.find([56, 40, 8, 8, 8], 2)
    assert first.row != 0
    assert second.row == 0  # the other structure comes next, not another of the same
    corner = first.cell.frac_coords[first.cell.atomic_numbers == 56][0]
    oxygen = first.cell.frac_coords[first.cell.atomic_numbers == 8]
    offsets = (oxygen - corner + 0.5) % 1 - 0.5
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), np.sqrt(0.5), atol=1e-9)


def test_without_the_anonymous_formula_there_is_none() -> None:
    assert LIBRARY.find([8, 8, 26], 3) == []
    assert {each.row for each in LIBRARY.find([11, 17], 9)} == {3, 4}  # not Mg2O2


def test_anonymous_formulas_by_hand() -> None:
    assert anonymous_formula([56, 22, 8, 8, 8]) == (1, 1, 3)
    assert anonymous_formula([6] * 4) == (4,)


def test_distances_of_elements_are_those_of_a_metric() -> None:
    known = element_distances()[1:, 1:]
    assert np.isfinite(known).all()
    np.testing.assert_array_equal(known, known.T)
    assert (known[~np.eye(118, dtype=bool)] > 0).all()
    assert not known.diagonal().any()
    # Alkaline earths are nearer to each other than to a halogen.
    assert known[55, 37] < known[55, 16]
