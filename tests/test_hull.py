"""potentials/hull.py: energies above the hull against closed forms and pymatgen's phase diagram."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials import hull
from crystal_diffusion_jax.potentials.hull import AboveHull, Hull
from crystal_diffusion_jax.structures.compositions import SYMBOLS

LI, OX, NA, CL, TI, BA = 3, 8, 11, 17, 22, 56


def above(known: Hull, atomic_numbers: Sequence[int], energy: float) -> AboveHull:
    found = known.above(atomic_numbers, energy)
    assert found is not None
    return found


def random_phases(num: int, symbols: Sequence[str], seed: int) -> tuple[list[str], list[float]]:
    """Compounds with energies that make many of them stable, in reduced and other formulas."""
    rng = np.random.default_rng(seed)
    formulas: list[str] = []
    energies: list[float] = []
    while len(formulas) < num:
        counts = rng.integers(0, 5, len(symbols))
        if np.count_nonzero(counts) > 1:
            formulas.append("".join(f"{s}{n}" for s, n in zip(symbols, counts, strict=True) if n))
            share = counts / counts.sum()
            mixing = -sum(a * b for a, b in itertools.combinations(share, 2))
            energies.append(float(3 * mixing + rng.normal(0, 0.2)))
    return formulas, energies


def test_a_binary_hull_is_the_straight_line_between_its_neighbours():
    # Li3O at -1 and LiO (pymatgen writes Li2O2) at -0.8: Li2O, a third of oxygen, lies between them
    # with two thirds of its atoms in Li3O, a quarter of oxygen, and one third in LiO, a half.
    known = hull.from_formulas(["Li3O", "LiO"], [-1.0, -0.8])
    line = (2 * -1.0 + -0.8) / 3
    for energy in (line, line + 0.25, line - 0.5):
        found = above(known, [LI, LI, OX], energy)
        assert found.energy == pytest.approx(energy - line, abs=1e-12)
        assert found.decomposition == pytest.approx({"Li3O": 2 / 3, "Li2O2": 1 / 3})
        assert found.compounds_only
    # Li7O (an eighth of oxygen) lies between lithium at 0 and Li3O.
    found = above(known, [LI] * 7 + [OX], 0.0)
    assert found.energy == pytest.approx(0.5)
    assert found.decomposition == pytest.approx({"Li": 0.5, "Li3O": 0.5})
    assert not found.compounds_only


def test_a_phase_above_the_line_is_not_on_the_hull():
    known = hull.from_formulas(["Li3O", "LiO", "Li2O"], [-1.0, -0.8, -0.5])
    found = above(known, [LI, LI, OX], -0.5)
    assert found.energy == pytest.approx((2 * -1.0 + -0.8) / 3 * -1 - 0.5)
    assert "Li2O" not in found.decomposition


@pytest.mark.parametrize("symbols", [("Li", "O"), ("Ba", "Ti", "O"), ("Na", "Li", "Ti", "O", "Cl")])
def test_energies_are_those_of_pymatgens_phase_diagram(symbols):
    formulas, energies = random_phases(40, symbols, seed=len(symbols))
    known = hull.from_formulas(formulas, energies)
    entries = [PDEntry(Composition(s), 0.0) for s in symbols]
    for formula, energy in zip(formulas, energies, strict=True):
        composition = Composition(formula)
        entries.append(PDEntry(composition, energy * composition.num_atoms))
    diagram = PhaseDiagram(entries)
    asked, _ = random_phases(25, symbols, seed=99)
    for formula in [*asked, *formulas[:10], *symbols]:
        composition = Composition(formula)
        numbers = [e.Z for e, count in composition.items() for _ in range(int(count))]
        found = above(known, numbers, 0.125)
        expected = 0.125 - diagram.get_hull_energy_per_atom(composition)
        assert found.energy == pytest.approx(expected, abs=1e-7)
        products = {
            entry.composition.reduced_formula: share
            for entry, share in diagram.get_decomposition(composition).items()
        }
        assert found.decomposition == pytest.approx(products, abs=1e-6)


def test_the_products_have_the_composition_and_the_energy_of_the_hull():
    formulas, energies = random_phases(60, ("Ba", "Ti", "O", "Li"), seed=3)
    known = hull.from_formulas(formulas, energies)
    lowest: dict[str, float] = {}
    for formula, energy in zip(formulas, energies, strict=True):
        name = Composition(formula).reduced_formula
        lowest[name] = min(energy, lowest.get(name, math.inf))
    crystal = [BA, BA, TI, OX, OX, OX, LI]
    found = above(known, crystal, 0.0)
    assert sum(found.decomposition.values()) == pytest.approx(1)
    assert sum(
        share * lowest.get(name, 0.0) for name, share in found.decomposition.items()
    ) == pytest.approx(-found.energy)
    for number in set(crystal):
        parts = [
            share * Composition(name).get_atomic_fraction(SYMBOLS[number])
            for name, share in found.decomposition.items()
        ]
        assert sum(parts) == pytest.approx(crystal.count(number) / len(crystal))


def test_the_lowest_phase_of_a_formula_counts_however_it_is_written():
    known = hull.from_formulas(["NaCl", "Na2Cl2", "Cl4Na4"], [-2.0, -2.5, -2.25])
    found = above(known, [NA, CL], -2.4)
    assert found.energy == pytest.approx(0.1)
    assert found.decomposition == pytest.approx({"NaCl": 1})


def test_the_own_formula_can_be_left_out_and_nothing_else_is():
    known = hull.from_formulas(["NaCl", "Na2Cl2", "NaCl3"], [-2.0, -2.5, -1.2])
    found = known.above([NA, NA, CL, CL], -2.4, leave_out_own_formula=True)
    assert found is not None
    # NaCl3 with two thirds of the atoms holds all of the chlorine: 2/3 * 3/4 = 1/2.
    assert found.decomposition == pytest.approx({"NaCl3": 2 / 3, "Na": 1 / 3})
    assert found.energy == pytest.approx(-2.4 + 1.2 * 2 / 3)
    assert above(known, [NA, CL], -2.4).energy == pytest.approx(0.1)


def test_without_known_phases_a_crystal_competes_with_its_elements():
    known = hull.from_formulas(["NaCl"], [-2.0])
    found = above(known, [BA, TI, OX, OX, OX], -3.0)
    assert found.energy == pytest.approx(-3.0)
    assert found.decomposition == pytest.approx({"Ba": 0.2, "Ti": 0.2, "O2": 0.6})
    assert not found.compounds_only


def test_an_element_is_compared_with_its_lowest_phase_and_with_zero():
    known = hull.from_formulas(["Li", "Na"], [0.3, -0.1])
    assert above(known, [LI, LI], 0.2).energy == pytest.approx(0.2)
    assert above(known, [NA], 0.2).energy == pytest.approx(0.3)
    assert not above(known, [NA], 0.2).compounds_only
    left_out = known.above([NA], 0.2, leave_out_own_formula=True)
    assert left_out is not None
    assert left_out.energy == pytest.approx(0.2)


@pytest.mark.parametrize("energy", [math.nan, math.inf])
def test_an_unknown_energy_has_no_place_above_the_hull(energy):
    assert hull.from_formulas(["NaCl"], [-2.0]).above([NA, CL], energy) is None


def test_crystals_make_the_hull_of_their_formulas():
    formulas = hull.from_formulas(["Li2O", "LiO"], [-1.9, -1.5])
    crystals = hull.from_crystals([[LI] * 4 + [OX] * 2, [LI, OX]], np.array([-1.9, -1.5]))
    assert above(crystals, [LI, LI, LI, OX], -1.0) == above(formulas, [LI, LI, LI, OX], -1.0)


def test_a_formula_of_no_elements_is_named():
    with pytest.raises(UserError, match="'Xx2' is not a formula of elements"):
        hull.from_formulas(["NaCl", "Xx2"], [-2.0, -1.0])


def test_a_csv_gives_the_hull_of_its_rows(tmp_path: Path):
    path = tmp_path / "known.csv"
    path.write_text("source,formula,formation_energy_per_atom\nme,Li2O,-1.9\n\nme,LiO, -1.5\n")
    expected = above(hull.from_formulas(["Li2O", "LiO"], [-1.9, -1.5]), [LI, LI, LI, OX, OX], -1.0)
    assert above(hull.read_csv(path), [LI, LI, LI, OX, OX], -1.0) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Xx2,-1", "'Xx2' is not a formula of elements"),
        (",-1", "'' is not a formula of elements"),
        ("NaCl,", "'' is not a formation energy in eV/atom"),
        ("NaCl", "'' is not a formation energy in eV/atom"),
        ("NaCl,low", "'low' is not a formation energy in eV/atom"),
        ("NaCl,nan", "'nan' is not a formation energy"),
        ("NaCl,-1e9", "'-1e9' is not a formation energy"),
        ("NaCl,-1,-2", "more cells than the header has columns"),
        ('"' + "Na" * 5000 + '",-1', "is not a formula of elements"),
    ],
)
def test_a_wrong_row_of_a_csv_is_named(tmp_path: Path, row: str, reason: str):
    path = tmp_path / "known.csv"
    path.write_text(f"formula,formation_energy_per_atom\nLi2O,-1.9\n{row}\n")
    with pytest.raises(UserError, match=rf"known\.csv row 2: .*{reason}"):
        hull.read_csv(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("formula,formation_energy\nNaCl,-2\n", "no column 'formation_energy_per_atom'.*did you"),
        ("compound,formation_energy_per_atom\nNaCl,-2\n", "no column 'formula'"),
        ("formula,formation_energy_per_atom\n", "has a header but no rows"),
        ("", "is empty"),
    ],
)
def test_a_csv_that_is_no_table_of_phases_is_refused(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "known.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        hull.read_csv(path)
