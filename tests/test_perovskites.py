import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Species, Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.perovskites import PerovskiteIons, abx3_dataset, assign_ions


@pytest.fixture(scope="module")
def dataset() -> CrystalDataset:
    return abx3_dataset()


def numbers(*symbols: str) -> tuple[int, int, int]:
    a, b, x = (Element(symbol).Z for symbol in symbols)
    return a, b, x


def ions_of(*symbols: str) -> PerovskiteIons:
    ions = assign_ions(*numbers(*symbols))
    assert ions is not None
    return ions


def compositions(dataset: CrystalDataset) -> np.ndarray:
    """[M, 3] atomic numbers of A, B, X."""
    return dataset.atomic_numbers.reshape(-1, 5)[:, :3]


# Ionic radii copied by hand from the paper's table (Shannon 1976): A in XII, B and X in VI.
@pytest.mark.parametrize(
    ("symbols", "radii", "textbook"),
    [
        (("Sr", "Ti", "O"), (1.44, 0.605, 1.40), 1.00),
        (("Ca", "Ti", "O"), (1.34, 0.605, 1.40), 0.97),
        (("Ba", "Ti", "O"), (1.61, 0.605, 1.40), 1.06),
        (("Cs", "Pb", "I"), (1.88, 1.19, 2.20), 0.85),
        (("La", "Fe", "O"), (1.36, 0.645, 1.40), 0.95),  # high-spin Fe3+
        (("K", "Mn", "F"), (1.64, 0.83, 1.33), 0.97),  # high-spin Mn2+
    ],
)
def test_textbook_perovskites_have_their_textbook_values(
    symbols: tuple[str, str, str], radii: tuple[float, float, float], textbook: float
) -> None:
    r_a, r_b, r_x = radii
    ions = ions_of(*symbols)
    t = ions.tolerance_factor
    assert t == pytest.approx((r_a + r_x) / math.sqrt(2) / (r_b + r_x), abs=1e-12)
    assert t == pytest.approx(textbook, abs=0.01)
    assert ions.cell_constant == pytest.approx(2 * (r_b + r_x), abs=1e-12)


def test_a_cation_without_a_twelvefold_radius_takes_its_highest_coordination() -> None:
    t = ions_of("Gd", "Fe", "O").tolerance_factor
    assert t == pytest.approx((1.107 + 1.40) / math.sqrt(2) / (0.645 + 1.40))  # Gd3+ in IX


@pytest.mark.parametrize(
    ("symbols", "charges"),
    [
        (("Ce", "Fe", "O"), (3, 3)),  # 4+ 2+ is neutral and common too: the lower charge on A
        (("Pb", "Ni", "O"), (4, 2)),  # 2+ 4+ is neutral too, but Ni4+ is not common
        (("Eu", "Ti", "O"), (2, 4)),  # 3+ 3+ is neutral too, but Ti3+ is not common
        (("Tl", "Nb", "O"), (1, 5)),
    ],
)
def test_ambiguous_charges_follow_the_rule(
    symbols: tuple[str, str, str], charges: tuple[int, int]
) -> None:
    ions = assign_ions(*numbers(*symbols))
    assert ions is not None
    assert (ions.charge_a, ions.charge_b) == charges


@pytest.mark.parametrize(
    "symbols",
    [
        ("Na", "Ca", "O"),  # 1 + 2 - 6
        ("Sr", "Ti", "F"),  # 2 + {2, 3, 4} - 3
        ("Sr", "Ti", "Fe"),  # no anion
        ("Ce", "Ce", "O"),  # one element on both sites
        ("Sr", "O", "O"),
    ],
)
def test_compositions_without_neutral_ions_have_no_property(symbols: tuple[str, str, str]) -> None:
    assert assign_ions(*numbers(*symbols)) is None


def test_exchanging_the_cations_is_another_crystal() -> None:
    # Ti4+ in VIII is 0.74, Sr2+ in VI is 1.18.
    t = ions_of("Ti", "Sr", "O").tolerance_factor
    assert t == pytest.approx((0.74 + 1.40) / math.sqrt(2) / (1.18 + 1.40))


def test_there_are_a_few_thousand_crystals_with_consistent_arrays(dataset: CrystalDataset) -> None:
    count = len(dataset)
    assert 2000 <= count <= 6000
    assert dataset.lattice.shape == (count, 3, 3)
    assert dataset.frac_coords.shape == (5 * count, 3)
    assert dataset.atomic_numbers.shape == (5 * count,)
    assert dataset.properties.shape == (count, 1)
    assert dataset.property_names == ("tolerance_factor",)
    assert dataset.material_ids.shape == (count,)
    assert (dataset.num_atoms == 5).all()


def test_every_crystal_is_charge_neutral_with_charges_that_pymatgen_knows(
    dataset: CrystalDataset,
) -> None:
    for composition in compositions(dataset):
        a, b, x = composition.tolist()
        ions = assign_ions(a, b, x)
        assert ions is not None
        assert ions.charge_a + ions.charge_b + 3 * ions.charge_x == 0
        assert ions.charge_a > 0
        assert ions.charge_b > 0
        assert ions.charge_x < 0
        for z, charge in ((a, ions.charge_a), (b, ions.charge_b), (x, ions.charge_x)):
            element = Element.from_Z(z)
            known = (*element.common_oxidation_states, *element.icsd_oxidation_states)
            assert charge in known


