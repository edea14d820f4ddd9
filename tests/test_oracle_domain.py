"""oracles/domain.py: crystals and predictions that an oracle was never trained on."""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import ase.data
import ase.neighborlist
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from pymatgen.core import Element, Lattice, Structure

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax.cli import predict as prediction
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.oracles import bonds, domain, weights
from crystal_diffusion_jax.oracles import predict as oracles
from crystal_diffusion_jax.oracles.basis import CUTOFF
from crystal_diffusion_jax.oracles.batching import CrystalGraph
from crystal_diffusion_jax.oracles.domain import OUTSIDE, bond_defect
from crystal_diffusion_jax.oracles.graph import MAX_ATOMIC_NUMBER, arrays
from crystal_diffusion_jax.oracles.predict import Predictions, answers, predict
from crystal_diffusion_jax.oracles.weights import NETWORKS
from crystal_diffusion_jax.structures.conversion import to_ase
from crystal_diffusion_jax.structures.distances import nearest_neighbours
from studies import domains
from tests import golden
from tests.test_evaluation_report import dataset

DIAMOND = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])
ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Ba", "Ti", "O", "O", "O"],
    0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]),
)
INSIDE = {"perov5": PEROVSKITE, "carbon24": DIAMOND, "mp20": ROCK_SALT}
LONE_CARBON = Structure(Lattice.cubic(30.0), ["C"], [[0, 0, 0]])


def defect(oracle: str, structure: Structure) -> str | None:
    return domain.load(oracle).cell_defect(*arrays(structure))


def scaled(structure: Structure, factor: float) -> Structure:
    return Structure(
        Lattice(structure.lattice.matrix * factor), structure.species, structure.frac_coords
    )


def sixfold_magnesium() -> Structure:
    """Two Mg of which each third was written with three digits, so that images do not coincide."""
    lattice = Lattice.hexagonal(3.21, 5.21)
    sites = [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    shifts = [[0, 0, 0], [0.001, 0, 0], [0, 0.001, 0]]
    frac_coords = (np.array(sites)[:, None] + np.array(shifts)).reshape(6, 3)
    return Structure(lattice, ["Mg"] * 6, frac_coords)


@pytest.mark.parametrize("oracle", NETWORKS)
def test_a_common_crystal_is_inside(oracle: str) -> None:
    assert defect(oracle, INSIDE[oracle]) is None


@pytest.mark.parametrize(
    ("oracle", "structure", "reason"),
    [
        ("carbon24", LONE_CARBON, "number of atoms): 1 in the cell, trained on 6 to 24"),
        ("mp20", LONE_CARBON, "volume per atom): 2.7e+04 A^3, trained on 5.77 to 201.6"),
        ("mp20", sixfold_magnesium(), "distance of nearest neighbours): 0.0011"),
        ("carbon24", ROCK_SALT, "element): Na"),
        ("mp20", ROCK_SALT * (2, 2, 2), "number of atoms): 64 in the cell, trained on 2 to 20"),
    ],
)
def test_each_kind_has_its_reason(oracle: str, structure: Structure, reason: str) -> None:
    found = defect(oracle, structure)
    assert found is not None
    assert found.startswith(f"{OUTSIDE} ({reason}")


def test_an_atom_far_from_all_others_has_no_neighbours() -> None:
    far = Structure(Lattice.cubic(7.5), ["Na"], [[0, 0, 0]])
    # Wider in volume, which would be the first reason.
    loose = dataclasses.replace(domain.load("mp20"), volume_per_atom=(1.0, 1000.0))
    assert loose.cell_defect(*arrays(far)) == (
        f"{OUTSIDE} (atom without neighbours): none within 7 A"
    )


def test_a_bond_beyond_the_cutoff_is_outside() -> None:
    def graph(edge: float) -> CrystalGraph:
        bond = np.array([[0, 0, 1, 0, 0], [0, 0, -1, 0, 0]])
        return CrystalGraph(np.eye(3) * edge, np.array([[0.5, 0.5, 9.5]]), np.array([6]), bond)

    assert bond_defect(graph(6.9)) is None
    assert bond_defect(graph(7.1)) == f"{OUTSIDE} (bond beyond the cutoff): 7.1 A, cutoff 7 A"


@given(st.sampled_from(list(NETWORKS)), st.floats(4.0, 6.0), st.booleans())
def test_a_crystal_that_is_scaled_far_enough_is_outside(
    oracle: str, factor: float, smaller: bool
) -> None:
    assert defect(oracle, scaled(INSIDE[oracle], 1 / factor if smaller else factor)) is not None


@given(st.sampled_from(list(NETWORKS)), st.integers(1, MAX_ATOMIC_NUMBER), st.integers(0, 1))
def test_a_crystal_with_an_element_outside_is_outside(oracle: str, number: int, site: int) -> None:
    crystal = INSIDE[oracle].copy()
    crystal[site] = Element.from_Z(number)
    found = defect(oracle, crystal)
    named = found == f"{OUTSIDE} (element): {Element.from_Z(number).symbol}"
    assert named == (number not in domain.load(oracle).elements)


@given(st.sampled_from(list(NETWORKS)), st.floats(allow_nan=True, allow_infinity=True))
def test_a_value_is_believed_only_within_the_stated_margins(oracle: str, value: float) -> None:
    trained_on = domain.load(oracle)
    low, high = trained_on.values
    assert trained_on.value_defect(low) is trained_on.value_defect(high) is None
    believed = low - 3 * trained_on.error <= value <= high + (high - low)
    assert (trained_on.value_defect(value) is None) == believed


@given(st.data())
def test_nearest_distances_are_those_of_ase_in_any_cell(data: st.DataObject) -> None:
    number = st.floats(-1.0, 1.0)
    lattice = np.eye(3) * 4.0 + np.array(
        data.draw(st.lists(number, min_size=9, max_size=9))
    ).reshape(3, 3)
    num = data.draw(st.integers(1, 4))
    frac = np.array(
        data.draw(st.lists(st.floats(-3, 3), min_size=3 * num, max_size=3 * num))
    ).reshape(num, 3)
    numbers = np.array(data.draw(st.lists(st.integers(1, 94), min_size=num, max_size=num)))
    skewed = lattice.copy()
    skewed[0] += 3 * skewed[1] - 2 * skewed[2]  # the same crystal
    moved = np.linalg.solve(skewed.T, (frac @ lattice).T).T
    atoms = to_ase(Structure(Lattice(lattice), numbers.tolist(), frac))
    i, j, d = ase.neighborlist.neighbor_list("ijd", atoms, 7.0)
    radii = ase.data.covalent_radii[numbers]
    ratios = d / (radii[i] + radii[j])
    expected = [(d[i == atom].min(), ratios[i == atom].min()) for atom in range(num)]
    found = nearest_neighbours(skewed, moved, numbers, CUTOFF)
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-6, atol=1e-8)


