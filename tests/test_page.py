"""The HTML report: what the page says, and that it works in a browser."""

import dataclasses
import html
import html.parser
import json
import re
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import report
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.report import build
from crystal_diffusion_jax.report.distribution import distribution, periodic_table, place
from crystal_diffusion_jax.report.document import Page, to_html
from crystal_diffusion_jax.report.entries import element_counts, entries
from crystal_diffusion_jax.report.pictures import pictures
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.reading import Inputs
from crystal_diffusion_jax.structures.store import StoredRequest
from tests.browser import needs_browser, use

SITES = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])


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


def test_each_readable_crystal_has_an_entry_with_symmetry_and_scores():
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
    structure = Structure(Lattice.cubic(4.0), ["Fe", "C"], [[0.0, 0.0, 0.0], [0.995, 0.5, 0.5]])
    (entry,) = entries(Inputs([structure], ["a"], {}), None, 0.1)
    carbon = [p for p, symbol in zip(entry.positions, entry.symbols, strict=True) if symbol == "C"]
    assert sorted(x for x, _, _ in carbon) == pytest.approx([-0.02, 3.98])
    assert (entry.nearest, entry.value, entry.valid) == ("", None, None)


def test_the_picture_of_a_crystal_does_not_depend_on_its_origin():
    moved = perovskite("Ba", "Ti", 4.3)
    moved.translate_sites(range(5), [0.31, 0.62, 0.93])
    (entry,) = entries(Inputs([moved], ["a"], {}), None, 0.1)
    first = shown()[0]
    order = [sorted(zip(e.symbols, e.positions, strict=True)) for e in (entry, first)]
    assert [symbol for symbol, _ in order[0]] == [symbol for symbol, _ in order[1]]
    ours, theirs = ([position for _, position in pairs] for pairs in order)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)  # written with three decimals


def test_every_element_has_its_own_place_in_the_periodic_table():
    places = {place(Element.from_Z(number)) for number in range(1, 119)}
    assert len(places) == 118
    assert place(Element("Fe")) == (3, 7)
    assert place(Element("Og")) == (6, 17)
    assert place(Element("U")) == (8, 5)


def test_the_periodic_table_shows_the_share_of_crystals_with_an_element():
    counts = element_counts(CRYSTALS)
    assert counts == {"Ba": 1, "Ti": 1, "O": 2, "Ca": 1, "Zr": 1, "C": 1}
    share, _ = periodic_table(counts, 3)
    assert share[1, 15] == pytest.approx(200 / 3)  # oxygen
    assert np.isnan(share[0, 0])


