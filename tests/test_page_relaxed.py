"""The page of relaxed crystals: both states side by side, history, files and phase diagrams."""

import base64
import dataclasses
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.potentials import references
from crystal_diffusion_jax.potentials.hull import from_crystals
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxedCrystal, failed
from crystal_diffusion_jax.potentials.relaxed_database import UNFINISHED
from crystal_diffusion_jax.report import phases, relaxed_cards
from crystal_diffusion_jax.report.cards import Median
from crystal_diffusion_jax.report.credibility import FAR, NOT_RELAXED
from crystal_diffusion_jax.report.document import Page, to_html
from crystal_diffusion_jax.report.states import beside
from crystal_diffusion_jax.structures.vasp import read_poscar
from tests.browser import needs_browser, use
from tests.cif_cells import parse_cif
from tests.page_contents import SITES as IDEAL
from tests.page_contents import page_of, values_of

# Fractional; some atoms leave the cell on the side opposite to where they belong.
RATTLE = np.random.default_rng(0).normal(scale=0.03, size=(5, 3))
SPECIES = ["Ba", "Ti", "O", "O", "O"]
# Lengths and angles all different, so that no two can be mixed up.
SKEW = Lattice.from_parameters(4.1, 4.5, 5.2, 77, 84, 98)
RATTLED = Structure(SKEW, SPECIES, (IDEAL + RATTLE) % 1.0)
RELAXED = Structure(Lattice.cubic(4.0), SPECIES, (IDEAL + 0.4) % 1.0)
CARBON = Structure(
    Lattice.hexagonal(2.5, 6.7), ["C"] * 2, [[1 / 3, 2 / 3, 0.2], [2 / 3, 1 / 3, 0.7]]
)
TURNED = Structure(SKEW, ["C"] * 2, [[0.1, 0.2, 0.3], [0.35, 0.45, 0.55]])


def result(structure: Structure, gain: float, converged: bool, **values: Any) -> RelaxedCrystal:
    moments = np.zeros(len(structure))
    relaxation = Relaxation(structure, -5.0 + gain, -5.0, 87, converged, moments, None)
    return RelaxedCrystal("", relaxation, **values)


OUTCOMES = [
    result(RELAXED, 0.25, converged=True, rmsd=0.125, volume_change=-0.02,
           energy_above_hull=0.0625, decomposition="BaO (0.400) + TiO2 (0.600)"),
    RelaxedCrystal("", failed("the cell explodes", -4.0, 9)),
    RelaxedCrystal("", failed(UNFINISHED)),
    result(TURNED, 0.5, converged=False, volume_change=-0.02),
    result(RELAXED, 0.0, converged=True, rmsd=0.0, volume_change=0.0,
           energy_above_hull=-3.0, decomposition="Ba (0.200) + O2 (0.600) + Ti (0.200)"),
]  # fmt: skip


def edge_oracle(structures: list[Structure], oracle: str) -> Predictions:
    """Predicts the cube root of the volume, in eV per Angstrom."""
    return Predictions(np.array([s.volume ** (1 / 3) for s in structures]), {})


@pytest.fixture(scope="module")
def page() -> Page:
    crystals = [RATTLED, RELAXED, RELAXED, CARBON, RELAXED, None]
    with pytest.MonkeyPatch.context() as patch:
        return page_of(patch, crystals, oracle=edge_oracle, outcomes=OUTCOMES)


def test_an_atom_is_drawn_next_to_where_it_started_on_whichever_side_of_the_cell():
    before = Structure(Lattice.cubic(4.0), ["Fe", "C"], [[0.3, 0.3, 0.3], [0.27, 0.8, 0.8]])
    after = Structure(Lattice.cubic(4.0), ["Fe", "C"], [[0.3, 0.3, 0.3], [0.32, 0.8, 0.8]])
    # From 0.97 to 1.02.
    np.testing.assert_allclose(beside(before, after)[1], [1.02, 0.5, 0.5])
    np.testing.assert_allclose(
        Structure(RELAXED.lattice, SPECIES, beside(RATTLED, RELAXED)).distance_matrix,
        RELAXED.distance_matrix,
        atol=1e-9,
    )


def test_the_medians_count_the_crystals_that_have_a_value(page):
    found = relaxed_cards.headline(page.crystals, 6)
    assert found == {
        "converged": Rate(2, 6),
        "energy gain": Median(0.25, "eV/atom", 3, 3, 6),
        "RMSD": Median(0.0625, "Å", 3, 2, 6),
        "volume change": Median(-2.0, "%", 1, 3, 6),
        "above hull < 0.1 eV/atom": Rate(2, 6),
        "stable": Rate(1, 6),
        "energy above hull": Median(0.0625, "eV/atom", 3, 1, 6),
    }
    assert set(found) <= set(relaxed_cards.MEANINGS)


