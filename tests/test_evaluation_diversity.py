"""evaluation/comparing.py, matching.py, diversity.py and distributions.py."""

import functools
import itertools
import random as random_numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.evaluation import comparing, matching
from crystal_diffusion_jax.evaluation.distributions import MAX_DRAWN, distances, draw_valid
from crystal_diffusion_jax.evaluation.diversity import Diversity, dataset_structures, diversity
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic
from crystal_diffusion_jax.evaluation.matching import match
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers
from crystal_diffusion_jax.structures.comparing import reduce
from tests.crystal_sets import dataset

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
CAESIUM_CHLORIDE = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Ba", "Ti", "O", "O", "O"],
    0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]),
)


pytestmark = pytest.mark.usefixtures("in_this_process")


def disguises(structure: Structure) -> list[Structure]:
    """The same crystal: supercell, other origin, other order of atoms, expanded, other cell."""
    supercell = structure * (2, 1, 1)
    moved = structure.copy()
    moved.translate_sites(range(len(moved)), [0.3, -0.2, 0.71])
    reordered = Structure.from_sites(structure.sites[::-1])
    expanded = structure.copy()
    expanded.scale_lattice(structure.volume * 1.2)
    sheared = structure * [[1, 0, 0], [2, 1, 0], [0, 1, 1]]
    return [supercell, moved, reordered, expanded, sheared]


def novel(result: Diversity, composition: bool = False) -> np.ndarray:
    found = result.novel_composition if composition else result.novel
    assert found is not None
    return found


@pytest.mark.parametrize("structure", [ROCK_SALT, PEROVSKITE], ids=["NaCl", "BaTiO3"])
def test_a_crystal_in_disguise_is_neither_unique_nor_novel(structure: Structure) -> None:
    copies = disguises(structure)
    result = diversity(copies, dataset([structure]), progress=False)
    assert result.rates["unique"] == Rate(1, len(copies))
    assert not novel(result).any()
    assert not novel(result, composition=True).any()


def test_different_arrangements_of_one_composition_are_unique_and_novel() -> None:
    result = diversity([ROCK_SALT, CAESIUM_CHLORIDE], dataset([ROCK_SALT]), progress=False)
    assert result.rates["unique"] == Rate(2, 2)
    assert novel(result).tolist() == [False, True]
    assert result.rates["unique_compositions"] == Rate(1, 2)


def test_another_composition_is_novel_even_on_the_same_sites() -> None:
    potassium = ROCK_SALT.copy()
    potassium.replace_species({"Na": "K"})
    result = diversity([potassium, ROCK_SALT], dataset([ROCK_SALT]), progress=False)
    assert novel(result).tolist() == [True, False]
    assert novel(result, composition=True).tolist() == [True, False]
    assert result.rates["unique_compositions"] == Rate(2, 2)


def test_missing_crystals_count_as_neither_unique_nor_novel() -> None:
    result = diversity([None, ROCK_SALT, None], dataset([PEROVSKITE]), progress=False)
    assert result.rates["unique"] == Rate(1, 3)
    assert novel(result).tolist() == [False, True, False]
    assert result.group.tolist() == [-1, 1, -1]


def test_unique_crystals_among_the_selected_are_counted_even_without_the_first_of_a_group() -> None:
    copies = [ROCK_SALT, *disguises(ROCK_SALT), CAESIUM_CHLORIDE]
    result = diversity(copies, dataset([PEROVSKITE]), progress=False)
    selected = np.array([False, False, True, True, False, False, True])
    assert result.unique_among(selected) == Rate(2, 7)
    assert result.unique_among(~selected) == Rate(1, 7)


def test_a_set_without_crystals_has_no_diversity() -> None:
    result = diversity([None, None], dataset([ROCK_SALT]), progress=False)
    assert (result.rates["unique"], result.rates["unique_compositions"]) == (Rate(0, 2), Rate(0, 2))


def test_a_failed_comparison_is_named_and_counts_as_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(matcher: StructureMatcher, reference: Structure, structure: Structure) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(comparing, "fit", refuse)
    result = diversity([CAESIUM_CHLORIDE, PEROVSKITE], dataset([CAESIUM_CHLORIDE]), False)
    assert result.group.tolist() == [-1, 1]
    assert novel(result).tolist() == [False, True]
    assert result.failures == {0: "comparison failed: ZeroDivisionError"}


def heavy() -> Structure:
    structure = CAESIUM_CHLORIDE.copy()
    structure.scale_lattice(80.0)
    return structure


