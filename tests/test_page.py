"""The HTML report: what the page says, and what it says when something is missing."""

import dataclasses
import html
import html.parser
import re
import sys

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import report
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.report import build
from crystal_diffusion_jax.report.build import training_crystals
from crystal_diffusion_jax.report.credibility import CLOSE, HUGE, INVALID, UNKNOWN
from crystal_diffusion_jax.report.crystals import element_counts
from crystal_diffusion_jax.report.distribution import distribution, periodic_table, place
from crystal_diffusion_jax.report.document import Page, to_html
from crystal_diffusion_jax.report.states import cell_of_largest_atom, closest_pair
from crystal_diffusion_jax.report.wording import asked_in_words, describe
from crystal_diffusion_jax.request import FormulaRequest
from crystal_diffusion_jax.structures.database import StoredRequest
from crystal_diffusion_jax.structures.reading import Inputs
from tests.page_contents import (
    PEROV5,
    REQUEST,
    data_of,
    no_oracle,
    page_of,
    perovskite,
    training_set,
    values_of,
    volume_oracle,
)

GRAPHITE = Structure(
    Lattice.hexagonal(2.5, 6.7), ["C"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
)
CRYSTALS = [perovskite("Ba", "Ti", 4.3), None, perovskite("Ca", "Zr", 4.1), GRAPHITE]


@pytest.fixture(scope="module")
def page() -> Page:
    with pytest.MonkeyPatch.context() as patch:
        return page_of(patch, CRYSTALS, training_set())


def test_each_readable_crystal_has_symmetry_cell_and_scores(page):
    first, second, third = page.crystals
    assert (first.index, second.index, third.index) == (0, 2, 3)
    assert (first.formula, first.generated.space_group) == ("BaTiO3", "Pm-3m (221)")
    assert first.generated.cell == (4.3, 4.3, 4.3, 90.0, 90.0, 90.0)
    assert first.generated.volume_per_atom == pytest.approx(4.3**3 / 5, abs=1e-3)
    assert first.generated.value == pytest.approx(0.1)
    assert first.difference == pytest.approx(0.4)  # 0.5 was asked for
    assert (first.in_training, second.in_training) == (True, False)
    assert third.generated.space_group == "P6_3/mmc (194)"
    assert "_symmetry_space_group_name_H-M   Pm-3m" in first.generated.cif
    assert page.remarks == ["1 crystals are not shown: unreadable."]
    assert page.notes == []


def test_the_nearest_training_crystal_is_that_of_the_composition_then_of_the_volume(page):
    first, second, third = page.crystals
    assert first.nearest == "BaTiO3, 0.200 (second)"
    assert second.nearest == "SrZrO3, 0.300 (third)"  # shares Zr and O
    assert third.nearest  # something is always nearest


def test_the_picture_of_a_crystal_does_not_depend_on_its_origin():
    moved = perovskite("Ba", "Ti", 4.3)
    moved.translate_sites(range(5), [0.31, 0.62, 0.93])
    ours, theirs = cell_of_largest_atom(moved), cell_of_largest_atom(perovskite("Ba", "Ti", 4.3))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_the_closest_pair_counts_images_and_every_pair_by_its_own_radii():
    # The nearest images of Ti and O: half an edge; radii of 1.60 and 0.66 A.
    distance, in_radii = closest_pair(perovskite("Ba", "Ti", 4.0))
    assert distance == pytest.approx(2.0)
    assert in_radii == pytest.approx(2.0 / (1.60 + 0.66))
    # One atom, whose neighbours are its images along the short edge; radius of iron 1.32 A.
    iron = Structure(Lattice.tetragonal(2.0, 5.0), ["Fe"], [[0, 0, 0]])
    assert closest_pair(iron) == pytest.approx((2.0, 2.0 / 2.64))
    # The closest in Angstrom, of hydrogen, is not the closest in radii (0.31 A of hydrogen).
    three = Structure(
        Lattice.cubic(20), ["H", "H", "Cs", "Cs"],
        [[0.0, 0.0, 0.0], [0.05, 0.0, 0.0], [0.5, 0.5, 0.5], [0.65, 0.5, 0.5]],
    )  # fmt: skip
    assert closest_pair(three) == pytest.approx((1.0, 3.0 / 4.88))
    alone = Structure(Lattice.cubic(20), ["Fe"], [[0, 0, 0]])
    assert closest_pair(alone) == (np.inf, np.inf)
    thin = Structure(Lattice.tetragonal(0.2, 20.0), ["Fe"], [[0, 0, 0]])
    assert closest_pair(thin) == pytest.approx((0.2, 0.2 / 2.64))


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


def test_flags_name_what_is_not_to_be_believed_and_credible_crystals_come_first(monkeypatch):
    reason = f"{OUTSIDE} (volume per atom): 800 A^3, trained on 7.2 to 37.2"

    def oracle(structures, oracle):
        values = volume_oracle(structures, oracle).values
        huge = [index for index, s in enumerate(structures) if s.volume > 300]
        values[huge] = np.nan
        return Predictions(values, dict.fromkeys(huge, reason))

    crowded = perovskite("Ba", "Ti", 4.7)
    crowded.translate_sites([2], [0.0, 0.0, 0.3])
    shown = page_of(
        monkeypatch,
        [
            perovskite("Ba", "Ti", 8.0),
            crowded,
            perovskite("Ba", "Ti", 4.2),
            perovskite("Ne", "Ti", 4.7),
            perovskite("Ca", "Ti", 4.6),
        ],
        oracle=oracle,
    )
    assert shown.flags == [[HUGE, UNKNOWN], [CLOSE], [], [INVALID], []]
    # Asked for 0.5, predicted 0.4 (number 4) and 0.0 (2), then those with one flag, and with two.
    assert shown.order == [4, 2, 1, 3, 0]
    assert "those without flags first, then by |predicted - asked|. Click" in shown.order_in_words
    assert values_of(shown, "reason")[0] == reason
    assert set(shown.flag_meanings) >= {flag for flags in shown.flags for flag in flags}


def test_a_column_that_no_crystal_has_a_value_for_is_left_out(monkeypatch, page):
    keys = {column.key for column in page.columns}
    assert {"predicted_heat_ref", "asked", "difference", "in_training_set", "valid"} < keys
    assert not keys & {"energy_above_hull", "displacement", "relaxed_space_group"}
    without = page_of(monkeypatch, CRYSTALS, oracle=no_oracle)
    left = {column.key for column in without.columns}
    # "asked" is from the request; a crystal's failure is there once the oracle has none either.
    assert keys - left == {
        "predicted_heat_ref", "difference", "in_training_set", "nearest_training_crystal",
    }  # fmt: skip
    assert all(len(column.values) == 3 for column in page.columns)


def test_what_valid_and_not_in_the_training_set_mean_is_on_the_page(page):
    text = to_html(page)
    about = {column["key"]: column["about"] for column in data_of(text)["columns"]}
    assert "no two atoms closer than 0.5 Å" in about["valid"]
    assert "says nothing about stability" in about["valid"]
    assert "is not the same as unknown" in about["in_training_set"]
    assert '<li><span class="stage">not in the training set</span>' in text


class Loaded(html.parser.HTMLParser):
    """Collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.places += [str(value) for name, value in attributes if name in ("src", "href")]


def test_the_file_loads_nothing_and_foreign_names_stay_text(monkeypatch):
    shown = page_of(monkeypatch, CRYSTALS, training_set())
    evil = dataclasses.replace(
        shown,
        subtitle="<i>",
        notes=["no oracle & no scores"],
        rates={"valid < all": Rate(2, 3), "none": Rate(0, 0)},
        banner="Trained on 36 < 40",
    )
    values_of(evil, "name")[0] = "</script><b>3"
    text = to_html(evil)
    loaded = Loaded()
    loaded.feed(text)
    assert set(loaded.places) == {"#crystals"}
    assert not re.search(r"url\((?!#)|@import", text)
    names = {column["key"]: column["values"] for column in data_of(text)["columns"]}["name"]
    assert names[0] == "</script><b>3"
    assert "<p>&lt;i&gt;</p>" in text
    assert '<p class="note">no oracle &amp; no scores</p>' in text
    assert '<p class="banner">Trained on 36 &lt; 40</p><p class="note">' in text
    assert "<b>66.7 %</b>valid &lt; all<br><span>2 of 3</span>" in text
    assert "<b>-</b>none<br><span>0 of 0</span>" in text
    assert not re.search("@@[A-Z]+@@", text)
    assert 'class="banner"' not in to_html(shown)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of a colour such as "#1f2933"."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_the_contrast_that_wcag_asks_for(monkeypatch, scheme):
    style = to_html(page_of(monkeypatch, [None])).partition("</style>")[0]
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", light if scheme == "light" else dark))
    pairs = [(text, ground) for text in ("text", "quiet") for ground in ("ground", "panel")]
    pairs += [("text", ground) for ground in ("chosen", "warn", "alarm")]
    pairs += [(text, ground) for text in ("link", "accent") for ground in ("ground", "chosen")]
    for pair in pairs:
        high, low = sorted((luminance(colours[name]) for name in pair), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair  # success criterion 1.4.3


def test_the_symmetry_operations_of_a_group_are_written_once(monkeypatch):
    shown = page_of(monkeypatch, [perovskite("Ba", "Ti", 4.0 + i / 50) for i in range(8)])
    data = data_of(to_html(shown))
    assert len(data["operations"]) == 1
    for crystal, written in zip(shown.crystals, data["crystals"], strict=True):
        head, number, tail = written["generated"]["cif"]
        assert head + data["operations"][number] + tail == crystal.generated.cif


def test_a_page_of_a_hundred_crystals_is_below_three_megabytes(monkeypatch):
    cell = Lattice.from_parameters(7.1, 8.3, 9.7, 81, 95, 107)
    coords = np.random.default_rng(0).random((20, 3))
    large = Structure(cell, ["Cs", "Ba", "Ti", "O"] * 5, coords)
    shown = page_of(monkeypatch, [large])
    repeated = dataclasses.replace(
        shown,
        crystals=list(shown.crystals) * 100,
        flags=list(shown.flags) * 100,
        order=list(range(100)),
        columns=[dataclasses.replace(x, values=x.values * 100) for x in shown.columns],
    )
    # With relaxed structures of the same size on top.
    num_bytes = len(to_html(repeated).encode())
    assert 2 * num_bytes < 3e6


def test_a_page_without_crystals_is_a_page(monkeypatch):
    assert data_of(to_html(page_of(monkeypatch, [None])))["crystals"] == []


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    report.main()


def test_crystals_without_an_oracle_are_shown_with_a_remark(tmp_path, monkeypatch, capsys):
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
    assert "1 crystals are not shown: unreadable." in printed
    text = (tmp_path / "page.html").read_text()
    assert "BaTiO3" in text
    assert 'class="note"' not in text
    assert {path.name for path in pictures_folder.iterdir()} == {"compositions.png", "elements.png"}


def test_the_root_of_own_data_tells_which_crystals_are_in_them(tmp_path, monkeypatch):
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, crystal in (("a", perovskite("Ba", "Ti", 4.0)), ("b", perovskite("Sr", "Ti", 3.9))):
        crystal.to(str(folder / f"{name}.cif"))
    table = tmp_path / "own.csv"
    text = perovskite("Ba", "Ti", 4.02).to(fmt="cif").replace('"', '""')
    table.write_text(f'material_id,cif\nmine,"{text}"\n')
    out = tmp_path / "page.html"
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    run(monkeypatch, f"--structures={folder}", f"--root={table}", f"--out={out}")
    found = {column["key"]: column["values"] for column in data_of(out.read_text())["columns"]}
    assert found["in_training_set"] == [True, False]
    assert found["nearest_training_crystal"][0] == "BaTiO3 (mine)"
    with pytest.raises(UserError, match=r"gone\.csv"):
        run(monkeypatch, f"--structures={folder}", f"--root={tmp_path}/gone.csv", f"--out={out}")


def test_own_data_are_looked_for_where_they_were_trained_on_or_at_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    rows = ["material_id,cif,gap"]
    for index, edge in enumerate((3.9, 4.0, 4.1, 4.2)):
        text = perovskite("Ba", "Ti", edge).to(fmt="cif").replace('"', '""')
        rows.append(f'{index},"{text}",{index / 10}')
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    data = DataConfig(root=str(tmp_path), properties=("gap",))
    assert len(training_crystals(data, "")) == 4
    moved = dataclasses.replace(data, root=str(tmp_path / "gone"))
    assert len(training_crystals(moved, str(tmp_path))) == 4
    missing, notes = build.find_training(moved, "", None)
    assert missing is None
    assert "gone" in notes[0]
    assert build.find_training(DataConfig(), "", None) == (None, [])


def test_a_folder_of_pictures_that_cannot_be_created_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    arguments = (f"--structures={tmp_path}", f"--out={tmp_path / 'page.html'}")
    with pytest.raises(UserError, match=r"--png=.*cannot be written"):
        run(monkeypatch, *arguments, f"--png={tmp_path / 'file'}")


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
LOWEST = dataclasses.replace(REQUEST, target={"heat_ref": (-0.3284636917,) * 2})


@pytest.fixture
def _model_without_crystals(monkeypatch):
    """A model of which the training crystals were removed."""
    monkeypatch.setattr(trained_model.TrainedModel, "training_crystals", lambda self: None)


@pytest.fixture
def _samples_without_data(tmp_path, monkeypatch):
    """A folder of samples, and neither data set nor cache."""
    monkeypatch.delenv("CRYSTAL_DIFFUSION_DATA", raising=False)
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "read_structures", lambda path: SAMPLED)
    stored = StoredRequest(LOWEST, {"jax": "0.9", "spglib": "2.6"})
    monkeypatch.setattr(
        "crystal_diffusion_jax.structures.samples_reader.read_request", lambda path: stored
    )


@pytest.mark.usefixtures("_samples_without_data")
def test_what_is_new_is_known_from_the_crystals_that_come_with_the_model(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(build, "predict", volume_oracle)
    out = tmp_path / "page.html"
    run(monkeypatch, f"--structures={tmp_path / 'my samples'}", f"--out={out}")
    assert '<span class="stage">not in the training set</span>' in out.read_text()
    assert "in the training set" not in capsys.readouterr().out


@pytest.mark.usefixtures("_samples_without_data", "_model_without_crystals")
def test_without_the_data_set_everything_else_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "predict", volume_oracle)
    out = tmp_path / "page.html"
    run(monkeypatch, f"--structures={tmp_path / 'my samples'}", f"--out={out}")
    text = out.read_text()
    # The predictions are -0.4, 0.1 and 1.0; SR5 is up to 0.439; four were requested.
    assert "<b>50.0 %</b>SR5<br><span>2 of 4</span>" in text
    assert "<b>50.0 %</b>unique compositions<br><span>2 of 4</span>" in text
    stages = re.findall(r'<span class="stage">(.*?)</span>.*?"count">(\d+)<', text)
    assert stages == [
        ("asked", "4"), ("written", "3"), ("valid", "3"),
        ("predicted at most 0.4392 eV/cell (SR5)", "2"), ("unique", "1"),
    ]  # fmt: skip
    assert text.count("<svg xmlns:xlink") == 1
    assert "heat_ref = -0.328464 eV/cell with guidance 1" in text
    assert html.escape(LOWEST.command(tmp_path / "my samples")) in text
    assert f"crystal-diffusion report &#x27;--structures={tmp_path}/my samples" in text
    weights = LOWEST.model_sha256[:12]
    assert f"Sampled with jax 0.9, spglib 2.6; weights {weights} (sha256). Report by" in text
    printed = capsys.readouterr().out
    assert "It is not known which crystals are in the training set" in printed
    assert "`python -m experiments.prepare --dataset=perov5`" in printed


@pytest.mark.usefixtures("_samples_without_data")
def test_without_data_and_oracle_the_crystals_alone_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "predict", no_oracle)
    out = tmp_path / "page.html"
    run(monkeypatch, f"--structures={tmp_path / 's'}", f"--out={out}")
    text = out.read_text()
    assert "Pm-3m (221)" in text
    assert "SR5<br>" not in text
    assert "<svg" not in text
    assert "No predictions and no success rates: no weights" in capsys.readouterr().out


def test_a_wrong_root_is_refused_instead_of_noted(tmp_path):
    for data in (DataConfig(name="perov5"), DataConfig(root=str(tmp_path), properties=("gap",))):
        with pytest.raises(UserError, match="gone"):
            build.find_training(data, str(tmp_path / "gone"), PEROV5)


def test_the_training_distribution_is_that_of_the_labels_or_else_of_the_model():
    statistics = trained_model.load("perov5_cds").statistics
    stored = build.training_quantiles(PEROV5, None, statistics)
    assert stored is not None
    assert stored[0] == statistics.property_min[0]
    assert len(stored) == 101
    labels = build.training_quantiles(PEROV5, training_set(), statistics)
    np.testing.assert_array_equal(labels, [0.1, 0.2, 0.3])
    unlabelled = dataclasses.replace(training_set(), properties=np.empty((3, 0)), property_names=())
    np.testing.assert_array_equal(build.training_quantiles(PEROV5, unlabelled, statistics), stored)
    assert build.training_quantiles(PEROV5, None, None) is None


def test_the_request_is_described_with_units_where_they_are_known():
    both = dataclasses.replace(REQUEST, target={"heat_ref": (0.25, 0.5), "gap": (2.0, 2.0)})
    assert describe(both, PEROV5) == (
        "Requested from perov5_cds: heat_ref = 0.25 to 0.5 eV/cell, gap = 2 with guidance 1."
    )
    balanced = dataclasses.replace(REQUEST, target={}, charge_balance=True)
    assert describe(balanced, None).endswith("with guidance 1 and balanced charges.")
    free = dataclasses.replace(REQUEST, target={}, guidance=0.0)
    assert describe(free, None) == "Requested from perov5_cds: no particular property."
    formulas = FormulaRequest("TiO2"), FormulaRequest("VO2", target={"gap": (1.0, 1.0)})
    mixed = dataclasses.replace(free, num=2 * len(formulas), formulas=formulas)
    assert describe(mixed, None) == (
        "Requested from perov5_cds: structures of TiO2, VO2, some with a gap of their own."
    )


def test_what_was_asked_of_properties_that_nothing_predicts_is_told_in_words():
    asked = dataclasses.replace(
        REQUEST, target={"gap": (2.0, 2.0), "kind": (1.0, 1.0)}, classes={"kind": "metal"}
    )
    assert asked_in_words(asked, 2) == ["gap = 2, kind = metal"] * 2
    assert asked_in_words(None, 2) == ["", ""]


@pytest.mark.usefixtures("_samples_without_data")
def test_a_missing_model_does_not_prevent_the_page(tmp_path, monkeypatch):
    gone = StoredRequest(dataclasses.replace(LOWEST, model="gone"), {})
    monkeypatch.setattr(
        "crystal_diffusion_jax.structures.samples_reader.read_request", lambda path: gone
    )
    run(monkeypatch, f"--structures={tmp_path / 's'}", f"--out={tmp_path / 'page.html'}")
    text = (tmp_path / "page.html").read_text()
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
