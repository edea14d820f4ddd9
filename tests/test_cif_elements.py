"""structures/cif_elements.py: an element is told, never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Element

from tests.cif_cells import parse_cif
from tests.cif_texts import atoms, cell
from tests.test_cif_reader import assert_refused, contents

SYMBOLS = sorted(element.symbol for element in Element if element.Z <= 96)
CHARGES = ["", "+", "-", "3+", "2-", "+3", "-2", "1.5+", "++", "(III)", "0+"]


def of_type(symbol: str) -> str:
    quoted = f"'{symbol}'" if symbol else "."
    return "data_x\n" + cell(5) + atoms(f"M1 {quoted} 0 0 0")


def of_label(label: str, more: str = "") -> str:
    return "data_x\n" + more + cell(5) + atoms(f'"{label}" 0 0 0', label_only=True)


@given(st.sampled_from(SYMBOLS), st.sampled_from(CHARGES), st.sampled_from([str, str.upper]))
def test_a_type_symbol_is_its_element_in_any_case_with_any_charge(symbol, charge, case) -> None:
    (site,) = parse_cif(of_type(case(symbol) + charge))
    assert site.specie.Z == Element(symbol).Z


@given(st.sampled_from(SYMBOLS), st.sampled_from(["", "1", "12", "1A", "(1)", "_1", "1'", "2-"]))
def test_a_label_in_proper_case_is_its_element_or_leaves_doubt(symbol: str, rest: str) -> None:
    text = of_label(symbol + rest)
    if symbol == "W":  # of water
        assert_refused(text, "unknown element: the label")
        text = of_label(symbol + rest, f"_chemical_formula_sum {symbol}\n")
    (site,) = parse_cif(text)
    assert site.specie.symbol == symbol


@given(st.lists(st.sampled_from(SYMBOLS), min_size=2, max_size=3, unique=True), st.data())
def test_several_elements_on_a_site_are_disorder(symbols: list[str], data: st.DataObject) -> None:
    separator = data.draw(st.sampled_from([",", "/", "+", " + ", ", ", "|", " & "]))
    amount = data.draw(st.sampled_from(["", "0.5"]))
    mixture = separator.join(amount + symbol for symbol in symbols)
    for name in (mixture, f"({mixture})"):
        assert_refused(of_type(name), f"disorder: several elements on one site, '{name}'")
        assert_refused(of_label(name), f"disorder: several elements on one site, '{name}'")


@pytest.mark.parametrize(
    "mixture",
    ["FeNi", "Fe0.5Ni0.5", "La3+,Sr2+", "Fe,Va", "Fe:0.5 Ni:0.5", "Fe 0.5 Ni 0.5", "Nb;Zr"],
)
def test_other_spellings_of_mixtures_are_disorder(mixture: str) -> None:
    assert_refused(of_type(mixture), "disorder")


@pytest.mark.parametrize("label", ["(Nb,Zr)1", "Fe/Ni", "Fe1,Ni1", "Fe0.5Ni0.5", "Nb.5 Zr.5"])
def test_a_label_of_a_mixture_counts_although_the_type_symbol_names_one_element(label: str) -> None:
    text = "data_x\n" + cell(5) + atoms(f"'{label}' Fe 0 0 0")
    assert_refused(text, "disorder")


@pytest.mark.parametrize("symbol", ["OH", "OH2", "NH4", "Wat", "Va", "Vac", "X", "M", "Sx"])
def test_groups_of_atoms_and_vacancies_are_no_elements(symbol: str) -> None:
    assert_refused(of_type(symbol), f"unknown element: '{symbol}'")


@pytest.mark.parametrize(
    ("label", "element"),
    [("OW1", "O"), ("CA1", "Ca"), ("HG1", "Hg"), ("CaM2", "Ca"), ("FE1", "Fe"), ("T1", None),
     ("Wat", None), ("W1", None)],
)  # fmt: skip
def test_the_formula_tells_what_a_label_leaves_open(label: str, element: str | None) -> None:
    assert_refused(of_label(label), f"unknown element: the label '{label}' does not tell it")
    for more in ("_chemical_formula_sum {}\n", "loop_\n_atom_type_symbol\n{}\n"):
        text = of_label(label, more.format(element or "O"))
        if element is None:
            assert_refused(text, f"unknown element: the label '{label}' does not tell it")
        else:
            assert contents(text) == {element: 1}


def test_a_label_serves_where_the_type_symbol_is_unknown() -> None:
    text = "data_x\n" + cell(4) + atoms("Cs1 . 0 0 0", "X1 Cl 0.5 0.5 0.5")
    assert contents(text) == {"Cs": 1, "Cl": 1}


def test_deuterium_is_hydrogen() -> None:
    assert [site.specie.Z for site in parse_cif(of_type("D"))] == [1]
    assert [site.specie.Z for site in parse_cif(of_label("D1"))] == [1]
