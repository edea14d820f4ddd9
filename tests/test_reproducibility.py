"""studies/reproducibility.py: rates that agree and rates that do not."""

from typing import Any

import pytest
from scipy import stats

from studies.reproducibility import RATES, comparison, p_value


@pytest.mark.parametrize("counts", [[3, 9], [0, 7], [40, 33]])
def test_for_two_machines_it_is_fishers_exact_test(counts: list[int]) -> None:
    exact = stats.fisher_exact([counts, [40 - count for count in counts]]).pvalue
    # 9,999 random tables: five standard errors.
    assert p_value(counts, 40) == pytest.approx(exact, abs=5 * 0.5 / 9999**0.5)


@pytest.mark.parametrize("count", [0, 40])
def test_equal_counts_agree(count: int) -> None:
    assert p_value([count] * 3, 40) == 1.0


def test_counts_that_differ_too_much_do_not_agree() -> None:
    # Of 9,999 random tables none, and the one observed.
    assert p_value([5, 20, 35], 40) == pytest.approx(1e-4)


def file_of(count: int, species: dict[str, list[int]]) -> dict[str, Any]:
    row = {"num": 4, "written": 4, **dict.fromkeys(RATES, count), "species": species}
    machine = {"python": "3.11.7", "jax": "0.10.1", "instructions": "AVX2", "cores": 2}
    return machine | {"models": {"perov5_cds": row}}


def test_the_table_counts_crystals_of_the_same_species() -> None:
    first = file_of(4, {"0": [8, 22, 56], "1": [8, 20, 22]})
    second = file_of(3, {"0": [8, 22, 56], "1": [8, 22, 38], "2": [8]})
    table = comparison([first, second])
    assert "| perov5_cds | SR5 | 4/4 | 3/4 | 1.00 |" in table
    assert "| perov5_cds | same species | 2/4 | 1/4 |  |" in table
