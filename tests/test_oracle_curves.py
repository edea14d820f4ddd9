"""studies/oracle_curves.py: perturbed crystals, their scores, and the page that shows them."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.potentials.energies import Evaluated
from studies import oracle_curves, oracle_plots, plots, records
from studies.judged import Curve, Spread, measure, spread
from studies.oracle_curves import choose
from studies.perturbations import perturbed, rattled, strained
from tests.test_evaluation_report import TEST, TRAIN, dataset
from tests.test_figures import assert_legends_are_whole
from tests.tiny_run import perovskite

SPEC = KNOWN_DATASETS["perov5"]
IMAGES = Path(__file__).parent.parent / "docs" / "images"
PAGE = Path(__file__).parent.parent / "docs" / "what_scores_mean.md"


def by_edge(structures: Sequence[Structure], oracle: str = "") -> Predictions:
    """An oracle that predicts the edge of the cell."""
    return Predictions(np.array([s.volume ** (1 / 3) for s in structures]), {})


def above_39(structures: Sequence[Structure], oracle: str = "") -> Predictions:
    """The same oracle, trained on edges of at least 3.9 Angstrom."""
    values = by_edge(structures).values
    return Predictions(np.where(values < 3.9, np.nan, values), {})


def by_volume(structures: Sequence[Structure]) -> list[Evaluated | str]:
    """A potential with the volume per atom as energy, for crystals above 60 A^3."""
    return [
        Evaluated(s.volume / len(s), np.zeros((len(s), 3)), np.zeros((3, 3)), np.zeros(len(s)))
        if s.volume > 60
        else "too dense"
        for s in structures
    ]


@pytest.mark.parametrize("percent", [-4.0, -0.5, 0.0, 2.0])
def test_a_strain_scales_lengths_and_volume_and_nothing_else(percent):
    crystal = perovskite("Ba", "Ti", 4.0)
    crystal.lattice = [[4.0, 0.1, 0.0], [0.3, 5.0, 0.2], [0.0, 0.4, 6.0]]
    volume, angles = crystal.volume, crystal.lattice.angles
    found = strained(crystal, percent)
    assert found.volume / volume == pytest.approx((1 + percent / 100) ** 3)
    assert found.lattice.angles == pytest.approx(angles)
    np.testing.assert_allclose(found.frac_coords, crystal.frac_coords)
    assert crystal.volume == volume  # a copy was strained


def test_a_rattle_has_its_standard_deviation_along_every_axis():
    crystal = perovskite("Ba", "Ti", 4.0).make_supercell(6)
    moved = rattled(crystal, 0.1, (0, 0)).cart_coords - crystal.cart_coords  # [1080, 3]
    # The standard error of a standard deviation is 1 / sqrt(2 N) of it, 2 %.
    np.testing.assert_allclose(np.sqrt(np.mean(moved**2, axis=0)), 0.1, rtol=0.09)
    np.testing.assert_allclose(np.mean(moved, axis=0), 0, atol=0.015)
    covariance = np.corrcoef(moved.T) - np.eye(3)
    assert np.abs(covariance).max() < 0.15


def test_each_crystal_is_rattled_along_its_own_line():
    crystal = perovskite("Ba", "Ti", 4.0)
    found = perturbed([crystal, crystal], "rattle", [0.0, 0.1, 0.2], seed=3)
    np.testing.assert_allclose(found[0.0][0].cart_coords, crystal.cart_coords, atol=1e-12)
    one, other = (each.cart_coords - crystal.cart_coords for each in found[0.1])
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(found[0.2][0].cart_coords - crystal.cart_coords, 2 * one, atol=1e-9)
    again = perturbed([crystal], "rattle", [0.1], seed=3)[0.1][0]
    np.testing.assert_array_equal(again.cart_coords, found[0.1][0].cart_coords)
    assert found[0.1][0].lattice == crystal.lattice


def test_scores_are_those_worked_out_by_hand():
    crystals = [perovskite("Ba", "Ti", edge) for edge in (4.0, 4.5, 5.0)]
    spec = dataclasses.replace(SPEC, success_thresholds=(4.0, 4.2, 4.6))
    variants = perturbed(crystals, "strain", [-5.0, 0.0, 10.0], seed=0)
    # Edges 3.8 4.275 4.75, 4.0 4.5 5.0 and 4.4 4.95 5.5; the potential fails below 60 A^3.
    points = measure(variants, spec, 3.95, by_edge, above_39, by_volume, 3)
    assert [point.amount for point in points] == [-5.0, 0.0, 10.0]
    assert [point.success for point in points] == [
        {"SR5": 0, "SR10": 0, "SR15": 1},  # 3.8 is outside
        {"SR5": 1, "SR10": 1, "SR15": 2},
        {"SR5": 0, "SR10": 0, "SR15": 1},
    ]
    assert [point.below_training for point in points] == [1, 0, 0]
    assert [point.outside for point in points] == [1, 0, 0]
    # The matcher compares crystals of equal volume.
    assert [(point.valid_structure, point.same) for point in points] == [(3, 3)] * 3
    assert points[2].prediction.mean == pytest.approx(1.1 * 4.5)
    assert points[2].oracle_change.quartiles == pytest.approx((0.425, 0.45, 0.475))
    energies = np.array([4.0, 4.5, 5.0]) ** 3 / 5
    assert points[2].potential_change.mean == pytest.approx(np.mean(energies) * (1.1**3 - 1))
    assert points[0].potential_change.num == 2
    first = measure(variants, spec, 3.95, by_edge, above_39, by_volume, 1)[2].potential_change
    assert (first.num, first.mean) == (1, pytest.approx(energies[0] * (1.1**3 - 1)))


def test_displaced_crystals_are_compared_with_their_own_originals():
    crystals = [perovskite("Ba", "Ti", 4.0), perovskite("Sr", "Zr", 4.2)]
    variants = perturbed(crystals, "rattle", [0.0, 0.02, 1.0], seed=0)
    variants[2.0] = [each.copy() for each in crystals]
    for each in variants[2.0]:
        each.translate_sites([0], [0.45, 0.45, 0.45])  # 0.35 A from the next atom
    points = measure(variants, SPEC, 0.0, by_edge, by_edge, by_volume, 3)
    assert [point.same for point in points] == [2, 2, 0, 0]
    assert [point.valid_structure for point in points] == [2, 2, 2, 0]


def test_a_statistic_leaves_out_what_has_no_value():
    found = spread(np.array([1.0, np.nan, 3.0, 2.0]))
    assert (found.num, found.mean) == (3, pytest.approx(2.0))
    assert found.quartiles == pytest.approx((1.5, 2.0, 2.5))
    assert spread(np.array([np.nan])) == Spread(0, None, None)


def test_only_crystals_within_the_threshold_are_chosen_and_each_once():
    edges = np.linspace(4.0, 5.0, 21)
    data = dataset([perovskite("Ba", "Ti", edge) for edge in edges])
    data = dataclasses.replace(data, properties=edges[:, None])
    splits = {"train": data.take(np.arange(0, 21, 2)), "test": data.take(np.arange(1, 21, 2))}
    every = choose(splits, 4.5, num=99, seed=0)
    assert sorted(s.lattice.a for s in every) == pytest.approx(edges[:11])
    some = [s.lattice.a for s in choose(splits, 4.5, num=5, seed=0)]
    assert len(set(some)) == 5
    assert some == [s.lattice.a for s in every[:5]]
    assert some != [s.lattice.a for s in choose(splits, 4.5, num=5, seed=1)]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["oracle_curves.py", *arguments])
    monkeypatch.setattr(oracle_curves, "load", lambda config: {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(oracle_curves, "answers", by_edge)
    monkeypatch.setattr(oracle_curves, "predict", by_edge)
    monkeypatch.setattr(oracle_curves, "evaluate_all", by_volume)
    program.run(oracle_curves.main)


def test_the_command_measures_draws_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    cifs = tmp_path / "mine"
    cifs.mkdir()
    for edge in (4.0, 4.2):
        perovskite("Ba", "Ti", edge).to_file(str(cifs / f"{edge}.cif"))
    out = tmp_path / "curves"
    arguments = ["--datasets=perov5", f"--out={out}", "--num=3", "--strain=-1,1", "--rattle=0.1"]
    run(monkeypatch, *arguments, "--generated", f"perov5={cifs}")
    printed = capsys.readouterr().out
    curves = json.loads((out / "oracle_curves.json").read_text())
    assert [(curve["source"], curve["perturbation"]) for curve in curves] == [
        ("data", "strain"),
        ("data", "rattle"),
        ("mine", "strain"),
    ]
    assert [len(curve["points"]) for curve in curves] == [3, 2, 3]
    # The data have four crystals, of which three are asked for.
    assert [curve["points"][0]["num"] for curve in curves] == [3, 3, 2]
    monkeypatch.setattr(oracle_curves, "measure", None)  # not called again
    run(monkeypatch, *arguments)
    assert capsys.readouterr().out == printed
    for name in ("oracle_strain", "oracle_rattle", "oracle_generated"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_end_with_one_sentence(tmp_path, monkeypatch, capsys):
    for argument, fragment in (
        ("--datasets=mp21", "--datasets=mp21: choose from perov5, carbon24, mp20"),
        ("--strain=-60,1", "--strain=-60.0 must be at least -50"),
        ("--rattle=-0.1", "--rattle=-0.1 must be at least 0"),
        ("--rattle=a", "--rattle=a must be finite numbers"),
        ("--num=0", "--num=0"),
        ("--generated=mp20", "--generated mp20 must be DATASET=PATH"),
        (f"--generated=mp20={tmp_path / 'none'}", "does not exist"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, f"--out={tmp_path}", "--num=1", argument)
        assert ended.value.code == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: ")
        assert fragment in said


@pytest.fixture(scope="module")
def shipped() -> list[Curve]:
    """The curves of the page."""
    curves = records.read(IMAGES / oracle_curves.RECORD, list[Curve])
    assert curves is not None
    return curves


def test_the_tables_of_the_page_are_those_of_its_record(shipped):
    page = PAGE.read_text()
    for curve in shipped:
        assert oracle_plots.table(curve) in page, curve.key


def test_legends_are_whole_and_hide_no_data(shipped):
    figures = oracle_plots.pictures(shipped)
    assert_legends_are_whole(figures)
    for figure in figures.values():
        assert len(plots.save(figure)) < 120_000


def test_shares_are_written_with_their_interval():
    # Wilson's interval of 5 in 10, by hand.
    assert oracle_plots.rate(Rate(5, 10)) == "0.50 (0.24-0.76)"
