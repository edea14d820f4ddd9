"""The page in a browser: table, filters, keyboard, 3-D and downloads."""

import base64
import csv
import dataclasses
import io
import zipfile
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from crystal_diffusion_jax.report import build
from crystal_diffusion_jax.report.document import Page, to_html
from crystal_diffusion_jax.structures.vasp import read_poscar
from tests.browser import needs_browser, use
from tests.cif_cells import parse_cif
from tests.page_contents import page_of, perovskite, training_set, values_of

pytestmark = needs_browser

PAIRS = [("Ba", "Ti"), ("Sr", "Ti"), ("Ca", "Zr"), ("Ba", "Zr"), ("Sr", "Zr")]
# Lengths and angles all different; the elements of neighbouring atoms differ.
SKEW = Structure(
    Lattice.from_parameters(4.1, 4.5, 5.2, 77, 84, 98),
    ["Ti", "O", "Sr", "O", "O"],
    [[0.1, 0.2, 0.3], [0.6, 0.21, 0.33], [0.62, 0.68, 0.81], [0.1, 0.7, 0.31], [0.12, 0.2, 0.79]],
)
NAMES = """
  const names = () => all("#structures tbody tr").map((row) => Number(row.dataset.place));
  const count = () => document.getElementById("count").textContent;
  const heading = (key) => all("#structures thead th").find((th) => th.dataset.key === key);
"""


def crystals() -> list[Structure]:
    """Five compositions, 23 crystals, all of different sizes; the last one is skew."""
    edges = np.random.default_rng(1).permutation(np.linspace(3.9, 4.9, 22))
    return [perovskite(*PAIRS[i % 5], float(edge)) for i, edge in enumerate(edges)] + [SKEW]


def rows_of(page: Page, places: list[int]) -> list[int]:
    """The crystals that a table with closed groups shows: the first of each composition."""
    formulas = values_of(page, "formula")
    first: dict[str, int] = {}
    for i in places:
        first.setdefault(formulas[i], i)
    return list(first.values())


def test_the_table_is_in_the_stated_order_sorts_and_opens_its_groups(tmp_path, monkeypatch):
    page = page_of(monkeypatch, crystals(), training_set())
    seen = use(
        to_html(page),
        NAMES
        + """
  seen.before = [names(), count()];
  const sorts = () => [heading("volume_per_atom").getAttribute("aria-sort"), names()];
  const sort = () => heading("volume_per_atom").querySelector("button").click();
  sort(); seen.ascending = sorts();
  sort(); seen.descending = sorts();
  sort(); seen.again = sorts();
  const button = () => document.querySelector("#structures .group");
  seen.label = button().getAttribute("aria-label");
  seen.closed = button().getAttribute("aria-expanded");
  button().click();
  const isFocused = document.activeElement === button();
  seen.opened = [button().getAttribute("aria-expanded"), names(), isFocused];
  button().click(); seen.closedAgain = names();
  seen.semantics = [
    all("#structures thead th[scope=col]").length === all("#structures thead th").length,
    all("#structures tbody th[scope=row]").length === all("#structures tbody tr").length,
    document.querySelector("#structures caption").textContent.length > 20,
  ];
""",
        tmp_path,
    )
    assert seen["errors"] == []
    order = list(page.order)
    assert seen["before"] == [rows_of(page, order), "23 of 23 crystals, 5 compositions"]
    volumes = values_of(page, "volume_per_atom")
    by_volume = sorted(order, key=lambda i: volumes[i])
    assert seen["ascending"] == ["ascending", rows_of(page, by_volume)]
    assert seen["descending"] == ["descending", rows_of(page, by_volume[::-1])]
    assert seen["again"] == [None, rows_of(page, order)]
    formulas = values_of(page, "formula")
    group = [i for i in order if formulas[i] == formulas[order[0]]]
    assert seen["label"] == f"{len(group) - 1} more of {formulas[order[0]]}"
    assert seen["closed"] == "false"
    assert seen["opened"] == ["true", group + rows_of(page, order)[1:], True]
    assert seen["closedAgain"] == rows_of(page, order)
    assert seen["semantics"] == [True, True, True]


