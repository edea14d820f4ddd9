"""evaluation/page and experiments/report.py: what the page says, and that it works in a browser."""

import dataclasses
import html
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.inputs import Inputs
from crystal_diffusion_jax.evaluation.page import figures
from crystal_diffusion_jax.evaluation.page.document import Page, to_html
from crystal_diffusion_jax.evaluation.page.entries import element_counts, entries
from experiments import report

SITES = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def perovskite(a: str, b: str, edge: float) -> Structure:
    return Structure(Lattice.cubic(edge), [a, b, "O", "O", "O"], SITES)


def training_set() -> CrystalDataset:
    structures = [perovskite("Ba", "Ti", 4.0), perovskite("Ba", "Ti", 4.4)]
    structures.append(perovskite("Sr", "Zr", 4.1))
    return CrystalDataset(
        lattice=np.array([s.lattice.matrix for s in structures]),
        num_atoms=np.array([5, 5, 5]),
        frac_coords=np.concatenate([s.frac_coords for s in structures]),
        atomic_numbers=np.array([z for s in structures for z in s.atomic_numbers]),
        properties=np.array([[0.1], [0.2], [0.3]]),
        property_names=("energy",),
        material_ids=np.array(["first", "second", "third"]),
    )


CRYSTALS: list[Structure | None] = [
    perovskite("Ba", "Ti", 4.3),
    None,
    perovskite("Ca", "Zr", 4.1),
    Structure(Lattice.hexagonal(2.5, 6.7), ["C"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
]
INPUTS = Inputs(CRYSTALS, ["0.cif", "1.cif", "2.cif", "</script><b>3"], {1: "empty file"})


def shown():
    values = np.array([-0.3, np.nan, 0.5, np.nan])
    flags = np.array([True, False, True, False])
    return entries(INPUTS, training_set(), 0.1, values, flags, ~flags)


def test_each_readable_crystal_has_an_entry_with_symmetry_and_judgement():
    first, second, third = shown()
    assert (first.formula, first.space_group) == ("BaTiO3", "Pm-3m (221)")
    assert first.cell == (4.3, 4.3, 4.3, 90.0, 90.0, 90.0)
    assert (first.value, first.valid, first.novel) == (-0.3, True, False)
    assert second.formula == "CaZrO3"
    assert third.space_group == "P6_3/mmc (194)"
    assert third.value is None
    assert "_symmetry_space_group_name_H-M   Pm-3m" in first.cif


def test_the_nearest_training_crystal_is_that_of_the_composition_then_of_the_volume():
    first, second, third = shown()
    assert first.nearest == "BaTiO3, 0.200 (second)"
    assert second.nearest == "SrZrO3, 0.300 (third)"  # shares Zr and O
    assert third.nearest  # something is always nearest


def test_atoms_on_the_boundary_are_drawn_on_all_sides():
    first = shown()[0]
    # One corner, eight times; one centre, once; three faces, twice each.
    counts = {symbol: first.symbols.count(symbol) for symbol in ("Ba", "Ti", "O")}
    assert counts == {"Ba": 8, "Ti": 1, "O": 6}
    assert np.ptp(first.positions, axis=0) == pytest.approx([4.3] * 3)


def test_an_atom_just_below_the_upper_face_is_drawn_at_the_lower_one_too():
    structure = Structure(Lattice.cubic(4.0), ["Fe"], [[0.995, 0.5, 0.5]])
    (entry,) = entries(Inputs([structure], ["a"], {}), None, 0.1)
    assert sorted(x for x, _, _ in entry.positions) == pytest.approx([-0.02, 3.98])
    assert (entry.nearest, entry.value, entry.valid) == ("", None, None)


def test_every_element_has_its_own_place_in_the_periodic_table():
    places = {figures._place(Element.from_Z(number)) for number in range(1, 119)}
    assert len(places) == 118
    assert figures._place(Element("Fe")) == (3, 7)
    assert figures._place(Element("Og")) == (6, 17)
    assert figures._place(Element("U")) == (8, 5)


def test_the_periodic_table_shows_the_share_of_crystals_with_an_element():
    counts = element_counts(CRYSTALS)
    assert counts == {"Ba": 1, "Ti": 1, "O": 2, "Ca": 1, "Zr": 1, "C": 1}
    heat = figures.periodic_table(counts, 3).data[0]
    assert heat.z[1][15] == pytest.approx(200 / 3)  # oxygen
    assert np.isnan(heat.z[0][0])


def test_the_histogram_holds_every_finite_prediction_whatever_its_size():
    train = np.linspace(0, 1, 50)
    values = np.array([0.5, np.nan, -1e6, 1e7, 0.2])
    figure = figures.histogram(values, train, {"SR5": 0.1}, 0.0, "energy")
    trained, generated = figure.data
    assert sum(trained.y) == pytest.approx(100)
    assert sum(generated.y) == pytest.approx(100)
    assert generated.y[0] == generated.y[-1] == pytest.approx(25)


def page() -> Page:
    found = shown()
    return Page(
        title="3 generated crystals",
        subtitle="<i>",
        notes=["no judge & no scores"],
        report=None,
        entries=found,
        histogram=figures.histogram(
            np.array([-0.3, 0.5]), np.array([0.1, 0.3]), {}, -0.3, "energy"
        ),
        bars=figures.composition_bars([entry.formula for entry in found]),
        elements=figures.periodic_table(element_counts(CRYSTALS), 3),
        property_title="energy, eV",
        command="python -m experiments.sample --seed=0",
        versions="1.0",
    )


class Scripts(html.parser.HTMLParser):
    """Collects what a browser would load, and the texts of the script elements."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attributes if name in ("src", "href")]
        self._inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts.append(data)


def test_the_file_loads_nothing_and_foreign_names_stay_text():
    text = to_html(page())
    scripts = Scripts()
    scripts.feed(text)
    assert scripts.loaded == []
    (data,) = [part for part in scripts.texts if part.startswith('{"property"')]
    assert [entry["name"] for entry in json.loads(data)["entries"]][2] == "</script><b>3"
    assert "&lt;i&gt;" in text
    assert "no judge &amp; no scores" in text
    assert not re.search("@@[A-Z]+@@", text)


# Appended to the page: does what a user does, and leaves what it saw in the title.
USER = """
<script>
window.addEventListener("load", async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const all = (selector) => [...document.querySelectorAll(selector)];
  const names = () => all("#structures tbody tr").map((row) => row.children[1].textContent);
  const seen = { before: names() };
  const header = all("#structures th").find((th) => th.textContent.startsWith("energy"));
  header.click(); seen.ascending = names();
  header.click(); seen.descending = names();
  const filter = document.getElementById("filter");
  filter.value = "zr"; filter.dispatchEvent(new Event("input")); seen.filtered = names();
  document.querySelector("#structures tbody tr").click();
  await pause(1500);
  seen.shown = document.getElementById("name").textContent;
  const viewer = document.getElementById("viewer");
  seen.atoms = viewer.data.filter((t) => t.mode === "markers").map((t) => [t.name, t.x.length]);
  seen.canvas = viewer.querySelectorAll("canvas").length > 0;
  const eye = () => Object.values(viewer._fullLayout.scene._scene.getCamera().eye);
  seen.eye = eye();
  const target = viewer.querySelector("canvas"), box = target.getBoundingClientRect();
  const mouse = (kind, x, buttons) => target.dispatchEvent(new MouseEvent(kind, {
    bubbles: true, buttons, button: 0, clientX: box.left + x, clientY: box.top + 200 }));
  mouse("mouseover", 200, 0); mouse("mousemove", 200, 0); mouse("mousedown", 200, 1);
  for (let x = 200; x < 320; x += 10) { mouse("mousemove", x, 1); await pause(30); }
  mouse("mouseup", 320, 0);
  await pause(500);
  seen.eyeAfter = eye();
  let file = null;
  URL.createObjectURL = (blob) => { file = blob; return "#"; };
  document.getElementById("cif").click();
  seen.cif = (await file.text()).slice(0, 400);
  seen.errors = window.problems;
  document.title = JSON.stringify(seen);
});
</script>
"""
WATCH = """<script>
window.problems = [];
window.addEventListener("error", (e) => window.problems.push(String(e.message)));
const said = console.error;
console.error = (...all) => { window.problems.push(all.join(" ")); said(...all); };
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_in_a_browser_the_table_sorts_and_a_crystal_is_shown_turned_and_downloaded(tmp_path):
    text = to_html(page()).replace("<head>", "<head>" + WATCH).replace("</body>", USER + "</body>")
    file = tmp_path / "page.html"
    file.write_text(text)
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1250,1600", "--virtual-time-budget=60000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    seen = json.loads(html.unescape(title[1]))
    assert seen["errors"] == []
    assert seen["before"] == ["BaTiO3", "CaZrO3", "C"]
    assert seen["ascending"] == ["BaTiO3", "CaZrO3", "C"]  # what has no value comes last
    assert seen["descending"] == ["CaZrO3", "BaTiO3", "C"]
    assert seen["filtered"] == ["CaZrO3"]
    assert seen["shown"] == "CaZrO3"
    assert dict(seen["atoms"]) == {"Ca": 8, "Zr": 1, "O": 6}
    assert seen["canvas"]
    assert np.linalg.norm(np.subtract(seen["eyeAfter"], seen["eye"])) > 0.2
    assert "CaZrO3" in seen["cif"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    report.main()


def test_crystals_without_a_judge_are_shown_with_a_note(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "cifs"
    folder.mkdir()
    perovskite("Ba", "Ti", 4.0).to(str(folder / "a.cif"))
    (folder / "b.cif").write_text("nothing")
    run(monkeypatch, f"--structures={folder}", f"--out={tmp_path / 'page.html'}")
    printed = capsys.readouterr().out
    assert "note: No published network judges this property" in printed
    assert "1 crystals could not be read" in printed
    assert "BaTiO3" in (tmp_path / "page.html").read_text()


def test_a_data_set_that_is_not_there_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSTAL_DIFFUSION_DATA", str(tmp_path))
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    found, train, notes = report.judge(INPUTS, "perov5", "")
    assert found is None
    assert train is None
    assert "no comparison with the training set" in notes[0]


def test_the_command_of_a_record_is_told_in_full():
    settings = {
        "model": "perov5_cds", "conditions": {"heat_ref": -0.3284636917}, "num": 7, "seed": 3,
        "guidance": 1.0, "num_steps": 50, "gamma": 1e-6, "solver": "second_order",
        "elements": ["Ba", "O"], "num_atoms": 5,
    }  # fmt: skip
    assert report.sample_command(settings) == (
        "python -m experiments.sample --model=perov5_cds --target=heat_ref=-0.3284636917 --num=7 "
        "--seed=3 --guidance=1.0 --num_steps=50 --gamma=1e-06 --solver=second_order "
        "--elements=Ba,O --num_atoms=5"
    )
    settings["conditions"] = {}
    assert "--target=none" in report.sample_command(settings)
    assert report.find_dataset(None, settings) == "perov5"
    assert report.find_dataset("mp20", settings) == "mp20"
    assert report.find_dataset(None, {"model": "gone"}) is None


def test_without_plotly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UserError, match=r"pip install '\.\[plots\]'"):
        figures.require_plotly()


def test_a_page_without_crystals_is_a_page(tmp_path):
    empty = dataclasses.replace(
        page(), entries=[], histogram=None, bars=figures.composition_bars([])
    )
    assert '"entries": []' in to_html(empty)
    assert Path(tmp_path).exists()
