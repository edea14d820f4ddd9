"""structures/cif_orbits.py: the digits of a special position do not make more atoms of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystal_diffusion_jax.structures.cif_numbers import number
from tests.cif_cells import parse_cif
from tests.cif_texts import HEXAGONAL, atoms, cell, group
from tests.space_group_crystals import cif_of, crystal_of, kind_of
from tests.test_cif_reader import assert_refused


def written(value: float, digits: int, cut: bool) -> str:
    """A number with some decimals, rounded or cut off."""
    scale = 10**digits
    return f"{math.floor(value * scale + (1e-9 if cut else 0.5)) / scale:.{digits}f}"


@given(st.integers(2, 8), st.booleans(), st.sampled_from([0.25, 0.75]))
def test_thirds_with_any_digits_are_thirds(digits: int, cut: bool, z: float) -> None:
    row = f"Mg1 Mg {written(1 / 3, digits, cut)} {written(2 / 3, digits, cut)} {z}"
    head = "data_x\n" + cell(3.209, c=5.211, **HEXAGONAL) + group("P 63/m m c")
    structure = parse_cif(head + atoms(row))
    assert len(structure) == 2
    np.testing.assert_allclose(np.sort(structure.frac_coords[:, 0]), [1 / 3, 2 / 3], atol=1e-9)


@given(st.integers(1, 530), st.integers(3, 8))
def test_a_crystal_of_few_digits_has_all_its_atoms_near_their_places(
    hall_number: int, digits: int
) -> None:
    crystal = crystal_of(hall_number)
    hall = f"_space_group_name_Hall '{kind_of(hall_number).hall}'\n"
    structure = parse_cif(cif_of(crystal, hall, digits))
    for element, images in zip(("Si", "O"), crystal.images, strict=False):
        read = np.array([site.frac_coords for site in structure if site.specie.symbol == element])
        assert len(read) == len(images)
        difference = read[:, None] - images
        difference = np.abs(difference - np.round(difference)).max(axis=-1)
        # A rotation adds up to two coordinates.
        assert difference.min(axis=1).max() <= 2 * 10.0**-digits


@given(st.floats(0.006, 0.05))
def test_an_atom_near_a_mirror_but_not_on_it_is_refused(x: float) -> None:
    text = "data_x\n" + cell(4) + group("P m m m") + atoms(f"Po1 Po {x:.5f} 0 0")
    assert_refused(text, "its coordinates lie near a special position")


@given(st.floats(0.07, 0.43))
def test_an_atom_far_from_a_mirror_has_an_image(x: float) -> None:
    text = "data_x\n" + cell(4) + group("P m m m") + atoms(f"Po1 Po {x:.5f} 0 0")
    assert sorted(parse_cif(text).frac_coords[:, 0]) == pytest.approx(
        [round(x, 5), 1 - round(x, 5)]
    )


def test_one_decimal_is_exact() -> None:
    # 0.3 is no third, and with its image at 0.2 not the mirror's 1/4 either.
    text = "data_x\n" + cell(4, 6, 20) + group("P 1 1 2/m") + atoms("Po1 Po 0.3 0.3 0.3")
    assert len(parse_cif(text)) == 4


@given(st.floats(-1e6, 1e6), st.integers(0, 12))
def test_a_number_is_read_with_the_unit_of_its_last_digit(value: float, digits: int) -> None:
    text = f"{value:.{digits}f}"
    for form in (text, f"{text}(12)", f"{text}e0"):
        read = number(form)
        assert read is not None
        assert read.value == float(text)
        assert read.unit == pytest.approx(10.0**-digits)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("1/3", 1 / 3, 0), ("-2/3", -2 / 3, 0), (".5", 0.5, 0.1), ("5.", 5, 1),
     ("1.2E-3", 0.0012, 1e-4), ("+0.25", 0.25, 0.01)],
)  # fmt: skip
def test_numbers_in_other_forms(text: str, value: float, unit: float) -> None:
    assert number(text) == pytest.approx((value, unit))


@pytest.mark.parametrize(
    "text", ["", ".", "?", "nan", "inf", "0,5", "1/0", "0x1", "1 2", "1.2.3", "x"]
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert number(text) is None
