"""The page of relaxed crystals: both states in one place, what relaxing gave, and the CIF."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.potentials.relaxation import RelaxSettings
from crystal_diffusion_jax.report import relaxed_cards
from crystal_diffusion_jax.report.cards import Median
from crystal_diffusion_jax.report.document import Page, to_html
from crystal_diffusion_jax.report.entries import entries
from crystal_diffusion_jax.report.pictures import pictures
from crystal_diffusion_jax.report.relaxed import RelaxedAtoms, RelaxedEntry, relaxed_atoms
from crystal_diffusion_jax.structures.cif_reader import parse_cif
from crystal_diffusion_jax.structures.reading import Inputs
from tests.browser import needs_browser, use

IDEAL = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
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


def result(atoms: RelaxedAtoms, **values: Any) -> RelaxedEntry:
    entry = RelaxedEntry("", 0.25, 0.125, -0.02, 87, True, None, None, "", False, atoms)
    return dataclasses.replace(entry, **values)


FAILED = RelaxedEntry("the cell explodes", None, None, None, 9, False, None, None, "", False, None)
RESULTS = [
    result(
        relaxed_atoms(RATTLED, RELAXED, 0.1),
        energy_above_hull=0.0625,
        decomposition="BaO + TiO2",
        compounds_only=True,
    ),
    FAILED,
    None,  # not relaxed yet
    result(relaxed_atoms(CARBON, TURNED, 0.1), rmsd=None, energy_gain=0.5, converged=False),
    result(
        relaxed_atoms(RELAXED, RELAXED, 0.1),
        rmsd=0.0,
        energy_gain=0.0,
        volume_change=0.0,
        energy_above_hull=-3.0,
        decomposition="Ba + O2 + Ti",
    ),
]


def page() -> Page:
    crystals: list[Structure | None] = [RATTLED, RELAXED, RELAXED, CARBON, RELAXED]
    found = entries(Inputs(crystals, ["a.cif", "b", "c", "d", "e"], {}), None, 0.1)
    return Page(
        title="5 crystals",
        subtitle="",
        notes=[],
        rates={},
        caption="",
        entries=found,
        pictures=pictures(None, [entry.formula for entry in found], {}),
        property_title="",
        command="",
        versions="",
        relaxed=RESULTS,
        relaxed_scores=relaxed_cards.headline(RESULTS, 6),
        relaxed_caption=relaxed_cards.caption(RelaxSettings()),
    )


def cartesian(atoms: RelaxedAtoms) -> np.ndarray:
    return np.array(atoms.frac_coords) @ np.array(atoms.lattice)


def test_the_atoms_of_the_relaxed_cell_come_first_and_are_the_relaxed_crystal():
    atoms = relaxed_atoms(RATTLED, RELAXED, 0.1)
    assert atoms.symbols[:5] == SPECIES
    assert atoms.space_group == "Pm-3m (221)"
    found = Structure(atoms.lattice, SPECIES, atoms.frac_coords[:5])
    np.testing.assert_allclose(found.distance_matrix, RELAXED.distance_matrix, atol=1e-3)


def test_an_atom_is_drawn_next_to_where_it_started_on_whichever_side_of_the_cell():
    before = Structure(Lattice.cubic(4.0), ["Fe", "C"], [[0.3, 0.3, 0.3], [0.27, 0.8, 0.8]])
    after = Structure(Lattice.cubic(4.0), ["Fe", "C"], [[0.3, 0.3, 0.3], [0.32, 0.8, 0.8]])
    atoms = relaxed_atoms(before, after, 0.1)
    # From 0.97 to 1.02: outside of the cell, so its image inside is drawn too.
    carbon = sorted(
        x for (x, *_), symbol in zip(atoms.frac_coords, atoms.symbols, strict=True) if symbol == "C"
    )
    assert atoms.frac_coords[1] == pytest.approx([1.02, 0.5, 0.5])
    assert carbon == pytest.approx([0.02, 1.02])


def test_an_ideal_perovskite_is_drawn_with_atoms_on_all_faces():
    atoms = relaxed_atoms(RATTLED, RELAXED, 0.1)
    inside = np.all(np.abs(np.array(atoms.frac_coords) - 0.5) < 0.51, axis=-1)
    found = [symbol for symbol, here in zip(atoms.symbols, inside, strict=True) if here]
    assert {symbol: found.count(symbol) for symbol in SPECIES} == {"Ba": 8, "Ti": 1, "O": 6}


def test_the_medians_count_the_crystals_that_have_a_value():
    found = relaxed_cards.headline(RESULTS, 6)
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


def test_without_any_energy_above_hull_there_is_no_word_of_it():
    assert list(relaxed_cards.headline([FAILED], 1)) == [
        "converged", "energy gain", "RMSD", "volume change",
    ]  # fmt: skip
    assert relaxed_cards.headline([FAILED], 1)["RMSD"] == Median(None, "Å", 3, 0, 1)


def test_the_cards_say_median_and_count_and_the_caption_what_was_done():
    text = to_html(page())
    assert "<b>0.062 Å</b>median RMSD<br><span>2 of 6</span>" in text
    assert "<b>\u22122.0 %</b>median volume change<br><span>3 of 6</span>" in text
    assert "<b>33.3 %</b>converged<br><span>2 of 6</span>" in text
    assert "<li><b>RMSD</b>: how far the generated atoms are" in text
    assert "potential (chgnet) until no force exceeds 0.05 eV/Å, in at most 500 steps." in text


def test_a_relaxed_structure_is_written_once_and_a_page_without_any_has_no_trace_of_it():
    def data(shown: Page) -> dict:
        text = to_html(shown)
        start = text.index('<script type="application/json" id="data">')
        return json.loads(text[text.index("{", start) : text.index("</script>", start)])

    with_relaxed, without = (
        data(page()),
        data(dataclasses.replace(page(), relaxed=(), relaxed_scores={})),
    )
    assert with_relaxed.keys() - without.keys() == {"relaxed"}
    assert with_relaxed["entries"] == without["entries"]
    assert json.dumps(with_relaxed["relaxed"]).count("cif") == 0
    assert not without["meanings"].keys() & relaxed_cards.MEANINGS.keys()


USER = """
  const column = (title) =>
    all("#structures th").findIndex((th) => th.textContent.startsWith(title));
  const cells = (k) => all("#structures tbody tr").map((row) => row.children[k].textContent);
  const heading = (title) => all("#structures th")[column(title)];
  seen.titles = all("#structures th").map((th) => th.textContent);
  seen.hull = cells(column("above hull"));
  seen.compounds = cells(column("among compounds"));
  heading("RMSD").click(); seen.ascending = cells(column("RMSD"));
  heading("RMSD").click(); seen.descending = cells(column("RMSD"));
  heading("name").click();
  const rows = () => all("#structures tbody tr");
  const content = (id) => document.getElementById(id).textContent;
  const [generated, relaxed] = document.getElementsByName("state");
  const span = (wire, i) => ["x", "y", "z"].map((d) => wire[d][i + 1] - wire[d][i]);
  const say = () => ({
    chosen: [generated, relaxed].find((input) => input.checked).value, disabled: relaxed.disabled,
    facts: content("facts"), drawn: content("drawn"),
    relaxation: all("#relaxation dt").map((dt) => [dt.textContent, dt.nextSibling.textContent]),
    atoms: viewer.data.filter((t) => t.mode === "markers").map((t) => [t.name, t.x.length]),
    cell: [0, 3, 6].map((i) => Math.hypot(...span(viewer.data[0], i))),
    // Lengths of the drawn box per Angstrom.
    scale: ["x", "y", "z"].map((d) => {
      const { aspectratio, [d + "axis"]: { range } } = viewer._fullLayout.scene;
      return aspectratio[d] / (range[1] - range[0]);
    }),
  });
  const downloads = [];
  URL.createObjectURL = (blob) => { downloads.push(blob); return "#"; };
  HTMLAnchorElement.prototype.click = function () { (seen.names ??= []).push(this.download); };
  rows()[0].click(); await drawn(); await pause(500);
  seen.generated = say();
  seen.labels = [generated, relaxed].map((input) => input.labels[0].textContent.trim());
  const legend = relaxed.closest("fieldset").querySelector("legend");
  seen.group = [legend.textContent, relaxed.type, relaxed.tabIndex];
  document.getElementById("cif").click();
  relaxed.click(); await pause(500);
  seen.relaxed = say();
  document.getElementById("cif").click();
  document.getElementById("all").click();
  rows()[1].click(); await pause(500); seen.failed = say();
  rows()[2].click(); await pause(500); seen.missing = say();
  rows()[3].click(); await pause(500); seen.changed = say();
  generated.click(); await pause(500); seen.back = say();
  rows()[4].click(); await pause(500); seen.elements = say();
  seen.cifs = await Promise.all(downloads.map((blob) => blob.text()));