def page(readable: bool = True) -> Page:
    found = shown() if readable else []
    shares = distribution(
        np.array([-0.3, 0.5]), np.array([0.1, 0.3]), {"SR5": 0.1}, (-0.4, -0.2), "energy"
    )
    formulas = [entry.formula for entry in found]
    counts = element_counts(CRYSTALS) if readable else {}
    return Page(
        title="3 generated crystals",
        subtitle="<i>",
        notes=["no oracle & no scores"],
        rates={"valid": Rate(2, 3), "none": Rate(0, 0)},
        caption="valid < all",
        entries=found,
        pictures=pictures(shares if readable else None, formulas, counts),
        property_title="energy, eV",
        command="crystal-diffusion sample --seed=0",
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


def test_a_banner_stands_before_the_notes():
    text = to_html(dataclasses.replace(page(), banner="Trained on 36 < 40"))
    assert '<p class="banner">Trained on 36 &lt; 40</p>\n<p class="note">' in text
    assert 'class="banner"' not in to_html(page())


def test_the_file_loads_nothing_and_foreign_names_stay_text():
    text = to_html(page())
    scripts = Scripts()
    scripts.feed(text)
    assert scripts.loaded == []
    (data,) = [part for part in scripts.texts if part.startswith('{"property"')]
    assert [entry["name"] for entry in json.loads(data)["entries"]][2] == "</script><b>3"
    assert "&lt;i&gt;" in text
    assert "no oracle &amp; no scores" in text
    assert "valid &lt; all" in text
    assert "<b>66.7 %</b>valid<br><span>2 of 3</span>" in text
    assert "<b>-</b>none<br><span>0 of 0</span>" in text
    assert "<li><b>valid</b>: no atoms closer than 0.5 A" in text
    assert text.count("<svg xmlns:xlink") == 3
    assert not re.search("@@[A-Z]+@@", text)


USER = """
  const names = () => all("#structures tbody tr").map((row) => row.children[1].textContent);
  seen.before = names();
  const header = all("#structures th").find((th) => th.textContent.startsWith("energy"));
  header.click(); seen.ascending = names();
  header.click(); seen.descending = names();
  const filter = document.getElementById("filter");
  filter.value = "zr"; filter.dispatchEvent(new Event("input")); seen.filtered = names();
  document.querySelector("#structures tbody tr").click();
  await drawn();
  await pause(1500);
  seen.shown = document.getElementById("name").textContent;
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
  await until(() => eye().some((value, axis) => Math.abs(value - seen.eye[axis]) > 0.2));
  seen.eyeAfter = eye();
  let file = null;
  URL.createObjectURL = (blob) => { file = blob; return "#"; };
  document.getElementById("cif").click();
  seen.cif = (await file.text()).slice(0, 400);
  seen.choice = document.getElementById("states").offsetParent !== null;
"""


@needs_browser
def test_in_a_browser_the_table_sorts_and_a_crystal_is_shown_turned_and_downloaded(tmp_path):
    seen = use(to_html(page()), USER, tmp_path)
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
    assert not seen["choice"]  # nothing was relaxed


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    report.main()


def test_crystals_without_an_oracle_are_shown_with_a_note(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "cifs"
    folder.mkdir()
    perovskite("Ba", "Ti", 4.0).to(str(folder / "a.cif"))
    (folder / "b.cif").write_text("nothing")
    pictures_folder = tmp_path / "png"
    pictures_folder.mkdir()
    (pictures_folder / "histogram.png").write_text("of other crystals")
    run(
        monkeypatch,
        f"--structures={folder}",
        f"--out={tmp_path / 'page.html'}",
        f"--png={pictures_folder}",
    )
    printed = capsys.readouterr().out
    assert "note: There is no oracle for this property" in printed
    assert "1 crystals could not be read" in printed
    assert "BaTiO3" in (tmp_path / "page.html").read_text()
    assert {path.name for path in pictures_folder.iterdir()} == {"compositions.png", "elements.png"}


def test_a_folder_of_pictures_that_cannot_be_created_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    arguments = (f"--structures={tmp_path}", f"--out={tmp_path / 'page.html'}")
    with pytest.raises(UserError, match=r"--png=.*cannot be written"):
        run(monkeypatch, *arguments, f"--png={tmp_path / 'file'}")


def volume_oracle(structures: Sequence[Structure], oracle: str) -> Predictions:
    """Predicts (a - 4.2 Angstrom) of a cube of edge a, in eV per Angstrom."""
    return Predictions(np.array([s.volume ** (1 / 3) - 4.2 for s in structures]), {})


def no_oracle(structures: Sequence[Structure], oracle: str) -> Predictions:
    raise UserError("no weights")


REQUEST = Request(
    model="perov5_cds", model_sha256="0123456789abcdef", target={"heat_ref": (-0.3284636917,) * 2},
    num=4, seed=3, guidance=1.0, solver="second_order", num_steps=50, corrector_step_size=1e-6,
    renoising_steps=0, elements=("Ba", "O"), num_atoms=5, symprec=0.1,
)  # fmt: skip
# Cubes of edge 3.8, 4.3 and 5.2 Angstrom.
SAMPLED = Inputs(
    [
        perovskite("Ba", "Ti", 3.8),
        perovskite("Ba", "Ti", 4.3),
        perovskite("Ca", "Zr", 5.2),
        None,
    ],
    ["0", "1", "2", "3"],
    {3: "atoms too close"},
)


@pytest.fixture
def _samples_without_data(tmp_path, monkeypatch):
    """A folder of samples, and neither data set nor cache."""
    monkeypatch.delenv("CRYSTAL_DIFFUSION_DATA", raising=False)
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "read_structures", lambda path: SAMPLED)
    stored = StoredRequest(REQUEST, {"jax": "0.9", "spglib": "2.6"})
    monkeypatch.setattr("crystal_diffusion_jax.structures.store.read_request", lambda path: stored)


@pytest.mark.usefixtures("_samples_without_data")
def test_without_the_data_set_everything_else_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "predict", volume_oracle)
    out = tmp_path / "page.html"
    run(monkeypatch, f"--structures={tmp_path / 'my samples'}", f"--out={out}")
    text = out.read_text()
    # The predictions are -0.4, 0.1 and 1.0; the largest threshold is 0.736; four were requested.
    assert "<b>50.0 %</b>SR5<br><span>2 of 4</span>" in text
    assert "<b>75.0 %</b>valid<br><span>3 of 4</span>" in text
    assert "<b>50.0 %</b>unique compositions<br><span>2 of 4</span>" in text
    assert "novel<br>" not in text
    assert text.count("<svg xmlns:xlink") == 3
    assert "heat_ref = -0.328464 eV/cell with guidance 1" in text
    assert html.escape(REQUEST.command(tmp_path / "my samples")) in text
    assert f"crystal-diffusion report &#x27;--structures={tmp_path}/my samples" in text
    assert "Sampled with jax 0.9, spglib 2.6; weights 0123456789ab (sha256). Report by" in text
    printed = capsys.readouterr().out
    assert "nearest training crystals and the share of useful crystals are missing" in printed
    assert "`python -m experiments.prepare --dataset=perov5`" in printed


