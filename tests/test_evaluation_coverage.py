"""evaluation/coverage.py and fingerprints.py."""

import hashlib
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import requests
from pymatgen.core import Composition, Lattice, Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation import fingerprints as making
from crystal_diffusion_jax.evaluation.coverage import Cutoffs, Fingerprint, coverage
from crystal_diffusion_jax.evaluation.fingerprints import (
    fingerprints,
    load_scaler,
    require_matminer,
)
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers

CUTOFFS = Cutoffs(structure=0.8, composition=1.5)
MEANS, STDS = np.linspace(-3.0, 7.0, 132), np.linspace(0.5, 9.0, 132)
CONSTANTS = f"CompScalerMeans = {MEANS.tolist()}\n\nCompScalerStds = {STDS.tolist()}\n"


def fingerprint(structure: float, composition: float) -> Fingerprint:
    """A fingerprint on a line, so that distances are differences."""
    return Fingerprint(np.array([structure, 0.0]), np.array([composition]))


def random_fingerprints(num: int, seed: int) -> list[Fingerprint]:
    rng = np.random.default_rng(seed)
    return [Fingerprint(rng.random(5), 3 * rng.random(4)) for _ in range(num)]


def near(one: Fingerprint, others: list[Fingerprint]) -> bool:
    """Both nearest neighbours within the cut-offs, by loops."""
    structure = min(math.dist(one.structure, other.structure) for other in others)
    composition = min(math.dist(one.composition, other.composition) for other in others)
    return structure <= CUTOFFS.structure and composition <= CUTOFFS.composition


def test_coverage_is_that_counted_by_hand() -> None:
    generated = random_fingerprints(17, seed=1)
    reference = [Fingerprint(f.structure * 1.8, f.composition) for f in random_fingerprints(23, 2)]
    result = coverage([None, *generated, None], reference, CUTOFFS)
    recalled = sum(near(t, generated) for t in reference)
    precise = sum(near(g, reference) for g in generated)
    assert 0 < recalled < 23
    assert 0 < precise < 17
    assert result.recall == Rate(recalled, 23)
    assert result.precision == Rate(precise, 19)
    amsd = np.mean([min(math.dist(g.structure, t.structure) for t in reference) for g in generated])
    amcd = np.mean(
        [min(math.dist(g.composition, t.composition) for g in generated) for t in reference]
    )
    assert result.mean_distances["amsd_precision"] == pytest.approx(amsd)
    assert result.mean_distances["amcd_recall"] == pytest.approx(amcd)


def test_the_two_nearest_neighbours_may_be_different_crystals() -> None:
    generated = [fingerprint(0.0, 100.0), fingerprint(100.0, 0.0)]
    result = coverage(generated, [fingerprint(0.0, 0.0)], CUTOFFS)
    assert result.recall == Rate(1, 1)
    assert result.precision == Rate(0, 2)


def test_a_distance_at_the_cut_off_is_near() -> None:
    at, beyond = fingerprint(0.8, 1.5), fingerprint(0.8, 1.5001)
    assert coverage([at], [fingerprint(0, 0)], CUTOFFS).recall == Rate(1, 1)
    assert coverage([beyond], [fingerprint(0, 0)], CUTOFFS).recall == Rate(0, 1)


def test_without_any_fingerprint_nothing_is_covered() -> None:
    result = coverage([None, None], random_fingerprints(4, 0), CUTOFFS)
    assert (result.recall, result.precision) == (Rate(0, 4), Rate(0, 2))
    assert set(result.mean_distances.values()) == {None}


def test_a_test_crystal_without_fingerprint_is_not_recalled() -> None:
    near, far = fingerprint(0.0, 0.0), fingerprint(50.0, 50.0)
    result = coverage([near], [near, None, far, None], CUTOFFS)
    assert result.recall == Rate(1, 4)
    assert result.precision == Rate(1, 1)
    assert result.mean_distances["amsd_recall"] == 25.0
    nothing = coverage([near], [None, None], CUTOFFS)
    assert (nothing.recall, nothing.precision) == (Rate(0, 2), Rate(0, 1))


