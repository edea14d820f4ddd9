"""evaluation/relaxed.py, stability.py and sets.py: relaxed crystals, worked out by hand."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Element, Structure

from crystal_diffusion_jax.evaluation import stability as stability_module
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.relaxed import Relaxed, relaxed_scores
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.sets import Scored, score_controls
from crystal_diffusion_jax.evaluation.stability import above, training_hull
from crystal_diffusion_jax.evaluation.summary import to_json, to_table
from crystal_diffusion_jax.potentials.hull import AboveHull
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxedCrystal, failed
from crystal_diffusion_jax.structures.reading import Inputs
from tests.test_evaluation_report import SPEC, TRAIN, dataset, oracle_by_number, perovskite

pytestmark = pytest.mark.usefixtures("in_this_process")

score = functools.partial(
    evaluate, spec=SPEC, train=TRAIN, predict=oracle_by_number, progress=False
)


def outcome(
    crystal: Structure, before: float, after: float, rmsd: float, change: float, converged: bool
) -> RelaxedCrystal:
    done = Relaxation(crystal, before, after, 10, converged, np.zeros(len(crystal)), None)
    return RelaxedCrystal("", done, rmsd, change)


def hull(atomic_numbers: Sequence[int], energy: float) -> AboveHull | None:
    """The energy is that above the hull, strontium decomposes into elements, magnesium is unknown.

    As a potential has no energy of nothing, neither has the hull.
    """
    assert len(atomic_numbers) == 5
    assert math.isfinite(energy)
    first = Element.from_Z(atomic_numbers[0]).symbol
    if first == "Mg":
        return None
    return AboveHull(energy, {}, compounds_only=first != "Sr")


# The training crystals are BaTiO3 and MgTiO3. The oracle predicts 0.20, 0.20, 0.56, 0.38, 0.12 for
# Ca, Ca, Ba, Sr, Mg and 0.19 for K; its thresholds are 0.439, 0.612 and 0.736.
BEFORE: list[Structure | None] = [
    perovskite("Ca"),
    perovskite("Ca", edge=4.1),
    perovskite("Ba"),
    perovskite("Sr"),
    None,
    perovskite("K"),
    perovskite("Mg"),
    perovskite("Ca"),
]
RELAXED = [
    outcome(perovskite("Ca"), 0.15, 0.05, 0.02, 0.01, True),
    outcome(perovskite("Ca", edge=3.9), 0.20, 0.06, 0.03, -0.14, True),
    outcome(perovskite("Ba"), 0.09, 0.08, 0.30, 0.05, True),
    outcome(perovskite("Sr"), 0.05, -0.50, math.nan, 0.30, False),  # another structure
    RelaxedCrystal("", failed("empty file")),
    RelaxedCrystal("", failed("cell exploded: volume 1e9", 0.01, 7)),
    outcome(perovskite("Mg"), -1.0, -2.0, 0.10, 0.0, True),  # not below 0.1 A
    outcome(perovskite("Ca"), 0.11, 0.10, 0.04, 0.02, True),  # not below 0.1 eV/atom
]


@functools.cache
def both(above_hull: Any = hull) -> tuple[Report, Relaxed]:
    names = [f"{i}.cif" for i in range(len(BEFORE))]
    report = score(Inputs(BEFORE, names, {4: "empty file"}))
    relaxed = [
        dataclasses.replace(each, name=name) for each, name in zip(RELAXED, names, strict=True)
    ]
    return report, relaxed_scores(BEFORE, report, relaxed, score, above_hull)


def test_every_score_of_relaxed_crystals_is_that_worked_out_by_hand() -> None:
    _, found = both()
    assert found.counts == {"asked_for": 8, "relaxed": 6, "same_structure": 5, "above_hull": 5}
    assert found.converged == Rate(5, 8)
    assert found.close == Rate(3, 8)
    for name, median, mean in (
        ("energy_gain", (0.10 + 0.14) / 2, (0.10 + 0.14 + 0.01 + 0.55 + 1.0 + 0.01) / 6),
        ("rmsd", 0.04, (0.02 + 0.03 + 0.30 + 0.10 + 0.04) / 5),
        ("volume_change", (0.01 + 0.02) / 2, (0.01 - 0.14 + 0.05 + 0.30 + 0.02) / 6),
        ("absolute_volume_change", (0.02 + 0.05) / 2, (0.01 + 0.14 + 0.05 + 0.30 + 0.02) / 6),
    ):
        average = getattr(found, name)
        assert average["median"].value == pytest.approx(median)
        assert average["mean"].value == pytest.approx(mean)
        assert average["mean"].sizes == (5 if name == "rmsd" else 6,)
        assert average["mean"].interval is not None


def test_stable_unique_and_novel_before_and_after() -> None:
    _, found = both()
    assert found.stability_before is not None
    assert found.stability_after is not None
    # Before: Ba 0.09, Sr 0.05 and K 0.01, whose relaxation failed later.
    assert found.stability_before.near_hull == Rate(3, 8)
    assert found.stability_before.stable == Rate(2, 8)  # without Sr
    assert found.stability_before.sun == Rate(1, 8)  # without Ba, which is known
    # After: twice Ca, Ba and Sr.
    assert found.stability_after.near_hull == Rate(4, 8)
    assert found.stability_after.stable == Rate(3, 8)
    assert found.stability_after.sun == Rate(1, 8)  # the two Ca are the same


def test_relaxed_crystals_are_scored_as_any_others() -> None:
    report, found = both()
    assert report.success_rate["single"]["SR5"] == Rate(6, 8)
    assert found.scores.success_rate["single"]["SR5"] == Rate(5, 8)  # without K
    assert found.scores.success_rate["single"]["SR10"] == Rate(6, 8)
    assert found.scores.diversity["unique"] == Rate(4, 8)
    assert found.scores.diversity["novel"] == Rate(4, 8)  # three Ca and Sr
    assert [(f.index, f.reason, f.detail) for f in found.failures] == [
        (4, "empty file", ""),
        (5, "cell exploded", "volume 1e9"),
    ]


def test_without_a_hull_there_is_no_stability() -> None:
    _, found = both(None)
    assert (found.stability_before, found.stability_after) == (None, None)
    assert found.counts["above_hull"] == 0
    assert found.converged == Rate(5, 8)


def test_without_any_relaxed_crystal_all_is_zero_or_unknown() -> None:
    report = score(Inputs([None, None], ["a", "b"], {0: "x", 1: "x"}))
    lost = [RelaxedCrystal(name, failed("x")) for name in "ab"]
    found = relaxed_scores([None, None], report, lost, score, hull)
    assert found.converged == found.close == Rate(0, 2)
    assert found.energy_gain["median"].value is None
    assert found.stability_after is not None
    assert found.stability_after.sun == Rate(0, 2)


def test_the_training_hull_has_the_energies_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    class References:
        def of_labels(self, labels: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
            return labels / num_atoms

        def formation_energy(self, atomic_numbers: Sequence[int], energy: float) -> float:
            return energy - 3.0

    monkeypatch.setattr(stability_module.references, "load", lambda name: References())
    train = dataset([perovskite("Ba"), perovskite("Sr")])
    train = dataclasses.replace(train, properties=np.array([[-10.0], [-5.0]]))
    above_hull = above(*training_hull("perov5", train))
    of_known = above_hull(perovskite("Ba").atomic_numbers, 1.5)
    assert of_known is not None
    # -1.5 against the label of -10 eV per cell, which is -2 per atom.
    assert of_known.energy == pytest.approx(0.5)
    assert of_known.compounds_only
    of_new = above_hull(perovskite("Ca").atomic_numbers, 1.5)
    assert of_new is not None
    assert of_new.energy == pytest.approx(-1.5)  # only elements compete
    assert not of_new.compounds_only


def test_controls_are_scored_like_generated_crystals() -> None:
    sets = {"held_out": [perovskite("Ca"), perovskite("Sr")], "training_band": [perovskite("Ba")]}
    asked = []

    def relax(inputs: Inputs) -> list[RelaxedCrystal]:
        asked.append(inputs)
        # The last one, of the training band, is displaced too far.
        displacements = (0.01, 0.02, 0.3)
        return [
            outcome(structure, 0.3, 0.2, rmsd, 0.0, True)
            for structure, rmsd in zip(inputs.structures, displacements, strict=True)
            if structure is not None
        ]

    found = score_controls(sets, score, relax, hull)
    (inputs,) = asked
    assert inputs.structures == [*sets["held_out"], *sets["training_band"]]
    assert inputs.names == ["held_out 0", "held_out 1", "training_band 0"]
    held_out = found["held_out"]
    assert held_out.report.success_rate["single"]["SR5"] == Rate(2, 2)
    assert held_out.report.diversity["novel_compositions"] == Rate(2, 2)
    assert found["training_band"].report.diversity["novel"] == Rate(0, 1)
    assert held_out.relaxed is not None
    assert held_out.relaxed.close == Rate(2, 2)
    band = found["training_band"].relaxed
    assert band is not None
    assert band.close == Rate(0, 1)
    assert held_out.relaxed.energy_gain["mean"].value == pytest.approx(0.1)
    plain = score_controls(sets, score, None, None)
    assert plain["held_out"].relaxed is None
    assert plain["held_out"].report.success_rate == held_out.report.success_rate


def test_the_file_has_every_part_and_no_nan() -> None:
    report, found = both()
    controls = {"held_out": Scored(report, found), "substituted": Scored(report)}
    written = to_json(report, "set", SPEC, found, controls)
    content = json.loads(json.dumps(written, allow_nan=False))
    assert content["format_version"] == 3
    relaxed = content["relaxed"]
    assert relaxed["close"]["k"] == 3
    assert relaxed["energy_gain"]["median"]["value"] == pytest.approx(0.12)
    assert relaxed["stability_after"]["sun"]["k"] == 1
    assert relaxed["scores"]["success_rate"]["single"]["SR5"]["k"] == 5
    assert relaxed["failures"]["by_reason"] == {
        "relaxation: empty file": 1,
        "relaxation: cell exploded": 1,
    }
    assert content["controls"]["held_out"]["relaxed"] == relaxed
    assert content["controls"]["substituted"]["relaxed"] is None
    assert content["controls"]["substituted"]["validity"] == content["validity"]
    assert content["volume"]["median_ratio"]["value"] == 1.0
    plain = to_json(report, "set", SPEC)
    assert (plain["relaxed"], plain["controls"]) == (None, {})


def test_the_table_has_a_row_for_every_set() -> None:
    report, found = both()
    controls = {"held_out": Scored(report, found), "substituted": Scored(report)}
    lines = to_table(report, SPEC, found, controls).splitlines()
    rows = [line for line in lines if line.startswith(("generated", "control: "))]
    names = [" ".join(line.split()[:3]) for line in rows]
    assert len(rows) == 5 + 2
    assert names[0].startswith("generated 8 0.750")  # n and SR5
    assert rows[1].split()[:4] == ["generated,", "relaxed", "8", "0.625"]
    last = rows[-2].split()  # generated, relaxing
    # n, converged, gain, RMSD, |dV|, close, near, stable and S.U.N. before and after.
    expected = [8, 0.625, 0.12, 0.04, 0.035, 0.375, 0.375, 0.5, 0.25, 0.375, 0.125, 0.125]
    assert [float(cell) for cell in last[1:]] == pytest.approx(expected, abs=5e-4)
    assert "control" not in to_table(report, SPEC)
