"""Cells that can be neutral, against all assignments of oxidation states."""

import itertools
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.conditions import crystal_sizes
from crystal_diffusion_jax.sampling.neutrality import (
    can_be_neutral,
    number_of_compositions,
    sizes_that_balance,
    system_compositions,
)
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.compositions import SYMBOLS, common_oxidation_states
from tests.knowing_model import SIZES, knowing

SYSTEMS = [
    ((-2,), (4,)),
    ((-2,), (1,), (2, 4, 7)),
    ((-3, 3, 5), (1,)),
    ((0,), (2,)),
    ((1,), (2, 3)),
    ((-1, 5), (-2, 6), (2,), (1, 3)),
    ((-4, 4),),
]


def sums(states, count):
    """All sums of the states of some atoms of one element."""
    return {sum(one) for one in itertools.combinations_with_replacement(states, count)}


def can_balance(states, counts):
    each = [sums(of_one, count) for of_one, count in zip(states, counts, strict=True)]
    return len(states) == 1 or any(sum(parts) == 0 for parts in itertools.product(*each))


def all_counts(k, size, least):
    return [
        counts
        for counts in itertools.product(range(least, size + 1), repeat=k)
        if sum(counts) == size
    ]


@pytest.mark.parametrize("states", SYSTEMS)
@pytest.mark.parametrize("each", [True, False])
def test_sizes_are_those_of_which_some_assignment_adds_up_to_zero(states, each):
    wanted = [
        size
        for size in (1, 2, 3, 5, 6, 7)
        if any(
            len(states) == 1 or can_balance(states, counts)
            for counts in all_counts(len(states), size, int(each))
        )
    ]
    assert sizes_that_balance(states, [1, 2, 3, 5, 6, 7], each) == wanted


@pytest.mark.parametrize("states", SYSTEMS)
def test_compositions_are_all_with_each_element_and_neutral_if_an_assignment_is(states):
    sizes = (2, 4, 5, 7)
    counts, neutral = system_compositions(states, sizes)
    wanted = {
        each: can_balance(states, each)
        for size in sizes
        for each in all_counts(len(states), size, 1)
    }
    assert dict(zip(map(tuple, counts.tolist()), neutral.tolist(), strict=True)) == wanted
    assert len(counts) == len(wanted) == number_of_compositions(len(states), sizes)


def test_atoms_of_one_element_need_not_share_a_state():
    iron_oxide = common_oxidation_states([SYMBOLS.index("O"), SYMBOLS.index("Fe")])
    counts, neutral = system_compositions(iron_oxide, (2, 5, 7, 8))
    found = sorted(map(tuple, counts[neutral].tolist()))
    assert found == [(1, 1), (3, 2), (4, 3), (4, 4)]  # FeO, Fe2O3, Fe3O4, four FeO


def test_a_cell_is_neutral_if_an_assignment_is():
    elements = [SYMBOLS.index(symbol) for symbol in ("Li", "O", "Fe")]
    found = set()
    for counts in itertools.product(range(5), repeat=3):
        present = [(z, n) for z, n in zip(elements, counts, strict=True) if n]
        if not present:
            continue
        states = common_oxidation_states([z for z, _ in present])
        wanted = can_balance(states, [n for _, n in present])
        atoms = np.random.default_rng(0).permutation(np.repeat(elements, counts))
        assert can_be_neutral(atoms) == wanted, counts
        found.add(wanted)
    assert found == {True, False}


def test_four_elements_in_twenty_atoms_are_enumerated():
    numbers = [SYMBOLS.index(symbol) for symbol in ("Li", "O", "P", "Fe")]
    counts, neutral = system_compositions(common_oxidation_states(numbers), tuple(range(4, 21)))
    assert len(counts) == 4845
    assert 0 < neutral.sum() < 4845


@pytest.fixture
def model(tiny_model):
    """With cells of 2 to 20 atoms."""
    return knowing(tiny_model)


def test_sizes_that_cannot_be_neutral_are_not_drawn(model):
    request = resolve(model, "m", num=4000, elements="Ti,O", charge_balance=True)
    sizes = crystal_sizes(request, model)
    possible = np.array([3, 6, 9, 12, 15, 18])
    assert set(sizes.tolist()) == set(possible.tolist())
    # In the same proportions as in the training data, 3 : 6 : 9 and so on.
    shares = possible / possible.sum()
    found = np.mean(sizes[:, None] == possible, axis=0)
    assert (abs(found - shares) < 5 * np.sqrt(shares * (1 - shares) / 4000)).all()
    assert warnings(request, model) == []
    few = resolve(model, "m", num=10, elements="Ti,O", charge_balance=True)
    np.testing.assert_array_equal(crystal_sizes(few, model), sizes[:10])


@pytest.mark.parametrize("elements", [None, "S,Fe", "Fe,Ni", "Ge"])
def test_draws_stay_as_they_are_where_all_sizes_or_none_can_be_neutral(model, elements):
    with_balance, without = (
        crystal_sizes(resolve(model, "m", num=50, elements=elements, charge_balance=balance), model)
        for balance in (True, False)
    )
    np.testing.assert_array_equal(with_balance, without)


def test_a_size_that_cannot_be_neutral_is_refused_with_those_that_can(model):
    asked: dict[str, Any] = {"num": 1, "elements": "Ti,O", "charge_balance": True}
    with pytest.raises(UserError, match=r"--num_atoms=4: .* O, Ti .* one of 3, 6, 9, 12, 15, 18"):
        resolve(model, "m", num_atoms=4, **asked)
    assert crystal_sizes(resolve(model, "m", num_atoms=6, **asked), model).tolist() == [6]
    with pytest.raises(UserError, match="trained on 2 to 20 atoms"):
        resolve(model, "m", num_atoms=10**9, **asked)
    # Where no cell can be, that is a warning, whatever its size.
    asked["elements"] = "Fe,Ni"
    request = resolve(model, "m", num_atoms=4, **asked)
    assert len(warnings(request, model)) == 1


def test_elements_that_can_only_be_neutral_in_other_sizes_are_warned_of(tiny_model):
    model = knowing(tiny_model, sizes=((5, 10),))
    request = resolve(model, "m", num=2, elements="Ti,O", charge_balance=True)
    (warning,) = warnings(request, model)
    assert warning.startswith("--charge_balance has no effect")
    assert crystal_sizes(request, model).tolist() == [5, 5]


def test_balanced_sizes_of_a_property_fall_back_on_those_of_all(tiny_model):
    # Crystals with a low property all have 4 atoms, with which titanium oxides are not neutral.
    counts = tuple(count for _, count in SIZES)
    rows = [[10 * (size == 4) for size, _ in SIZES]] + 19 * [counts]
    model = knowing(tiny_model, by_property=rows)
    asked: dict[str, Any] = {"num": 300, "target": "min", "elements": "Ti,O"}
    assert set(crystal_sizes(resolve(model, "m", **asked), model)) == {4}
    balanced = crystal_sizes(resolve(model, "m", charge_balance=True, **asked), model)
    assert set(balanced.tolist()) == {3, 6, 9, 12, 15, 18}