@pytest.mark.usefixtures("_samples_without_data")
def test_a_crystal_outside_the_oracles_training_has_its_reason_on_the_page(
    tmp_path, monkeypatch, capsys
):
    reason = f"{OUTSIDE} (volume per atom): 800 A^3, trained on 7.2 to 37.2"

    def all_but_the_first(structures: Sequence[Structure], oracle: str) -> Predictions:
        values = volume_oracle(structures, oracle).values
        return Predictions(np.array([np.nan, *values[1:]]), {0: reason})

    monkeypatch.setattr(build, "predict", all_but_the_first)
    out = tmp_path / "page.html"
    run(monkeypatch, f"--structures={tmp_path / 's'}", f"--out={out}")
    text = out.read_text()
    (content,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(content)
    assert [entry["failure"] for entry in data["entries"]] == [reason, "", ""]
    assert data["entries"][0]["value"] is None
    # The first, of -0.4, reached SR5 in the test above.
    assert "<b>25.0 %</b>SR5<br><span>1 of 4</span>" in text
    assert f"1 crystals are {OUTSIDE}" in capsys.readouterr().out


@pytest.mark.usefixtures("_samples_without_data")
def test_without_data_and_oracle_the_crystals_alone_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "predict", no_oracle)
    out = tmp_path / "page.html"
    run(monkeypatch, f"--structures={tmp_path / 's'}", f"--out={out}")
    text = out.read_text()
    assert "3 of 4</span>" in text
    assert "Pm-3m (221)" in text
    assert "SR5<br>" not in text
    assert text.count("<svg xmlns:xlink") == 2
    assert "No predictions and no success rates: no weights" in capsys.readouterr().out


@pytest.mark.usefixtures("_samples_without_data")
def test_a_wrong_root_is_refused_instead_of_noted(tmp_path):
    with pytest.raises(UserError, match="gone"):
        build.score(INPUTS, KNOWN_DATASETS["perov5"], str(tmp_path / "gone"))


def test_with_only_a_training_split_novelty_is_known_and_the_oracle_unchecked(monkeypatch):
    monkeypatch.setattr(build, "load", lambda config: {"train": training_set()})
    for oracle, success in ((volume_oracle, 3), (no_oracle, 0)):
        monkeypatch.setattr(build, "predict", oracle)
        found, train, _ = build.score(INPUTS, KNOWN_DATASETS["perov5"], "")
        assert found.counts["test"] is None
        assert train is not None
        assert found.diversity["novel"] == Rate(2, 4)  # BaTiO3 is in the training set
        assert len(found.success_rate) == success


def test_the_training_distribution_is_that_of_the_labels_or_else_of_the_model():
    spec = KNOWN_DATASETS["perov5"]
    statistics = trained_model.load("perov5_cds").statistics
    stored = build.training_quantiles(spec, None, statistics)
    assert stored is not None
    assert stored[0] == statistics.property_min[0]
    assert len(stored) == 101
    labels = build.training_quantiles(spec, training_set(), statistics)
    np.testing.assert_array_equal(labels, [0.1, 0.2, 0.3])
    assert build.training_quantiles(spec, None, None) is None


def test_the_request_is_described_with_units_where_they_are_known():
    both = dataclasses.replace(REQUEST, target={"heat_ref": (0.25, 0.5), "gap": (2.0, 2.0)})
    assert build.describe(both, KNOWN_DATASETS["perov5"]) == (
        "Requested from perov5_cds: heat_ref = 0.25 to 0.5 eV/cell, gap = 2 with guidance 1."
    )
    balanced = dataclasses.replace(REQUEST, target={}, charge_balance=True)
    assert build.describe(balanced, None).endswith("with guidance 1 and balanced charges.")
    free = dataclasses.replace(REQUEST, target={}, guidance=0.0)
    assert build.describe(free, None) == "Requested from perov5_cds: no particular property."


@pytest.mark.usefixtures("_samples_without_data")
def test_a_missing_model_does_not_prevent_the_page(tmp_path, monkeypatch):
    gone = StoredRequest(dataclasses.replace(REQUEST, model="gone"), {})
    monkeypatch.setattr("crystal_diffusion_jax.structures.store.read_request", lambda path: gone)
    run(monkeypatch, f"--structures={tmp_path / 's'}", f"--out={tmp_path / 'page.html'}")
    text = (tmp_path / "page.html").read_text()
    assert "3 of 4</span>" in text
    assert "Requested from gone: heat_ref = -0.328464 with guidance 1." in text


@pytest.mark.usefixtures("_samples_without_data")
def test_the_distribution_is_that_of_the_models_own_data_set_only(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "predict", volume_oracle)
    drawn: list[np.ndarray | None] = []

    def draw(values, training, *others):
        drawn.append(training)
        return distribution(values, training, *others)

    monkeypatch.setattr(build, "distribution", draw)
    for dataset in ("perov5", "mp20"):
        arguments = [f"--structures={tmp_path / 's'}", f"--out={tmp_path / 'page.html'}"]
        run(monkeypatch, *arguments, f"--dataset={dataset}")
    assert [training is None for training in drawn] == [False, True]


def test_a_page_without_crystals_is_a_page():
    assert '"entries": []' in to_html(page(readable=False))