def test_without_any_energy_above_hull_there_is_no_word_of_it(monkeypatch):
    shown = page_of(monkeypatch, [RELAXED], outcomes=[RelaxedCrystal("", failed("it explodes"))])
    assert list(relaxed_cards.headline(shown.crystals, 1)) == [
        "converged", "energy gain", "RMSD", "volume change",
    ]  # fmt: skip
    assert relaxed_cards.headline(shown.crystals, 1)["RMSD"] == Median(None, "Å", 3, 0, 1)
    assert "energy_above_hull" not in {column.key for column in shown.columns}
    assert "hull" not in shown.order_in_words
    assert shown.flags == [[NOT_RELAXED]]


def test_the_columns_tell_what_relaxing_did_and_the_flags_what_it_says(page):
    assert values_of(page, "energy_gain") == [0.25, None, None, 0.5, 0.0]
    assert values_of(page, "displacement") == [0.125, None, None, None, 0.0]
    assert values_of(page, "kept_structure") == [True, None, None, False, True]
    assert values_of(page, "energy_above_hull") == [0.0625, None, None, None, -3.0]
    assert values_of(page, "compounds_only") == [True, None, None, None, False]
    assert values_of(page, "volume_change") == [-2.0, None, None, -2.0, 0.0]
    assert values_of(page, "energy_per_atom") == [-4.75, -4.0, None, -4.5, -5.0]
    assert values_of(page, "relaxed_energy_per_atom") == [-5.0, None, None, -5.0, -5.0]
    assert values_of(page, "not_relaxed") == ["", "the cell explodes", None, "", ""]
    # Predicted before and after.
    before, after = (values_of(page, f"{x}predicted_heat_ref")[0] for x in ("", "relaxed_"))
    assert (before, after) == (pytest.approx(RATTLED.volume ** (1 / 3), abs=1e-4), 4.0)
    assert [FAR in flags for flags in page.flags] == [False, False, False, True, False]
    assert [NOT_RELAXED in flags for flags in page.flags] == [False, True, False, False, False]
    assert "1 crystals are not relaxed yet." in page.remarks
    assert "then by energy above the hull" in page.order_in_words


def test_a_hull_of_elements_is_said_to_be_one(monkeypatch, page):
    shown = page.crystals  # of the first and the last one the hull is known
    assert not relaxed_cards.beside_elements_only(shown)
    assert relaxed_cards.beside_elements_only(shown[1:])
    assert not relaxed_cards.beside_elements_only(shown[1:-1])
    # A crystal of one element has nothing else to compete with.
    drawn = dataclasses.replace(shown[-1].generated, symbols=["C", "C"])
    assert not relaxed_cards.beside_elements_only([dataclasses.replace(shown[-1], generated=drawn)])
    outcomes = [outcome("Na Na O O", -1.2)]
    outcomes[0] = dataclasses.replace(outcomes[0], decomposition="Na (0.500) + O2 (0.500)")
    crystals = [each.relaxation.structure for each in outcomes]
    said = page_of(monkeypatch, crystals, None, edge_oracle, outcomes).remarks
    assert relaxed_cards.BESIDE_ELEMENTS in said


USER = """
  const content = (id) => document.getElementById(id).textContent;
  const rows = () => all("#structures tbody tr");
  const click = (place) => rows().find((row) => row.dataset.place === String(place)).click();
  const say = () => ({
    states: all("#crystal figure").filter((x) => !x.hidden).map((x) => x.textContent),
    history: all("#history tr").map((tr) => [...tr.children].map((x) => x.textContent)),
    facts: Object.fromEntries(
      all("#facts dt").map((dt) => [dt.textContent, dt.nextSibling.textContent])),
    flags: content("flags"), files: all("#downloads button").map((x) => x.textContent),
  });
  for (const button of all("#structures .group")) button.click();
  click(0); seen.both = say();
  seen.atoms = makeScene(0, "relaxed").atoms.map((x) => x.symbol);
  for (const button of all("#downloads button")) button.click();
  click(1); seen.failed = say();
  click(2); seen.missing = say();
  click(3); seen.changed = say();
  for (const button of all("#downloads button")) button.click();
"""