def test_each_filter_leaves_the_crystals_that_python_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "read_shortlist", lambda path: ({7: 1, 3: 2}, {}))
    page = page_of(monkeypatch, crystals(), training_set())
    seen = use(
        to_html(page),
        NAMES
        + """
  const reset = async () => {
    document.querySelector("#filters form").reset();
    await pause(20);
  };
  const ofElement = (symbol) => document.querySelector(`#elements [data-symbol=${symbol}]`);
  const volume = all("#ranges input").filter((x) => x.ariaLabel.startsWith("volume, Å³/atom"));
  enter(document.getElementById("formula"), "zr"); seen.formula = count(); await reset();
  enter(volume[0], 50); seen.low = count();
  enter(volume[1], 120); seen.both = count();
  seen.valuetext = volume.map((x) => x.getAttribute("aria-valuetext"));
  enter(volume[1], 20); seen.crossed = volume.map((x) => x.value); await reset();
  seen.afterReset = [count(), ...volume.map((x) => x.value)];
  ofElement("Ba").click(); seen.in = [count(), ofElement("Ba").ariaLabel];
  ofElement("Zr").click(); ofElement("Zr").click();
  seen.inAndOut = [count(), ofElement("Zr").ariaLabel];
  ofElement("Zr").click(); ofElement("Ba").click(); ofElement("Ba").click(); seen.either = count();
  seen.disabled = [ofElement("Fe").disabled, ofElement("O").disabled];
  const choice = (title) =>
    all("#choices label").find((x) => x.textContent.startsWith(title)).control;
  enter(choice("in training set"), "yes"); seen.training = count(); await reset();
  document.getElementById("shortlisted").click(); seen.shortlist = names(); await reset();
  enter(document.getElementById("space-group"), "P1 (1)"); seen.group = count(); await reset();
  enter(document.getElementById("space-group"), "Pm-3m (221)");
  enter(document.getElementById("formula"), "Sr"); seen.together = count();
  enter(document.getElementById("formula"), "nothing"); seen.none = [count(), names()];
""",
        tmp_path,
    )
    assert seen["errors"] == []
    formulas, volumes = values_of(page, "formula"), np.array(values_of(page, "volume_per_atom"))
    step = (volumes.max() - volumes.min()) / 200

    def told(passed: Any) -> str:
        left = [formula for formula, one in zip(formulas, passed, strict=True) if one]
        return f"{len(left)} of 23 crystals, {len(set(left))} compositions"

    assert seen["formula"] == told("Zr" in formula for formula in formulas)
    low, high = volumes.min() + 50 * step, volumes.min() + 120 * step
    assert seen["low"] == told(volumes >= low)
    assert seen["both"] == told((volumes >= low) & (volumes <= high))
    assert seen["valuetext"] == [f"{low:.1f}", f"{high:.1f}"]
    assert seen["crossed"] == ["20", "20"]
    assert seen["afterReset"] == [told([True] * 23), "0", "200"]
    num_barium = sum("Ba" in formula for formula in formulas)
    assert seen["in"] == [
        told("Ba" in formula for formula in formulas),
        f"Barium, in {num_barium} crystals: must be in",
    ]
    assert seen["inAndOut"][0] == told("Ba" in x and "Zr" not in x for x in formulas)
    assert seen["inAndOut"][1].endswith("must not be in")
    assert seen["either"] == told([True] * 23)
    assert seen["disabled"] == [True, False]
    known = values_of(page, "in_training_set")
    assert 0 < sum(known) < 23
    assert seen["training"] == told(known)
    assert seen["shortlist"] == [7, 3]
    assert seen["group"] == told([False] * 22 + [True])
    cubic = [group == "Pm-3m (221)" for group in values_of(page, "space_group")]
    assert seen["together"] == told(
        one and "Sr" in formula for one, formula in zip(cubic, formulas, strict=True)
    )
    assert seen["none"] == ["0 of 23 crystals, 0 compositions", []]


def test_a_crystal_without_a_value_passes_until_a_limit_is_set(tmp_path, monkeypatch):
    page = page_of(monkeypatch, [perovskite("Ba", "Ti", 4.0), perovskite("Sr", "Ti", 4.2), SKEW])
    for key in ("predicted_heat_ref", "difference"):
        values_of(page, key)[2] = None
    seen = use(
        to_html(page),
        NAMES
        + """
  const low = all("#ranges input").find((x) => x.ariaLabel.startsWith("|predicted"));
  seen.before = count();
  enter(low, 1); seen.after = names();
  enter(low, 0); seen.again = count();
""",
        tmp_path,
    )
    assert seen["errors"] == []
    assert seen["before"] == seen["again"] == "3 of 3 crystals, 2 compositions"
    # Asked for 0.5 eV, predicted -0.2 and 0.0: the smallest difference is below the limit.
    assert seen["after"] == [0]