def test_a_thin_cell_takes_no_search() -> None:
    lattice = np.diag([0.01, 3.0, 1000.0])
    distances, in_radii = nearest_neighbours(lattice, np.zeros((1, 3)), np.array([6]), CUTOFF)
    assert distances == pytest.approx([0.01])
    assert in_radii == pytest.approx([0.01 / (2 * ase.data.covalent_radii[6])])


@pytest.mark.parametrize("oracle", NETWORKS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_crystals_of_the_data_sets_are_inside(oracle: str, split: str) -> None:
    rows = golden.table(oracle, split)
    chosen = np.random.default_rng(0).permutation(len(rows))[:60]
    column = {"perov5": "heat_ref", "carbon24": "energy_per_atom"}
    trained_on = domain.load(oracle)
    for row in (rows[index] for index in chosen):
        crystal = golden.reduced_structure(row["cif"])
        assert defect(oracle, crystal) is None, row["material_id"]
        label = float(row[column.get(oracle, "formation_energy_per_atom")])
        assert trained_on.value_defect(label) is None


@pytest.mark.parametrize("oracle", NETWORKS)
def test_the_ranges_are_those_of_the_training_labels(oracle: str) -> None:
    column = {"perov5": "heat_ref", "carbon24": "energy_per_atom"}
    rows = golden.table(oracle, "train")
    labels = [float(row[column.get(oracle, "formation_energy_per_atom")]) for row in rows]
    assert domain.load(oracle).values == pytest.approx((min(labels), max(labels)))
    assert domain.load(oracle).num_crystals == len(rows)


@pytest.mark.slow
def test_a_lone_atom_makes_the_network_absurd_and_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.network("carbon24")
    monkeypatch.setattr(bonds, "cache_folder", lambda: tmp_path)
    with monkeypatch.context() as unguarded:
        unguarded.setattr(domain, "bond_defect", lambda graph: None)
        assert answers([LONE_CARBON], "carbon24", progress=False).values[0] < -1e9
    assert list(answers([LONE_CARBON], "carbon24", progress=False).failures) == [0]
    found = predict([LONE_CARBON], "carbon24", progress=False)
    assert np.isnan(found.values).all()


def absurd(structures: list[Structure], oracle: str, progress: bool = True) -> Predictions:
    """Answers of a network that has lost its way on the last crystal."""
    return Predictions(np.array([0.5] * (len(structures) - 1) + [667166.0]), {})


def test_a_value_out_of_range_is_a_failure_with_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracles, "answers", absurd)
    crystals = [PEROVSKITE, scaled(PEROVSKITE, 9.0), PEROVSKITE]
    found = cdj.oracle("perov5").predictions(crystals)
    assert found.values[0] == 0.5
    assert np.isnan(found.values[1:]).all()
    assert list(found.failures) == [1, 2]
    assert found.failures[2] == (
        f"{OUTSIDE} (predicted value): 667166, trained on -0.3285 to 4.376"
    )
    np.testing.assert_array_equal(cdj.oracle("perov5").predict(crystals), found.values)
    assert cdj.success_rate(crystals, "perov5")["SR10"].k == 1