@needs_browser
def test_in_a_browser_both_states_are_shown_described_and_downloaded(tmp_path, page):
    seen = use(to_html(page), USER, tmp_path)
    assert seen["errors"] == []
    both = seen["both"]
    assert both["states"] == ["generated, P1 (1)", "relaxed, Pm-3m (221)"]
    assert both["history"][0] == ["", "generated", "relaxed"]
    history = {title: values for title, *values in both["history"][1:]}
    assert history["space group"] == ["P1 (1)", "Pm-3m (221)"]
    assert history["energy, eV/atom"] == ["\u22124.750", "\u22125.000"]
    assert history["a, b, c, Å"] == ["4.100, 4.500, 5.200", "4.000, 4.000, 4.000"]
    assert history["predicted heat_ref, eV/cell"] == [f"{RATTLED.volume ** (1 / 3):.3f}", "4.000"]
    facts = both["facts"]
    assert facts["asked"] == "0.500"
    assert facts["gained, eV/atom"] == "0.250"
    assert facts["moved, Å"] == "0.125"
    assert facts["volume change, %"] == "\u22122.0"
    assert (facts["converged"], facts["steps of relaxing"]) == ("yes", "87")
    assert facts["above hull, eV/atom"] == "0.063"
    assert facts["decomposes into"] == "BaO (0.400) + TiO2 (0.600)"
    # The relaxed cubic cell, its faces shared by what is drawn of it.
    inside = [symbol for symbol in seen["atoms"] if symbol != "O"]
    assert inside.count("Ba") == 8
    assert inside.count("Ti") >= 1
    assert both["files"] == [
        "CIF, generated", "POSCAR, generated", "CIF, relaxed", "POSCAR, relaxed",
    ]  # fmt: skip

    for state, reason in (("failed", "the cell explodes"), ("missing", None)):
        assert seen[state]["states"] == ["generated, Pm-3m (221)"]
        assert seen[state]["history"][0] == ["", "generated"]
        assert seen[state]["facts"].get("not relaxed") == reason
    assert "cannot be relaxed" in seen["failed"]["flags"]
    assert seen["changed"]["facts"]["kept structure"] == "no"
    assert "moved, Å" not in seen["changed"]["facts"]
    assert "far from relaxed" in seen["changed"]["flags"]

    def saved(name: str) -> str:
        return base64.b64decode(seen["saved"][name]).decode()

    assert parse_cif(saved("00000_BaTiO3_relaxed.cif")).composition == RELAXED.composition
    for name, expected in (("00000_BaTiO3", RELAXED), ("00003_C", TURNED)):
        read = read_poscar(saved(f"{name}_relaxed.vasp"))
        assert read.species == expected.species
        np.testing.assert_allclose(read.lattice.parameters, expected.lattice.parameters, atol=1e-3)
        np.testing.assert_allclose(read.distance_matrix, expected.distance_matrix, atol=1e-3)


# Formula -> formation energy in eV/atom, in a Ca-Na-O that pymatgen's own diagram can be asked of;
# Na2O twice, as two crystals of one formula.
KNOWN = [("Ca O", -3.2), ("Na Na O", -1.4), ("Na Na O", -1.3), ("Na O", -1.3), ("Ba O", -2.8)]


def known_phases() -> CrystalDataset:
    numbers = [[Element(symbol).Z for symbol in formula.split()] for formula, _ in KNOWN]
    sizes = np.array([len(each) for each in numbers])
    return CrystalDataset(
        lattice=np.tile(4.0 * np.eye(3), (len(KNOWN), 1, 1)),
        num_atoms=sizes,
        frac_coords=np.zeros((sizes.sum(), 3)),
        atomic_numbers=np.concatenate(numbers),
        properties=np.array([[energy] for _, energy in KNOWN]),
        property_names=("formation_energy_per_atom",),
        material_ids=np.array([str(i) for i in range(len(KNOWN))]),
    )


def outcome(formula: str, energy: float, above: float | None = None) -> RelaxedCrystal:
    """A relaxed crystal with a formation energy, above the hull of `KNOWN` unless stated."""
    symbols = formula.split()
    structure = Structure(
        Lattice.cubic(5), symbols, np.random.default_rng(0).random((len(symbols), 3))
    )
    numbers = structure.atomic_numbers
    total = energy - references.load("mp20").formation_energy(numbers, 0.0)
    if above is None:
        hull = from_crystals(
            [[Element(s).Z for s in name.split()] for name, _ in KNOWN], [x for _, x in KNOWN]
        )
        found = hull.above(numbers, energy)
        assert found is not None
        above = found.energy
    relaxation = Relaxation(structure, total, total, 3, True, np.zeros(len(symbols)), None)
    return RelaxedCrystal(
        "", relaxation, rmsd=0.1, formation_energy_per_atom=energy, energy_above_hull=above
    )