def test_everything_can_be_done_with_the_keyboard_and_has_a_name(tmp_path, monkeypatch):
    page = page_of(monkeypatch, crystals(), training_set())
    seen = use(
        to_html(page),
        NAMES
        + """
  document.getElementById("filters").open = true;
  const focusable = all("a, button, input, select, summary, [tabindex='0']")
    .filter((x) => !x.disabled);
  seen.unreachable = focusable.filter((x) => x.tabIndex < 0).map((x) => x.outerHTML);
  const name = (x) => x.ariaLabel || x.labels?.[0]?.textContent || x.textContent;
  seen.nameless = focusable.filter((x) => !name(x).trim()).map((x) => x.outerHTML);
  seen.jumps = focusable.filter((x) => x.tabIndex > 0).length;
  const picks = all("#structures .pick");
  picks[0].focus(); press(picks[0], "ArrowDown"); seen.next = document.activeElement === picks[1];
  picks[1].click(); seen.shown = document.getElementById("name").textContent;
  seen.current = all("#structures [aria-current=true]").map((row) => Number(row.dataset.place));
  press(picks[1], "ArrowUp"); seen.back = document.activeElement === picks[0];
  const canvas = document.querySelector("figure[data-state=generated] canvas");
  seen.picture = [canvas.getAttribute("role"), canvas.ariaLabel];
  const pixels = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return { inked: data.filter((x, i) => i % 4 === 3 && x > 0).length, all: data.join() };
  };
  const first = pixels(); seen.inked = first.inked;
  press(canvas, "ArrowLeft"); const turned = pixels();
  press(canvas, "+"); const larger = pixels();
  seen.turned = turned.all !== first.all; seen.larger = larger.inked > turned.inked;
  press(canvas, "-"); press(canvas, "ArrowRight"); seen.restored = pixels().all === first.all;
  const mouse = (kind, x) =>
    canvas.dispatchEvent(new PointerEvent(kind, { movementX: x, pointerId: 1, bubbles: true }));
  canvas.setPointerCapture = () => {}; canvas.hasPointerCapture = () => true;
  mouse("pointerdown", 0); mouse("pointermove", 30); seen.dragged = pixels().all !== first.all;
""",
        tmp_path,
    )
    assert seen["errors"] == []
    assert seen["unreachable"] == []
    assert seen["nameless"] == []
    assert seen["jumps"] == 0
    assert (seen["next"], seen["back"]) == (True, True)
    second = rows_of(page, list(page.order))[1]
    formula, group = values_of(page, "formula")[second], values_of(page, "space_group")[second]
    assert seen["shown"] == f"{formula}, number {second}"
    assert seen["current"] == [second]
    assert seen["picture"][0] == "img"
    assert seen["picture"][1].startswith(f"{formula} as generated, {group}, 5 atoms.")
    assert seen["inked"] > 1000
    assert seen["turned"]
    assert seen["larger"]
    assert seen["restored"]
    assert seen["dragged"]


def test_atoms_on_the_boundary_are_drawn_on_all_sides_with_their_bonds(tmp_path, monkeypatch):
    near = Structure(Lattice.cubic(4.0), ["Fe", "C"], [[0.0, 0.0, 0.0], [0.995, 0.5, 0.5]])
    seen = use(
        to_html(page_of(monkeypatch, [perovskite("Ba", "Ti", 4.0), near])),
        """
  seen.atoms = [0, 1].map((place) => makeScene(place, "generated").atoms.map((x) => x.symbol));
  seen.bonds = makeScene(0, "generated").bonds
    .map((pair) => pair.map((x) => x.symbol).sort().join("-"));
  seen.edges = makeScene(0, "generated").edges.map(([p, q]) => distance(p, q));
  seen.carbon = makeScene(1, "generated").atoms
    .filter((x) => x.symbol === "C").map((x) => x.position[0]);
""",
        tmp_path,
    )
    assert seen["errors"] == []
    # One corner, eight times; one centre, once; three faces, twice each.
    assert Counter(seen["atoms"][0]) == {"Ba": 8, "Ti": 1, "O": 6}
    assert seen["bonds"] == ["O-Ti"] * 6
    assert seen["edges"] == pytest.approx([4.0] * 12)
    # Around the middle of the cell, 2 A from its faces.
    assert sorted(seen["carbon"]) == pytest.approx([-2.02, 1.98])


def content(seen: dict[str, Any], name: str) -> str:
    return base64.b64decode(seen["saved"][name]).decode()