def test_predict_gives_the_reason_and_keeps_it_out_of_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(oracles, "answers", absurd)
    folder = tmp_path / "crystals"
    folder.mkdir()
    for name, crystal in (("a", PEROVSKITE), ("b", LONE_CARBON), ("c", PEROVSKITE)):
        crystal.to_file(str(folder / f"{name}.cif"))
    out = tmp_path / "out.csv"
    flags = [f"--structures={folder}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", ["predict", "--oracle=perov5", *flags])
    program.run(prediction.main)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction (eV/cell)"] for row in rows] == ["0.500000", "", ""]
    assert [row["failure"].partition(":")[0] for row in rows] == [
        "",
        f"{OUTSIDE} (element)",
        f"{OUTSIDE} (predicted value)",
    ]
    assert "min / mean / max: 0.5000 / 0.5000 / 0.5000" in capsys.readouterr().out


def test_every_domain_is_that_of_its_oracle_and_in_order() -> None:
    for oracle in NETWORKS:
        found = domain.load(oracle)
        assert found.dataset == oracle
        assert found.elements == sorted(set(found.elements))
        for field in ("num_atoms", "volume_per_atom", "nearest", "values"):
            low, high = getattr(found, field)
            assert low <= high
    assert {path.stem for path in domain.FOLDER.iterdir()} == set(NETWORKS)


def test_the_study_measures_the_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.zeros((95, 4))
    table[[22, 56], 1] = 1.7  # within the initial range
    table[36, 2] = -1.8  # krypton is in no crystal
    network = weights.Weights({"emb.emb.weight": table}, mean=0.0, std=1.0)
    monkeypatch.setattr(weights, "load", lambda oracle: network)

    def by_volume(structures: Sequence[Structure], oracle: str) -> Predictions:
        return Predictions(np.array([s.volume / 10 for s in structures]), {})

    monkeypatch.setattr(domains, "answers", by_volume)
    train = dataset([scaled(PEROVSKITE, 0.95), scaled(PEROVSKITE, 1.05)])
    train = dataclasses.replace(train, properties=np.array([[6.0], [7.0]]))
    # Predicted 6.4, and 42 times the volume.
    test = dataset([PEROVSKITE, scaled(PEROVSKITE, 3.5)])
    test = dataclasses.replace(test, properties=np.array([[6.3], [274.3]]))
    found = domains.measure("perov5", {"train": train, "test": test})
    assert found.elements == [8, 22, 36, 56]
    assert found.volume_per_atom == pytest.approx((12.8 * 0.95**3, 12.8 * 1.05**3))
    # O is nearest to Ti, and in units of the radii Ti is nearest to Ba.
    titanium, oxygen, barium = ase.data.covalent_radii[[22, 8, 56]]
    assert found.nearest == pytest.approx(
        (1.9 / (titanium + oxygen), 2.1 * 3**0.5 / (barium + titanium))
    )
    assert (found.num_atoms, found.values, found.num_crystals) == ((5, 5), (6.0, 7.0), 2)
    assert found.error == pytest.approx(0.1)
    assert found.outside == {"test": (1, 2)}