class Featurizer:
    """Stands in for matminer's: sites of hydrogen fail."""

    def featurize(self, crystal: Structure | Composition, site: int = 0) -> list[float]:
        if isinstance(crystal, Composition):
            return [float(element.Z) for element in crystal for _ in range(132 // len(crystal))]
        symbol = crystal[site].specie.symbol
        if symbol == "H":
            raise ZeroDivisionError
        return [1.0, site]


@pytest.mark.usefixtures("in_this_process")
def test_a_failed_fingerprint_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_featurizers", lambda: (Featurizer(), Featurizer()))
    crystals = [
        None if symbol == "" else Structure(Lattice.cubic(3), [symbol, "Li"], np.zeros((2, 3)))
        for symbol in ("", "H", "Be")
    ]
    made = fingerprints(crystals, MEANS, STDS, progress=False)
    assert made[:2] == ["no crystal", "no fingerprint: ZeroDivisionError"]
    assert isinstance(made[2], Fingerprint)
    np.testing.assert_array_equal(made[2].structure, [1.0, 0.5])
    np.testing.assert_allclose(sorted({*(made[2].composition * STDS + MEANS).round(9)}), [3, 4])


def test_a_crystal_that_takes_too_long_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = TaskFailure("no result after 120 s")
    monkeypatch.setattr(Workers, "map", lambda self, items: [lost for _ in items])
    found = fingerprints([Structure(Lattice.cubic(3), ["H"], [[0, 0, 0]])], MEANS, STDS, False)
    assert found == ["no fingerprint: no result after 120 s"]


def test_a_missing_matminer_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install '\.\[coverage\]'"):
        require_matminer()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path))
    return tmp_path


def put(cache: Path, text: str) -> Path:
    path = cache / "cdvae" / "constants.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_scaler_is_read_without_running_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order = np.concatenate([MEANS, STDS]).astype("<f8")
    monkeypatch.setattr(making, "_SCALER_SHA256", hashlib.sha256(in_order.tobytes()).hexdigest())
    put(cache, CONSTANTS + "raise SystemExit('it was run')\n")
    means, stds = load_scaler()
    np.testing.assert_array_equal(means, MEANS)
    np.testing.assert_array_equal(stds, STDS)
    put(cache, CONSTANTS + "#" * 2**16)  # the numbers are right, the file is too large
    with pytest.raises(UserError, match="larger than"):
        load_scaler()


def test_without_network_the_message_says_what_to_put_where(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, **_: object) -> None:
        assert "/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/" in url
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(UserError, match=r"by hand and save it as .*constants\.py"):
        load_scaler()


@pytest.mark.parametrize(
    "text",
    [
        "<html>",
        "CompScalerMeans = [1.0]\nCompScalerStds = [1.0]",
        CONSTANTS.replace("Stds", "Other"),
        CONSTANTS,  # well-formed, but not CDVAE's numbers
    ],
)
def test_another_scaler_is_refused_and_not_kept(cache: Path, text: str) -> None:
    path = put(cache, text)
    with pytest.raises(UserError, match="not CDVAE's file"):
        load_scaler()
    assert not path.exists()


def test_fingerprints_are_those_of_the_crystal_not_of_its_cell() -> None:
    pytest.importorskip("matminer", reason="the extra `coverage` is not installed")
    rock_salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    crystals = [rock_salt, None, rock_salt.get_primitive_structure()]
    whole, missing, primitive = fingerprints(crystals, MEANS, STDS, progress=False)
    assert missing == "no crystal"
    assert isinstance(whole, Fingerprint)
    assert isinstance(primitive, Fingerprint)
    assert (whole.structure.shape, whole.composition.shape) == ((61,), (132,))
    np.testing.assert_allclose(primitive.structure, whole.structure, atol=1e-6)
    np.testing.assert_allclose(primitive.composition, whole.composition, atol=1e-9)
    # The first Magpie number is the smallest atomic number, that of sodium.
    assert whole.composition[0] * STDS[0] + MEANS[0] == pytest.approx(11)