def test_each_ordered_composition_occurs_once_and_is_what_its_name_says(
    dataset: CrystalDataset,
) -> None:
    names = dataset.material_ids.tolist()
    assert len(set(names)) == len(dataset)
    assert len(np.unique(compositions(dataset), axis=0)) == len(dataset)
    assert {
        "abx3-BaTiO3",
        "abx3-SrTiO3",
        "abx3-LaFeO3",
        "abx3-CsPbI3",
        "abx3-LaAlO3",
        "abx3-BaZrS3",
    } <= set(names)
    for name, composition in zip(names, compositions(dataset), strict=True):
        a, b, x = (Element.from_Z(int(z)).symbol for z in composition)
        assert name == f"abx3-{a}{b}{x}3"


def test_every_crystal_passes_the_size_filters(dataset: CrystalDataset) -> None:
    t = dataset.properties[:, 0]
    # From the cell and the property alone: r_B + r_X = a/2 and r_A + r_X = a t / sqrt(2).
    half_cell = dataset.lattice[:, 0, 0] / 2
    radius_of_anion = {8: 1.40, 9: 1.33, 16: 1.84, 17: 1.81, 34: 1.98, 35: 1.96, 53: 2.20}
    r_x = np.array([radius_of_anion[x] for x in compositions(dataset)[:, 2].tolist()])
    r_b = half_cell - r_x
    r_a = math.sqrt(2) * half_cell * t - r_x
    assert ((t >= 0.75) & (t <= 1.10)).all()
    assert ((r_b / r_x >= 0.38) & (r_b / r_x <= 0.90)).all()
    assert (r_a > r_b).all()


def test_property_agrees_with_pymatgens_own_radius_function(dataset: CrystalDataset) -> None:
    cases = {
        "abx3-KTaO3": (("K", 1), ("Ta", 5), ("O", -2)),
        "abx3-LaAlO3": (("La", 3), ("Al", 3), ("O", -2)),
        "abx3-RbCaF3": (("Rb", 1), ("Ca", 2), ("F", -1)),
        "abx3-BaSnO3": (("Ba", 2), ("Sn", 4), ("O", -2)),
        "abx3-CsSrBr3": (("Cs", 1), ("Sr", 2), ("Br", -1)),
    }
    names = dataset.material_ids.tolist()
    for name, ions in cases.items():
        r_a, r_b, r_x = (
            Species(symbol, charge).get_shannon_radius(cn=coordination)
            for (symbol, charge), coordination in zip(ions, ("XII", "VI", "VI"), strict=True)
        )
        row = names.index(name)
        t = (r_a + r_x) / (math.sqrt(2) * (r_b + r_x))
        np.testing.assert_allclose(dataset.properties[row, 0], t, rtol=1e-12)
        np.testing.assert_allclose(
            dataset.lattice[row], 2 * (r_b + r_x) * np.eye(3), rtol=1e-12, atol=0
        )


def digest(dataset: CrystalDataset) -> str:
    arrays = (
        dataset.lattice,
        dataset.num_atoms,
        dataset.frac_coords,
        dataset.atomic_numbers,
        dataset.properties,
    )
    content = (
        b"".join(array.tobytes() for array in arrays)
        + " ".join(dataset.material_ids.tolist()).encode()
    )
    return hashlib.sha256(content).hexdigest()


def test_the_data_set_is_the_same_at_every_call_and_in_every_process(
    dataset: CrystalDataset,
) -> None:
    assert digest(abx3_dataset()) == digest(dataset)
    program = "from tests.test_perovskites import *; print(digest(abx3_dataset()))"
    # Sets of strings have another order there.
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == digest(dataset)


def test_ions_touch_where_the_geometry_says(dataset: CrystalDataset) -> None:
    coords = dataset.frac_coords.reshape(-1, 5, 3)
    for row in range(0, len(dataset), 97):
        distances = Lattice(dataset.lattice[row]).get_all_distances(coords[row], coords[row])
        ions = assign_ions(*compositions(dataset)[row].tolist())
        assert ions is not None
        np.testing.assert_allclose(distances[1, 2:], ions.radius_b + ions.radius_x, rtol=1e-12)
        # A-X is stretched or squeezed by the tolerance factor, whose meaning this is.
        np.testing.assert_allclose(
            distances[0, 2:] * dataset.properties[row, 0],
            ions.radius_a + ions.radius_x,
            rtol=1e-12,
        )


def test_every_cell_is_reduced_and_in_the_canonical_orientation(dataset: CrystalDataset) -> None:
    constants = dataset.lattice[:, 0, 0]
    np.testing.assert_array_equal(dataset.lattice, constants[:, None, None] * np.eye(3))
    assert (dataset.frac_coords >= 0).all()
    assert (dataset.frac_coords < 1).all()


def test_a_has_twelve_anions_around_it_and_b_has_six(dataset: CrystalDataset) -> None:
    row = dataset.material_ids.tolist().index("abx3-SrTiO3")
    atoms = slice(5 * row, 5 * row + 5)
    structure = Structure(
        Lattice(dataset.lattice[row]),
        dataset.atomic_numbers[atoms].tolist(),
        dataset.frac_coords[atoms],
    )
    nearest = (structure.get_neighbors(structure[site], r=3.0) for site in (0, 1))
    around_a, around_b = ([str(atom.specie) for atom in atoms] for atoms in nearest)
    assert around_a == ["O"] * 12
    assert around_b == ["O"] * 6
