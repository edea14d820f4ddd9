"""evaluation/intervals.py, success_rate.py and validity.py."""

import math

import numpy as np
import pytest
from pymatgen.core import Composition, Element, Lattice, Structure
from smact.screening import smact_validity

from crystal_diffusion_jax.evaluation import intervals
from crystal_diffusion_jax.evaluation.intervals import Rate, bootstrap, rate
from crystal_diffusion_jax.evaluation.success_rate import success_rates
from crystal_diffusion_jax.evaluation.validity import composition_defect, structural_defect
from crystal_diffusion_jax.structures.compositions import reduced_composition

THRESHOLDS = (0.4, 0.6, 0.7)
Z_95 = 1.959963984540054  # 97.5th percentile of the standard normal


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (151, 200), (1, 1)])
def test_intervals_are_wilsons(k: int, n: int) -> None:
    p, z2 = k / n, Z_95**2
    centre = p + z2 / (2 * n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    expected = [(centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)]
    interval = Rate(k, n).interval
    assert interval is not None
    np.testing.assert_allclose(interval, np.clip(expected, 0, 1), atol=1e-12)


def test_a_rate_of_nothing_has_no_value() -> None:
    assert Rate(0, 0).value is None
    assert Rate(0, 0).interval is None


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_central_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A percentile at 2.5 % of 10,000 resamples has the standard error sqrt(0.025 * 0.975 / 1e4) /
    # 0.058 = 0.027 standard deviations, which is 1.4 % of half the interval; five times that.
    monkeypatch.setattr(intervals, "_NUM_RESAMPLES", 10_000)
    sample = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    estimate = bootstrap(np.mean, sample)
    half = Z_95 * sample.std() / math.sqrt(len(sample))
    assert estimate.value == pytest.approx(sample.mean())
    assert estimate.interval is not None
    low, high = estimate.interval
    assert low == pytest.approx(sample.mean() - half, abs=0.07 * half)
    assert high == pytest.approx(sample.mean() + half, abs=0.07 * half)
    assert bootstrap(np.mean, sample) == estimate


def test_the_interval_of_a_median_lies_within_the_values() -> None:
    # Nearly half of the values are small, the others large: the median may be any of them.
    estimate = bootstrap(np.median, np.append(np.full(21, 0.01), np.full(20, 1.0)))
    assert (estimate.value, estimate.interval) == (0.01, (0.01, 1.0))


def test_too_small_samples_have_no_interval() -> None:
    assert bootstrap(np.mean, np.array([])).value is None
    single = bootstrap(np.mean, np.array([2.0]))
    assert (single.value, single.interval) == (2.0, None)


def count_by_hand(values: list[float], valid: list[bool], threshold: float) -> tuple[int, ...]:
    """k of single, single_valid and best_of_10, crystal by crystal."""
    single = single_valid = best = 0
    for value, is_valid in zip(values, valid, strict=True):
        if not math.isnan(value) and value <= threshold:
            single += 1
            single_valid += is_valid
    for start in range(0, len(values) - 9, 10):
        reached = False
        for index in range(start, start + 10):
            if valid[index] and not math.isnan(values[index]) and values[index] <= threshold:
                reached = True
        best += reached
    return single, single_valid, best


@pytest.mark.parametrize("num", [0, 7, 10, 230, 235])
def test_success_rates_are_those_counted_by_hand(num: int) -> None:
    rng = np.random.default_rng(num)
    values = rng.uniform(0.35, 4.0, size=num)
    values[rng.random(num) < 0.1] = np.nan
    valid = rng.random(num) < 0.7
    rates = success_rates(values, valid, THRESHOLDS)
    for name, threshold in zip(("SR5", "SR10", "SR15"), THRESHOLDS, strict=True):
        single, single_valid, best = count_by_hand(values.tolist(), valid.tolist(), threshold)
        assert rates["single"][name] == Rate(single, num)
        assert rates["single_valid"][name] == Rate(single_valid, num)
        assert rates["best_of_10"][name] == Rate(best, num // 10)


def test_a_value_at_the_threshold_reaches_it() -> None:
    rates = success_rates(np.array([0.4] * 10), np.ones(10, dtype=bool), THRESHOLDS)
    assert {reading: by_name["SR5"].value for reading, by_name in rates.items()} == {
        "single": 1.0, "single_valid": 1.0, "best_of_10": 1.0
    }  # fmt: skip


def test_invalid_and_unpredicted_crystals_stay_in_the_denominator() -> None:
    values = np.array([0.1, np.nan, 0.1, 9.0])
    rates = success_rates(values, np.array([True, True, False, True]), THRESHOLDS)
    assert rates["single"]["SR5"] == Rate(2, 4)
    assert rates["single_valid"]["SR5"] == Rate(1, 4)


def test_one_good_valid_crystal_saves_its_group_of_ten() -> None:
    values = np.full(20, 5.0)
    values[[3, 14]] = 0.1
    valid = np.ones(20, dtype=bool)
    valid[14] = False
    assert success_rates(values, valid, THRESHOLDS)["best_of_10"]["SR5"] == Rate(1, 2)


@pytest.mark.parametrize(("distance", "is_valid"), [(0.49, False), (0.51, True)])
def test_a_structure_needs_half_an_angstrom_between_atoms(distance: float, is_valid: bool) -> None:
    across_the_border = [[0.0, 0.0, 0.0], [0.0, 0.0, 1 - distance / 4.0]]
    structure = Structure(Lattice.cubic(4.0), ["Na", "Cl"], across_the_border)
    assert (structural_defect(structure) is None) is is_valid


def test_distances_of_an_atom_to_its_own_images_do_not_count() -> None:
    needle = Structure(Lattice.orthorhombic(0.4, 5, 5), ["Fe"], [[0, 0, 0]])
    assert structural_defect(needle) is None


def test_a_cell_below_a_tenth_of_a_cubic_angstrom_is_invalid() -> None:
    assert structural_defect(Structure(Lattice.cubic(0.46), ["Fe"], [[0, 0, 0]])) is not None
    assert structural_defect(Structure(Lattice.cubic(0.47), ["Fe"], [[0, 0, 0]])) is None


def composition(formula: str) -> tuple[tuple[int, int], ...]:
    amounts = Composition(formula).get_el_amt_dict()
    numbers = [Element(e).Z for e, amount in amounts.items() for _ in range(int(amount))]
    return reduced_composition(tuple(numbers))


def test_reduced_compositions_know_neither_order_nor_cell_size() -> None:
    assert composition("Ba2Ti2O6") == ((8, 3), (22, 1), (56, 1))
    assert reduced_composition((8, 56, 8, 22, 8)) == composition("BaTiO3")


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("NaCl", None),
        ("BaTiO3", None),
        ("Fe3O4", "no neutral"),  # mixed valence is beyond the rule
        ("NaCl2", "no neutral"),
        ("C", None),  # one element
        ("He", None),
        ("Ni3Al", None),  # all metals
        ("NaHe", "without oxidation states"),
        ("RfO2", "unknown to SMACT"),
        ("PmCl3", None),  # no electronegativity of Pm in the tables: counts as a pass
    ],
)
def test_composition_validity_follows_the_rule(formula: str, reason: str | None) -> None:
    defect = composition_defect(composition(formula))
    assert defect == reason if reason is None else reason in (defect or "")


def test_composition_validity_agrees_with_smacts_own_implementation() -> None:
    rng = np.random.default_rng(0)
    # Without iridium and those of unknown electronegativity, where SMACT 4 differs from 2.2.1.
    pool = [z for z in range(1, 95) if z not in (2, 10, 18, 61, 77, 86)]
    verdicts = []
    for _ in range(150):
        elements = rng.choice(pool, size=rng.integers(2, 4), replace=False)
        numbers = np.repeat(elements, rng.integers(1, 5, size=len(elements)))
        formula = "".join(Element.from_Z(int(z)).symbol for z in numbers)
        expected = smact_validity(Composition(formula), oxidation_states_set="smact14")
        assert (composition_defect(reduced_composition(numbers)) is None) is expected, formula
        verdicts.append(expected)
    assert 20 < sum(verdicts) < 130  # both verdicts occur


def test_a_composition_of_very_many_elements_is_checked_at_once() -> None:
    defect = composition_defect(reduced_composition(np.arange(20, 60)))
    assert defect is None or "too many" in defect


def test_a_share_is_counted() -> None:
    assert rate(np.array([True, False, True])) == Rate(2, 3)
