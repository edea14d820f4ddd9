"""Reference energies: the fit against known ones, what is shipped, and formation energies."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials import hull, references, weights
from crystal_diffusion_jax.potentials.energies import Evaluated
from crystal_diffusion_jax.structures.compositions import parse_formula
from studies.compound_classes import CLASSES, compound_class
from studies.reference_fit import (
    RIDGE,
    Energies,
    FittedReferences,
    HullCounts,
    choose,
    fit,
    formation_energies,
    hull_control,
)
from studies.references import measure

MU = {3: -1.9, 8: -4.9, 11: -1.3, 22: -7.8, 56: -1.9, 17: -1.8}


def numbers(formula: str) -> np.ndarray:
    return np.array([z for z, count in parse_formula(formula) for _ in range(count)])


def random_crystals(num: int, seed: int, elements: Sequence[int] = tuple(MU)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(elements, rng.integers(2, 9)) for _ in range(num)]


def with_energies(crystals: list[np.ndarray], labels: np.ndarray) -> Energies:
    """Crystals whose energies are exactly label + sum of MU per atom."""
    return Energies(
        crystals, labels, labels + [np.mean([MU[int(z)] for z in each]) for each in crystals]
    )


def test_the_fit_recovers_the_reference_energies_that_made_the_energies():
    labels = np.random.default_rng(1).normal(-1, 1, 300)
    fitted = fit(with_energies(random_crystals(300, seed=0), labels), towards={})
    # The penalty shifts them by about ridge * mu / (shares' eigenvalue), below 1e-3 of 7.8 eV.
    assert fitted == pytest.approx(MU, abs=1e-3)


def test_the_fit_is_that_of_the_normal_equations_with_noise():
    # A second route: the penalty as further rows of an ordinary least-squares problem.
    rng = np.random.default_rng(2)
    crystals = random_crystals(40, seed=3)
    sample = Energies(crystals, np.zeros(40), rng.normal(-4, 1, 40))
    towards = {8: -5.0, 22: -8.0}
    elements = sorted(MU)
    shares = [[np.mean(each == z) for z in elements] for each in crystals]
    rows = np.vstack([shares, np.sqrt(RIDGE) * np.eye(len(elements))])
    prior = [towards.get(z, 0.0) for z in elements]
    right = np.concatenate([sample.energies, np.sqrt(RIDGE) * np.array(prior)])
    expected, *_ = np.linalg.lstsq(rows, right, rcond=None)
    fitted = fit(sample, towards)
    assert [fitted[z] for z in elements] == pytest.approx(expected.tolist(), abs=1e-6)


def test_what_the_data_leave_open_is_taken_from_the_energies_drawn_to():
    # In ABX3 alone, cations + 3 t and anions - 2 t gives the same energies.
    rng = np.random.default_rng(4)
    crystals = [
        np.array([*rng.choice([3, 11, 22, 56], 2), *[rng.choice([8, 17])] * 3]) for _ in range(99)
    ]
    fitted = fit(with_energies(crystals, np.zeros(99)), towards=MU)
    assert fitted == pytest.approx(MU, abs=1e-6)


def test_crystals_without_energy_are_left_out_of_the_fit():
    sample = with_energies(random_crystals(60, seed=5), np.zeros(60))
    sample.energies[::2] = np.nan
    kept = Energies(sample.numbers[1::2], sample.labels[1::2], sample.energies[1::2])
    assert fit(sample, {}) == fit(kept, {})


def test_every_element_is_chosen_ten_times_where_it_occurs_so_often():
    crystals = random_crystals(500, seed=6, elements=[3, 8])
    for row in range(7, 500, 50):
        crystals[row] = np.array([22, 8])  # 10 crystals
    for row in range(9, 500, 200):
        crystals[row] = np.array([56, 8])  # 3 crystals
    rows = choose(crystals, 40, seed=0)
    assert len(rows) == len(set(rows)) == 40
    counts = {z: sum(z in crystals[row] for row in rows) for z in (3, 8, 22, 56)}
    assert counts[22] == 10
    assert counts[56] == 3
    assert min(counts[3], counts[8]) >= 10
    assert (choose(crystals, 40, seed=0) == rows).all()
    assert not np.array_equal(choose(crystals, 40, seed=1), rows)
    assert (choose(crystals, 10_000, seed=0) == np.arange(500)).all()


def test_a_formation_energy_is_the_energy_above_the_references():
    energy = references.formation_energy(MU, [56, 22, 8, 8, 8], -8.0)
    assert energy == pytest.approx(-8.0 - (-1.9 - 7.8 - 3 * 4.9) / 5)
    assert math.isnan(references.formation_energy(MU, [56, 92], -8.0))


def test_the_control_counts_crystals_against_other_formulas():
    known = hull.from_formulas(["Na2Cl2", "NaCl3", "Na3Cl"], [-2.5, -1.4, -1.4])
    crystals = Energies(
        [numbers(f) for f in ("NaCl", "Na2Cl", "TiO2", "TiO2")],
        np.array([-1.35, -1.5, -0.05, 0.2]),
        np.zeros(4),
    )
    predicted = np.array([-1.5, -1.2, np.nan, 0.05])
    control = hull_control(known, crystals, predicted, np.array([0.0, 0.05, 0.2]))
    # Without its own formula NaCl competes with NaCl3 and Na3Cl at -1.4. Na2Cl is 1/3 NaCl and 2/3
    # Na3Cl, -1.77; TiO2 has only its elements to compete with.
    assert control.by_label == HullCounts(num_crystals=4, at_or_below=1, near=2)
    assert control.by_label_among_compounds == HullCounts(num_crystals=2, at_or_below=0, near=1)
    assert control.by_potential == HullCounts(num_crystals=3, at_or_below=1, near=2)
    assert control.by_potential_among_compounds == HullCounts(2, 1, 1)
    assert control.by_source == HullCounts(num_crystals=3, at_or_below=1, near=2)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("BaTiO3", "oxides"),
        ("BaOF", "oxides"),
        ("LiF", "fluorides"),
        ("NaCl", "other halides"),
        ("ZnS", "chalcogenides"),
        ("GaAs", "pnictides"),
        ("Ni3Al", "intermetallics"),
        ("TiC", "other"),
        ("C", "other"),
        ("O2", "other"),
        ("Fe", "other"),
    ],
)
def test_a_compound_belongs_to_the_class_of_its_anion(formula, expected):
    assert compound_class(numbers(formula)) == expected
    assert expected in CLASSES


def crystal_dataset(crystals: list[np.ndarray], labels: np.ndarray) -> CrystalDataset:
    """Crystals on a line, in cells of 4 A a side for each atom."""
    num_atoms = np.array([len(each) for each in crystals])
    positions = [np.arange(n)[:, None] / n * [1.0, 0.0, 0.0] for n in num_atoms]
    return CrystalDataset(
        lattice=np.array([np.diag([4.0 * n, 4.0, 4.0]) for n in num_atoms]),
        num_atoms=num_atoms,
        frac_coords=np.concatenate(positions),
        atomic_numbers=np.concatenate(crystals),
        properties=labels[:, None],
        property_names=("label",),
        material_ids=np.array([str(i) for i in range(len(crystals))]),
    )


def by_volume(structures: Sequence[Structure]) -> list[Evaluated | str]:
    """A potential with an error of 0.05 eV/atom in cells of four atoms; none for two atoms."""
    found: list[Evaluated | str] = []
    for each in structures:
        zs = [site.specie.Z for site in each]
        energy = np.mean([MU[z] for z in zs]) + 0.05 * (len(zs) == 4) - 0.1 * len(zs)
        nothing = np.zeros(0)
        found.append(
            "too small" if len(zs) == 2 else Evaluated(float(energy), nothing, nothing, nothing)
        )
    return found


def test_labels_per_cell_become_energies_per_atom_and_errors_are_measured():
    rng = np.random.default_rng(7)
    crystals = [rng.choice(list(MU), n) for n in rng.integers(2, 9, 400)]
    sizes = np.array([len(each) for each in crystals])
    training = crystal_dataset(
        [each for each in crystals if len(each) not in (2, 4)],
        -0.1 * sizes[~np.isin(sizes, [2, 4])] ** 2,
    )
    test = crystal_dataset(crystals[:30], -0.1 * sizes[:30] ** 2)
    found = measure("perov5", {"train": training, "test": test}, 10_000, 0, True, {}, by_volume)
    assert found.label_is_per_cell
    assert found.num_crystals == len(training)
    assert found.energies == pytest.approx(MU, abs=2e-3)
    assert found.num_not_tested == (sizes[:30] == 2).sum() > 0
    share = (sizes[:30] == 4).sum() / (sizes[:30] != 2).sum()
    assert share > 0
    assert found.test["all"].num_crystals == 30 - found.num_not_tested
    assert found.test["all"].mae == pytest.approx(0.05 * share, abs=2e-3)
    classes = [found.test[name].num_crystals for name in found.test if name != "all"]
    assert sum(classes) == found.test["all"].num_crystals
    np.testing.assert_allclose(
        found.of_labels(test.properties[:, 0], test.num_atoms), -0.1 * sizes[:30]
    )
    assert found.control.by_label.num_crystals == 30
    assert found.control.by_potential.num_crystals == 30 - found.num_not_tested


def test_carbon_is_measured_from_the_lowest_crystal_of_the_training_set():
    crystals = [np.full(n, 3) for n in (3, 5, 6, 3)]  # of any one element
    labels = np.array([-154.5 + n / 10 for n in (3, 5, 6, 3)])
    dataset = crystal_dataset(crystals, labels)
    found = measure("carbon24", {"train": dataset, "test": dataset}, 4, 0, False, MU, by_volume)
    assert found.label_zero == pytest.approx(-154.2)
    assert found.of_labels(labels, dataset.num_atoms).min() == pytest.approx(0)
    expected = found.of_labels(labels, dataset.num_atoms).mean()
    predicted = [found.formation_energy(each, MU[3] - 0.1 * len(each)) for each in crystals]
    assert np.mean(predicted) == pytest.approx(expected, abs=1e-3)


def test_formation_energies_of_unknown_elements_are_nan():
    crystals = Energies([numbers("UO2"), numbers("Li2O")], np.zeros(2), np.array([-9.0, -4.0]))
    found = formation_energies(crystals, MU)
    assert np.isnan(found).tolist() == [True, False]


def test_an_unknown_data_set_is_named():
    with pytest.raises(UserError, match=r"'mp2': choose one of .*; did you mean mp20"):
        references.load("mp2")


@pytest.mark.parametrize("dataset", ["mp20", "perov5", "carbon24"])
def test_shipped_references_are_of_the_potential_and_were_tested(dataset):
    assert references.load(dataset).dataset == dataset
    found = msgspec.json.decode(
        (references.FOLDER / f"{dataset}.json").read_bytes(), type=FittedReferences
    )
    assert found.potential == weights.NAME
    assert found.wheel_sha256 == weights.WHEEL_SHA256
    assert found.num_crystals >= 1000
    assert found.test["all"].num_crystals >= 500
    assert set(found.test) <= {"all", *CLASSES}
    assert found.energies == references.load(dataset).energies
    assert found.energies.keys() == found.counts.keys()
    assert found.control.by_label.num_crystals >= 500
    assert (found.control.by_source is not None) == (dataset == "mp20")