def test_the_downloads_are_what_the_page_shows(tmp_path, monkeypatch):
    page = page_of(monkeypatch, crystals(), training_set())
    values_of(page, "name")[22] = 'a "name", with a comma\nand a line'
    seen = use(
        to_html(page),
        NAMES
        + """
  enter(document.getElementById("formula"), "SrTi");
  document.querySelector("#structures .group").click();
  all("#structures tr").find((row) => row.dataset.place === "22").click();
  for (const button of all("#downloads button")) button.click();
  document.getElementById("csv").click();
  document.getElementById("zip").click();
""",
        tmp_path,
    )
    assert seen["errors"] == []
    assert set(seen["saved"]) == {
        "00022_SrTiO3_generated.cif", "00022_SrTiO3_generated.vasp", "crystals.csv", "crystals.zip",
    }  # fmt: skip
    text = content(seen, "00022_SrTiO3_generated.cif")
    assert text == page.crystals[22].generated.cif
    assert parse_cif(text).composition == SKEW.composition

    text = content(seen, "00022_SrTiO3_generated.vasp")
    assert text.splitlines()[5:7] == ["Ti O Sr", "1 3 1"]
    moved = SKEW.copy()
    moved.translate_sites(range(5), -SKEW.frac_coords[2])
    grouped = moved.get_sorted_structure(
        key=lambda site: ["Ti", "O", "Sr"].index(site.specie.symbol)
    )
    for read in (Poscar.from_str(text).structure, read_poscar(text)):
        assert read.species == grouped.species
        np.testing.assert_allclose(read.lattice.parameters, SKEW.lattice.parameters, atol=1e-4)
        np.testing.assert_allclose(read.distance_matrix, grouped.distance_matrix, atol=1e-4)

    filtered = [i for i in page.order if values_of(page, "formula")[i] == "SrTiO3"]
    rows = list(csv.DictReader(io.StringIO(content(seen, "crystals.csv"), newline="")))
    assert [int(row["index"]) for row in rows] == filtered
    for i, row in zip(filtered, rows, strict=True):
        assert row["name"] == values_of(page, "name")[i]
        assert row["in_training_set"] == str(values_of(page, "in_training_set")[i])
        assert float(row["predicted_heat_ref"]) == values_of(page, "predicted_heat_ref")[i]
        assert float(row["closest_pair"]) == values_of(page, "closest_pair")[i]
    assert list(rows[0]) == [column.key for column in page.columns]

    with zipfile.ZipFile(io.BytesIO(base64.b64decode(seen["saved"]["crystals.zip"]))) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert archive.read("crystals.csv").decode() == content(seen, "crystals.csv")
        for i in filtered:
            name = f"generated/{i:05d}_SrTiO3"
            names -= {f"{name}.cif", f"{name}.vasp"}
            assert archive.read(f"{name}.cif").decode() == page.crystals[i].generated.cif
        assert names == {"crystals.csv"}


def test_of_a_thousand_crystals_rows_are_made_as_they_are_needed(tmp_path, monkeypatch):
    page = page_of(monkeypatch, crystals())
    places = [i % 23 for i in range(1000)]
    columns = [
        dataclasses.replace(
            column,
            values=[
                f"X{i}" if column.key == "formula" else column.values[place]
                for i, place in enumerate(places)
            ],
        )
        for column in page.columns
    ]
    thousand = dataclasses.replace(
        page,
        crystals=[page.crystals[place] for place in places],
        flags=[page.flags[place] for place in places],
        order=list(range(1000)),
        columns=columns,
    )
    seen = use(
        to_html(thousand),
        NAMES
        + """
  const more = document.getElementById("more"), box = document.querySelector(".scroll");
  seen.first = [names().length, more.textContent, count()];
  seen.canvases = all("canvas").length;
  box.scrollTop = box.scrollHeight;
  await until(() => names().length > 100);
  await pause(100);
  seen.scrolled = names().length;
  heading("volume_per_atom").querySelector("button").click(); seen.sorted = names().length;
  more.click(); seen.clicked = names().length;
""",
        tmp_path,
    )
    assert seen["errors"] == []
    assert seen["first"] == [
        100,
        "Show 100 more of 900 rows",
        "1000 of 1000 crystals, 1000 compositions",
    ]
    assert seen["canvases"] == 2
    assert 200 <= seen["scrolled"] <= 400
    assert seen["sorted"] == 100
    assert seen["clicked"] == 200


def test_one_atom_in_a_tiny_cell_is_shown_like_any_crystal(tmp_path, monkeypatch):
    page = page_of(monkeypatch, [Structure(Lattice.cubic(0.3), ["Fe"], [[0, 0, 0]]), None])
    seen = use(to_html(page), NAMES + "seen.count = count();", tmp_path)
    assert seen["errors"] == []
    assert seen["count"] == "1 of 1 crystals, 1 compositions"
