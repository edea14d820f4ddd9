"""evaluation/controls.py: training crystals, substitutions in them and test crystals."""

import dataclasses

import numpy as np
import pytest
from pymatgen.core import Composition, Element

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.evaluation.controls import control_sets, exchanged, substitutions
from crystal_diffusion_jax.structures.compositions import reduced_composition
from tests.test_evaluation_report import SPEC, dataset, perovskite

# (A, B, label); the threshold of SR5 is 0.439.
CRYSTALS = [
    ("Ba", "Ti", 0.1),
    ("Sr", "Ti", 0.4),
    ("Ca", "Zr", 0.43),
    ("Mg", "Hf", 0.44),
    ("La", "Sc", 2.0),
    ("K", "Nb", 3.0),
]


def labelled(crystals: list[tuple[str, str, float]]) -> CrystalDataset:
    made = dataset([perovskite(a, b) for a, b, _ in crystals])
    return dataclasses.replace(made, properties=np.array([[label] for _, _, label in crystals]))


TRAIN = labelled(CRYSTALS)
TEST = labelled([("Pb", "Ti", 1.0), ("Ba", "Zr", 0.2), ("Sr", "Sn", 2.0)])


def numbers(formula: str) -> list[int]:
    counts = Composition(formula).get_el_amt_dict()
    return [Element(symbol).Z for symbol, n in counts.items() for _ in range(int(n))]


def symbols(pairs: list[tuple[int, int]]) -> set[tuple[str, str]]:
    return {(Element.from_Z(old).symbol, Element.from_Z(new).symbol) for old, new in pairs}


def test_substitutions_are_of_one_group_and_of_cations_to_compositions_that_are_new() -> None:
    elements = [Element(symbol).Z for symbol in ("O", "S", "Mg", "Ca", "Sr", "Ba", "Ti", "Zr")]
    known = {reduced_composition(numbers("CaTiO3")), reduced_composition(numbers("Ba2Zr2O6"))}
    found = symbols(substitutions(numbers("BaTiO3"), elements, known))
    assert found == {("Ba", "Mg"), ("Ba", "Sr")}
    # The same with two cells of it.
    assert symbols(substitutions(numbers("Ba2Ti2O6"), elements, known)) == found


@pytest.mark.parametrize(
    ("formula", "pairs"),
    [
        ("LaF3", {("La", "Y"), ("La", "U")}),  # the third group has the f block
        ("LiH", set()),  # neither Li to H nor the other way; Na is not among the elements
        ("NaH", {("Na", "Li")}),
        ("LiYF4", {("Y", "La"), ("Y", "U")}),
        ("YLaF6", {("Y", "U"), ("La", "U")}),  # not one into the other
        ("La", set()),
        ("XeF2", set()),  # the noble gas that is alone in its group here
    ],
)
def test_which_element_may_become_which(formula: str, pairs: set[tuple[str, str]]) -> None:
    elements = [Element(symbol).Z for symbol in ("H", "Li", "F", "Cl", "Y", "Xe", "La", "U")]
    assert symbols(substitutions(numbers(formula), elements, ())) == pairs


def test_an_exchange_keeps_cell_and_sites() -> None:
    crystal = perovskite("Ba")
    other = exchanged(crystal, Element("Ba").Z, Element("Sr").Z)
    assert [site.specie.symbol for site in other] == ["Sr", "Ti", "O", "O", "O"]
    np.testing.assert_array_equal(other.lattice.matrix, crystal.lattice.matrix)
    np.testing.assert_array_equal(other.frac_coords, crystal.frac_coords)
    assert crystal.atomic_numbers[0] == 56


def test_controls_are_band_new_compositions_of_it_and_test_crystals() -> None:
    sets = control_sets(SPEC, TRAIN, TEST, 100)
    band = {reduced_composition(numbers(f)) for f in ("BaTiO3", "SrTiO3", "CaZrO3")}
    train = {reduced_composition(numbers(f"{a}{b}O3")) for a, b, _ in CRYSTALS}
    test = {reduced_composition(numbers(f)) for f in ("PbTiO3", "BaZrO3", "SrSnO3")}
    found = {
        name: [reduced_composition(crystal.atomic_numbers) for crystal in crystals]
        for name, crystals in sets.items()
    }
    assert list(found) == ["training_band", "substituted", "held_out"]
    assert set(found["training_band"]) == band
    assert set(found["held_out"]) == test
    assert len(found["substituted"]) == 3
    for composition in found["substituted"]:
        assert composition not in train
        assert any(len(set(composition) - set(parent)) == 1 for parent in band)


@pytest.mark.parametrize("num", [1, 2])
def test_no_more_crystals_than_asked_for_and_always_the_same(num: int) -> None:
    first, second = (control_sets(SPEC, TRAIN, TEST, num) for _ in range(2))
    assert {name: len(crystals) for name, crystals in first.items()} == dict.fromkeys(
        ("training_band", "substituted", "held_out"), num
    )
    assert first == second


def test_crystals_of_one_element_have_no_substitutions() -> None:
    carbon = dataset([exchanged(perovskite("Ba"), 56, 8)])
    alone = dataclasses.replace(carbon, atomic_numbers=np.full(5, 6))
    sets = control_sets(SPEC, alone, alone, 10)
    assert list(sets) == ["training_band", "held_out"]


def test_without_a_crystal_in_the_band_only_held_out_ones_remain() -> None:
    far = dataclasses.replace(TRAIN, properties=TRAIN.properties + 1.0)
    assert list(control_sets(SPEC, far, TEST, 10)) == ["held_out"]