def test_candidates_are_crystals_of_two_or_three_elements_on_the_scale_of_mp20():
    fitting = outcome("Ca Na O O", -2.0)
    other_scale = dataclasses.replace(fitting, formation_energy_per_atom=-2.1)
    no_hull = dataclasses.replace(fitting, energy_above_hull=np.nan)
    four = outcome("Ca Na Ba O", -1.0, above=0.1)
    one = outcome("Ca", 0.0, above=0.0)
    failure = RelaxedCrystal("", failed("it explodes"))
    (found,) = phases.candidates([failure, other_scale, no_hull, four, one, None, fitting])
    assert found.elements == ("Ca", "Na", "O")
    assert found.formation_energy == pytest.approx(-2.0)


def test_a_phase_diagram_shows_known_phases_and_candidates_of_its_system():
    found = phases.candidates(
        [outcome("Ca Na O O", -2.0), outcome("Ca Na O O", -1.9), outcome("Na Na O O", -1.2)]
    )
    binary, ternary = phases.phase_diagrams(found, known_phases())
    above = sorted(candidate.energy_above_hull for candidate in found)
    assert (binary.system, ternary.system) == ("Na-O", "Ca-Na-O")
    assert "besides the elements: Na2O, Na2O2." in binary.description
    assert f"Na2O2, {above[0]:.3f} eV/atom" in binary.description
    assert "besides the elements: CaO, Na2O, Na2O2." in ternary.description
    assert f"NaCaO2, {above[1]:.3f} eV/atom" in ternary.description
    assert ternary.svg.startswith("<svg")
    assert pyplot.get_fignums() == []


def test_a_candidate_lies_where_its_composition_and_energy_say():
    (candidate,) = phases.candidates([outcome("Na Na O O", -1.2)])
    entries = [phases._entry([11], 0.0), phases._entry([8], 0.0), phases._entry([11, 8], -1.3)]
    diagram = phases.PhaseDiagram(entries)
    share, energy = phases._place(diagram, candidate)
    assert (share, energy) == pytest.approx((0.5, -1.2))


def test_crystals_compared_with_another_hull_get_no_phase_diagram(monkeypatch):
    elsewhere = phases.candidates([outcome("Na Na O O", -1.2, above=0.3)])
    assert len(elsewhere) == 1
    assert phases.phase_diagrams(elsewhere, known_phases()) == []


def test_a_system_of_which_no_phase_is_known_is_drawn_with_its_elements(monkeypatch):
    # Neither do MP-20's crystals of two and three elements have the elements themselves.
    limits: list[tuple[float, float]] = []
    draw = phases.to_svg

    def to_svg(figure: Any) -> str:
        limits.append(figure.axes[0].get_ylim())
        return draw(figure)

    monkeypatch.setattr(phases, "to_svg", to_svg)
    (picture,) = phases.phase_diagrams(
        phases.candidates([outcome("Ag Cl", -1.5, above=-1.5)]), known_phases()
    )
    assert "On the hull, besides the elements: nothing." in picture.description
    ((low, high),) = limits
    assert low < -1.5 < 0 < high  # a crystal far below the hull is on the picture


def test_only_so_many_phase_diagrams_are_drawn_those_of_the_lowest_crystals_first():
    found = phases.candidates([outcome("Ca O", -2.0), outcome("Na O", -1.29)])
    (only,) = phases.phase_diagrams(found, known_phases(), most=1)
    assert only.system == "Na-O"


@needs_browser
def test_the_phase_diagram_of_the_crystal_that_is_looked_at_is_shown(tmp_path, monkeypatch):
    outcomes = [outcome("Ca Na O O", -2.0), outcome("Na Na O O", -1.2)]
    crystals = [each.relaxation.structure for each in outcomes]
    shown = page_of(monkeypatch, crystals, known_phases(), oracle=edge_oracle, outcomes=outcomes)
    # Those of the page are drawn with training crystals of MP-20, which these are not.
    diagrams = phases.phase_diagrams(phases.candidates(outcomes), known_phases())
    seen = use(
        to_html(dataclasses.replace(shown, diagrams=diagrams)),
        """
  const click = (place) => all("#structures tr").find((row) => row.dataset.place === place).click();
  const say = () =>
    [document.getElementById("system").value, document.querySelector("#diagram svg").ariaLabel];
  seen.hidden = document.getElementById("diagrams").hidden;
  click("0"); seen.first = say();
  click("1"); seen.second = say();
  enter(document.getElementById("system"), "Ca-Na-O"); seen.chosen = say();
""",
        tmp_path,
    )
    assert seen["errors"] == []
    assert not seen["hidden"]
    described = {each.system: each.description for each in diagrams}
    assert seen["first"] == seen["chosen"] == ["Ca-Na-O", described["Ca-Na-O"]]
    assert seen["second"] == ["Na-O", described["Na-O"]]
