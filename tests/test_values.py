"""data/values.py: what property columns hold, and which cells are refused."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystal_diffusion_jax.data.values import MAX_CLASSES, MISSING, Column, columns_of
from crystal_diffusion_jax.errors import UserError


def column(*cells: str) -> Column:
    rows: list[dict[str | None, str | None]] = [{"x": cell} for cell in cells]
    return columns_of(rows, ["x"])[0]


def values(*cells: str) -> list[float]:
    kind = column(*cells)
    return [kind.value(cell) for cell in cells]


@given(st.lists(st.floats(-1e30, 1e30) | st.sampled_from(sorted(MISSING)), min_size=1))
def test_numbers_come_back_exactly_and_missing_cells_as_nan(cells: list[float | str]) -> None:
    expected = [math.nan if isinstance(cell, str) else cell for cell in cells]
    np.testing.assert_array_equal(values(*map(str, cells)), expected)
    np.testing.assert_array_equal(values(*(f" {cell}\t".upper() for cell in cells)), expected)


def test_true_and_false_are_one_and_zero_in_any_case() -> None:
    np.testing.assert_array_equal(
        values("True", "FALSE", "", "true", "fAlSe"), [1, 0, np.nan, 1, 0]
    )
    assert values("true", "True") == [1, 1]  # also where no crystal has the other
    assert column("true").class_names == ("False", "True")


def test_other_names_are_classes_in_alphabetical_order() -> None:
    kind = column("metal", "semiconductor", "-", "insulator", "metal")
    assert kind.class_names == ("insulator", "metal", "semiconductor")
    assert values("yes", "no", "yes") == [1, 0, 1]
    np.testing.assert_array_equal(values("B", "a", "None", "c"), [1, 0, np.nan, 2])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1))
def test_the_number_of_a_class_is_its_place_among_the_names(cells: list[str]) -> None:
    kind = column(*cells)
    assert [kind.class_names[int(kind.value(cell))] for cell in cells] == cells
    assert set(kind.class_names) == set(cells)


@pytest.mark.parametrize(
    "text", ["1.2 eV", ">5", "<0.1", "1,5", "~3", "5(2)", "1_000", "2D", "0x10", "1/2", "$5"]
)
def test_what_is_neither_a_number_nor_a_name_is_refused_in_any_column(text: str) -> None:
    for others in ([], ["1.0", "2.0"], ["metal", "insulator"], ["True", "False"]):
        kind = column(*others, text)
        with pytest.raises(ValueError, match="x is ") as caught:
            kind.value(text)
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("others", "text", "message"),
    [
        (["1", "2"], "low", "not a number: 'low'"),
        (["1", "2"], "True", "not a number: 'True'"),
        (["True", "False"], "1", "'1' where most rows hold True or False"),
        (["metal", "metal"], "3.5", "'3.5' where most rows hold names"),
        (["1", "2"], "inf", "not finite: 'inf'"),
        (["1", "2"], "-Infinity", "not finite"),
        (["1", "2"], "1e31", "beyond 1e[+]30"),
    ],
)
def test_a_column_is_what_most_of_its_cells_are(others: list[str], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        column(*others, text).value(text)


def test_a_row_that_ends_early_is_no_missing_value() -> None:
    with pytest.raises(ValueError, match="the row ends before x"):
        Column("x").value(None)


def test_texts_that_are_no_classes_are_refused() -> None:
    names = [f"formula{number}" for number in range(MAX_CLASSES + 1)]
    with pytest.raises(UserError, match="'x' holds more than 100 different texts"):
        column(*names)
    assert len(column(*names[:-1]).class_names) == MAX_CLASSES
    with pytest.raises(UserError, match="both 'Metal' and 'metal'"):
        column("Metal", "metal")


def test_columns_do_not_mix() -> None:
    rows: Any = [{"a": "1", "b": "x", "other": "True"}, {"a": "", "b": "y", "other": "?"}]
    assert columns_of(rows, ["b", "a"]) == [Column("b", ("x", "y")), Column("a")]