@pytest.mark.parametrize("stage", ["reduction", "comparison"])
def test_a_crystal_that_takes_too_long_is_the_only_failure(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    lost = TaskFailure("no result after 60 s")

    def lose_heavy(self: Workers, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if self.function is reduce:
                deadly = stage == "reduction" and item.volume > 79
            else:
                assert isinstance(self.function, functools.partial)
                cells = [self.function.args[0][i] for i in item if isinstance(i, int)]
                deadly = stage == "comparison" and max(cell.volume for cell in cells) > 79
            yield lost if deadly else self.function(item)

    monkeypatch.setattr(Workers, "map", lose_heavy)
    set_ = [CAESIUM_CHLORIDE, heavy(), CAESIUM_CHLORIDE, PEROVSKITE]
    result = match(set_, [PEROVSKITE], progress=False)
    assert result.group == [0, -1, 0, 3]
    assert result.known[3]
    reason = {"reduction": "no primitive cell found", "comparison": "comparison failed"}[stage]
    assert result.failures == {1: f"{reason}: no result after 60 s"}


def test_a_group_whose_first_crystal_is_lost_later_keeps_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose_first(self: Workers, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            known = getattr(self.function, "func", None) is comparing.is_same_as_any
            yield TaskFailure("too long") if known and item[0] == 0 else self.function(item)

    monkeypatch.setattr(Workers, "map", lose_first)
    result = match([PEROVSKITE] * 3, [PEROVSKITE], progress=False)
    assert result.group == [-1, 1, 1]
    assert result.known[1:] == [True, True]


@pytest.mark.slow
def test_crystals_are_compared_in_processes_as_in_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crystals = random_crystals(12)
    found = match(crystals[:8], crystals[8:], progress=False)
    monkeypatch.setattr(Workers, "map", lambda self, items: map(self.function, items))
    assert match(crystals[:8], crystals[8:], progress=False) == found


def random_crystals(num: int) -> list[Structure]:
    """Perovskites and rock salts, distorted so much that some match each other and some do not."""
    rng = np.random.default_rng(0)
    structures = []
    for index in range(num):
        base = [ROCK_SALT.get_primitive_structure(), PEROVSKITE, CAESIUM_CHLORIDE][index % 3]
        strain = np.eye(3) + rng.normal(scale=0.08, size=(3, 3))
        coords = base.frac_coords + rng.normal(scale=0.07, size=base.frac_coords.shape)
        structure = Structure(base.lattice.matrix @ strain, base.species, coords)
        structures.append(structure * (2, 1, 1) if index % 4 == 0 else structure)
    return structures


def test_the_prescreen_changes_no_result_of_pymatgens_matcher() -> None:
    crystals = random_crystals(36)
    generated, known = crystals[:24], crystals[24:]
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    result = match(generated, known, progress=False)
    expected = [any(matcher.fit(k, g) for k in known) for g in generated]
    assert result.known == expected
    assert 0 < sum(expected) < len(expected)
    groups = components(generated, matcher.fit)
    assert sorted(map(sorted, groups)) == sorted(
        [i for i, first in enumerate(result.group) if first == group] for group in set(result.group)
    )
    assert 2 < len(groups) < len(generated)


def components(
    crystals: Sequence[Structure], fit: Callable[[Structure, Structure], bool]
) -> list[set[int]]:
    """Connected components by brute force: every pair in both directions, then all paths."""
    joined = np.array([[fit(one, other) for other in crystals] for one in crystals], dtype=int)
    joined |= joined.T | np.eye(len(crystals), dtype=int)
    reached = np.linalg.matrix_power(joined.astype(float), len(crystals)) > 0
    return [set(np.flatnonzero(row).tolist()) for row in np.unique(reached, axis=0)]


def test_a_chain_of_matches_is_one_crystal_in_every_order() -> None:
    # From rock salt (60 degrees) towards caesium chloride (90); angles may differ by 10.
    chain = [
        Structure(Lattice.rhombohedral(4.0, angle), ["Na", "Cl"], CAESIUM_CHLORIDE.frac_coords)
        for angle in (66.0, 75.0, 84.0)
    ]
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    pairs = itertools.combinations(range(3), 2)
    assert [matcher.fit(chain[i], chain[j]) for i, j in pairs] == [True, False, True]
    for order in itertools.permutations(chain):
        assert match(order, [], progress=False).group == [0, 0, 0]


@settings(max_examples=60)
@given(st.lists(st.floats(1.0, 9.0), min_size=1, max_size=12), st.randoms())
def test_groups_are_those_of_brute_force_in_any_order(
    places: list[float], random: random_numbers.Random
) -> None:
    # Crystals on a line, of which those match that are near; and not quite in both directions.
    def fit(reference: Structure, structure: Structure) -> bool:
        return -0.4 < structure.lattice.a - reference.lattice.a < 0.5

    crystals = [
        Structure(Lattice.tetragonal(a, 3.0), ["Na", "Cl"], CAESIUM_CHLORIDE.frac_coords)
        for a in places
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "fit", lambda _, *pair: fit(*pair))
        patch.setattr(matching, "reduce", lambda structure: structure)
        patch.setattr(Workers, "map", lambda self, items: map(self.function, items))
        group = match(crystals, [], progress=False).group
        shuffled = random.sample(crystals, len(crystals))
        count = len(set(match(shuffled, [], progress=False).group))
    expected = components(crystals, fit)
    assert {first: {i for i in range(len(group)) if group[i] == first} for first in group} == {
        min(members): members for members in expected
    }
    assert count == len(expected)


def test_a_failed_comparison_of_two_is_the_failure_of_both_unless_one_fails_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crystals = [CAESIUM_CHLORIDE, heavy(), CAESIUM_CHLORIDE]

    def refuse_heavy(_: StructureMatcher, reference: Structure, structure: Structure) -> bool:
        if max(reference.volume, structure.volume) > 79:
            raise ZeroDivisionError
        return True

    monkeypatch.setattr(comparing, "fit", refuse_heavy)
    for order in itertools.permutations(range(3)):
        result = match([crystals[i] for i in order], [], progress=False)
        assert [order[i] for i, first in enumerate(result.group) if first < 0] == [1]
    assert match(crystals[:2], [], progress=False).group == [-1, -1]


def test_the_nearest_known_crystal_is_that_of_pymatgens_displacements() -> None:
    crystals = random_crystals(30)
    generated, known = crystals[:9], crystals[9:]
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    result = match(generated, known, progress=False)
    several = 0
    for index, crystal in enumerate(generated):
        found = {
            place: displacement[0]
            for place, other in enumerate(known)
            if (displacement := matcher.get_rms_dist(other, crystal))
        }
        found = {place: value for place, value in found.items() if value < 0.1}
        several += len(found) > 1
        assert result.nearest[index] == min(found, key=found.__getitem__, default=-1)
    assert several > 3


def test_the_search_for_the_nearest_ends_at_one_that_is_hardly_displaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [stretched(PEROVSKITE, factor) for factor in (1.0, 1.1, 1.2)]
    # 0.05 and 0.005 of 2.3 A, the cube root of the volume per atom, in one of five atoms.
    for crystal, shift in zip(known, (0.05, 0.005, 0.0), strict=True):
        crystal.translate_sites([0], [shift * 2.3 * 5**0.5 / crystal.lattice.a, 0.0, 0.0])
    # Those of the most similar volume come first.
    assert match([PEROVSKITE], known, progress=False).nearest == [1]
    assert match([PEROVSKITE], known[::-1], progress=False).nearest == [1]
    monkeypatch.setattr(comparing, "_SAME_DISPLACEMENT", 0.0)
    assert match([PEROVSKITE], known, progress=False).nearest == [2]


def test_a_known_crystal_that_is_far_is_not_the_nearest() -> None:
    # One of five atoms moves by d sqrt(5), of which the mean of all is taken out: the rest is
    # d sqrt(1 - 1/5), in units of the cube root of the volume per atom.
    for displacement, nearest in ((0.11, [-1]), (0.09, [0])):
        moved = PEROVSKITE.copy()
        shift = displacement / np.sqrt(1 - 1 / 5) * np.sqrt(5) * np.cbrt(64 / 5)
        moved.translate_sites([0], [shift / 4.0, 0.0, 0.0])
        result = match([moved], [PEROVSKITE], progress=False)
        assert (result.known, result.nearest) == ([True], nearest)


def stretched(structure: Structure, factor: float) -> Structure:
    copy = structure.copy()
    copy.scale_lattice(structure.volume * factor)
    return copy


def test_a_stretched_crystal_of_the_training_set_shows_in_its_volume() -> None:
    distorted = PEROVSKITE.copy()
    distorted.translate_sites([0], [0.08, 0.0, 0.0])
    train = dataset([stretched(distorted, 1.5), PEROVSKITE, ROCK_SALT])
    factors = (1.0, 1.02, 1.04, 0.95)
    crystals = [stretched(PEROVSKITE * (1, 2, 1), factor) for factor in factors]
    result = diversity([None, *crystals, CAESIUM_CHLORIDE], train, progress=False)
    # The distorted one is the same to the matcher, but further away.
    np.testing.assert_allclose(result.volume_ratio, [np.nan, *factors, np.nan], rtol=1e-9)
    median = result.volume["median_ratio"]
    assert isinstance(median, SampleStatistic)
    assert median.value == pytest.approx(1.01)
    assert result.volume["denser"] == Rate(1, 4)
    assert result.volume["looser"] == Rate(1, 4)


def test_each_of_several_that_are_the_same_is_compared_with_its_own_training_crystal() -> None:
    distorted = PEROVSKITE.copy()
    distorted.translate_sites([0], [0.08, 0.0, 0.0])
    train = dataset([stretched(distorted, 1.5), PEROVSKITE])
    result = diversity([PEROVSKITE, stretched(distorted, 1.2)], train, progress=False)
    assert result.group.tolist() == [0, 0]
    np.testing.assert_allclose(result.volume_ratio, [1.0, 1.2 / 1.5], rtol=1e-9)


def test_a_data_set_gives_back_its_crystals() -> None:
    for original, restored in zip(
        [ROCK_SALT, PEROVSKITE], dataset_structures(dataset([ROCK_SALT, PEROVSKITE])), strict=True
    ):
        np.testing.assert_array_equal(restored.lattice.matrix, original.lattice.matrix)
        np.testing.assert_array_equal(restored.frac_coords, original.frac_coords)
        assert restored.atomic_numbers == original.atomic_numbers


def test_the_distance_of_shifted_properties_is_the_shift() -> None:
    values = np.random.default_rng(0).normal(size=30)
    structures = [ROCK_SALT] * 30
    result = distances(structures, values + 0.7, structures, values)
    assert result["property"].value == pytest.approx(0.7, rel=1e-9)
    assert result["density"].value == 0.0
    assert result["property"].sizes == (30, 30)


def test_the_interval_of_far_populations_is_that_of_the_difference_of_means() -> None:
    rng = np.random.default_rng(3)
    structures = [ROCK_SALT] * 60
    far, near = rng.normal(size=60) + 9, rng.normal(size=60)
    result = distances(structures, far, structures, near)
    distance = result["property"]
    assert distance.value is not None
    assert distance.interval is not None
    low, high = distance.interval
    assert low < distance.value < high
    # A percentile at 2.5 % of 1000 resamples has the standard error sqrt(0.025 * 0.975 / 1000) /
    # 0.058 = 0.085 standard deviations, which makes 3 % of the width; five times that.
    deviation = ((far.var() + near.var()) / 60) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_the_interval_of_a_zero_distance_begins_at_zero() -> None:
    values = np.random.default_rng(4).normal(size=40)
    distance = distances([ROCK_SALT] * 40, values, [ROCK_SALT] * 40, values)["property"]
    assert distance.value == 0.0
    assert distance.interval is not None
    # Over seeds the end is 0.25 with a standard deviation of 0.03.
    assert distance.interval[0] == 0.0 < distance.interval[1] < 0.5


def test_the_distance_of_densities_follows_the_cells_volume() -> None:
    expanded = ROCK_SALT.copy()
    expanded.scale_lattice(2 * ROCK_SALT.volume)
    values = np.zeros(3)
    result = distances([expanded] * 3, values, [ROCK_SALT] * 3, values)
    # 4 formula units of 58.44 g/mol in (5.64 A)^3; half of that after doubling the volume.
    density = 4 * 58.44 / (6.02214076e23 * (5.64e-8) ** 3)
    assert result["density"].value == pytest.approx(density / 2, rel=1e-4)


def test_the_distance_of_element_numbers_is_that_of_their_means_if_they_are_constant() -> None:
    values = np.zeros(2)
    result = distances([PEROVSKITE] * 2, values, [ROCK_SALT, CAESIUM_CHLORIDE], values)
    assert result["num_elements"].value == 1.0


def test_unpredicted_crystals_are_left_out_of_the_propertys_distance() -> None:
    with_gap = np.array([1.0, np.nan, 3.0])
    result = distances([ROCK_SALT] * 3, with_gap, [ROCK_SALT] * 2, np.array([1.0, 3.0]))
    assert result["property"].value == 0.0
    assert result["property"].sizes == (2, 2)


def test_without_valid_crystals_the_distances_are_unknown() -> None:
    result = distances([], np.array([]), [ROCK_SALT], np.array([1.0]))
    assert all(distance.value is None for distance in result.values())


def test_at_most_a_thousand_valid_crystals_are_drawn_none_twice() -> None:
    valid = np.random.default_rng(0).random(3000) < 0.6
    drawn = draw_valid(valid)
    assert len(drawn) == MAX_DRAWN == len(set(drawn.tolist()))
    assert valid[drawn].all()
    np.testing.assert_array_equal(draw_valid(valid), drawn)
    few = np.arange(50) % 2 == 0
    np.testing.assert_array_equal(draw_valid(few), np.arange(0, 50, 2))


def test_all_pairs_of_disguises_match_each_other() -> None:
    copies = disguises(PEROVSKITE)
    for first, second in itertools.combinations(copies, 2):
        assert match([first], [second], progress=False).known == [True]