"""


@needs_browser
def test_in_a_browser_both_states_are_shown_described_and_downloaded(tmp_path):
    seen = use(to_html(page()), USER, tmp_path)
    assert seen["errors"] == []
    assert seen["titles"][4:10] == [
        "gain, eV/atom", "RMSD, Å", "volume, %", "converged", "above hull, eV/atom",
        "among compounds",
    ]  # fmt: skip
    assert seen["hull"] == ["0.063", "", "", "", "\u22123.000"]
    assert seen["compounds"] == ["yes", "", "", "", "no"]
    assert seen["ascending"] == ["0.000", "0.125", "structure changed", "", ""]
    assert seen["descending"] == ["structure changed", "0.125", "0.000", "", ""]
    assert seen["labels"] == ["generated", "relaxed"]
    assert seen["group"] == ["Show the crystal", "radio", 0]

    generated, relaxed = seen["generated"], seen["relaxed"]
    assert (generated["chosen"], relaxed["chosen"]) == ("generated", "relaxed")
    assert generated["facts"] == "a.cif, P1 (1), 5 atoms"
    assert relaxed["facts"] == "a.cif, Pm-3m (221), 5 atoms"
    assert generated["drawn"].startswith("Drawn as generated")
    assert relaxed["drawn"].startswith("Drawn as relaxed")
    assert (
        generated["relaxation"]
        == relaxed["relaxation"]
        == [
            ["energy gain", "0.250 eV/atom"],
            ["RMSD", "0.125 Å"],
            ["volume change", "\u22122.0 %"],
            ["converged", "yes, 87 steps"],
            ["energy above hull", "0.063 eV/atom"],
            ["decomposes into", "BaO + TiO2"],
        ]
    )
    assert generated["cell"] == pytest.approx(SKEW.abc, abs=1e-3)
    assert relaxed["cell"] == pytest.approx((4.0, 4.0, 4.0))
    assert generated["scale"] == pytest.approx([relaxed["scale"][0]] * 3)
    assert relaxed["scale"] == pytest.approx(generated["scale"])
    assert dict(generated["atoms"])["Ba"] == dict(relaxed["atoms"])["Ba"] == 8

    assert seen["names"] == ["a.cif", "a_relaxed.cif", "all_relaxed.cif"]
    read = parse_cif(seen["cifs"][1])
    assert read.composition == RELAXED.composition
    np.testing.assert_allclose(read.lattice.parameters, RELAXED.lattice.parameters, atol=1e-4)
    np.testing.assert_allclose(read.distance_matrix, RELAXED.distance_matrix, atol=1e-3)
    assert seen["cifs"][2].count("data_") == 3

    for state, reason in (("failed", [["not relaxed", "the cell explodes"]]), ("missing", [])):
        assert (seen[state]["chosen"], seen[state]["disabled"]) == ("generated", True)
        assert seen[state]["relaxation"] == reason
    assert (seen["changed"]["chosen"], seen["changed"]["disabled"]) == ("relaxed", False)
    assert ["RMSD", "structure changed"] in seen["changed"]["relaxation"]
    assert ["converged", "no, 87 steps"] in seen["changed"]["relaxation"]
    assert seen["back"]["chosen"] == "generated"
    elements = ["energy above hull", "\u22123.000 eV/atom, compared with elements"]
    assert elements in seen["elements"]["relaxation"]


@needs_browser
def test_the_cif_of_a_skew_relaxed_cell_is_that_cell(tmp_path):
    shown = page()
    script = """
      await drawn();
      let file = null;
      URL.createObjectURL = (blob) => { file = blob; return "#"; };
      all("#structures tbody tr")[3].click();
      document.querySelector("input[value=relaxed]").click();
      document.getElementById("cif").click();
      seen.cif = await file.text();
    """
    read = parse_cif(use(to_html(shown), script, tmp_path)["cif"])
    np.testing.assert_allclose(read.lattice.parameters, TURNED.lattice.parameters, atol=1e-3)
    np.testing.assert_allclose(read.distance_matrix, TURNED.distance_matrix, atol=1e-3)
