import csv
import gzip
import io
import itertools
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import parse_formula, reduced_formula
from crystal_diffusion_jax.structures.conversion import (
    cell_defect,
    minimum_distance,
    to_ase,
    to_extxyz,
    to_structure,
)
from tests.cif_cells import parse_cif

MP20 = Path(__file__).parents[2] / "shared/data/mp20/test.csv.gz"
BA_TI_O3 = np.array([56, 22, 8, 8, 8])
PEROVSKITE = np.array(
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
)
SKEWED = np.array([[4.0, 0.3, -0.2], [0.9, 5.0, 0.4], [-0.7, 1.1, 6.0]])


def cif_field(cif: str, name: str) -> str:
    (line,) = [line for line in cif.splitlines() if line.startswith(name)]
    return line.removeprefix(name).strip().strip("'")


def read_cif(cif: str) -> Structure:
    # frac_tolerance=0: do not round 0.3333 to 1/3, which pymatgen would warn of.
    (structure,) = CifParser.from_str(cif, frac_tolerance=0.0).parse_structures(primitive=False)
    return structure


def brute_force_distances(lattice: np.ndarray, frac_coords: np.ndarray) -> np.ndarray:
    """[N, N] minimum-image distances by looking at 343 images."""
    images = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    difference = frac_coords[:, None, None] - frac_coords[None, :, None] + images
    return np.linalg.norm(difference @ lattice, axis=-1).min(axis=-1)


def perovskite(lattice: np.ndarray | None = None, noise: float = 0.0, seed: int = 0) -> Structure:
    """BaTiO3 with the ideal fractional coordinates, atoms displaced by `noise` Angstrom each."""
    lattice = 4.0 * np.eye(3) if lattice is None else lattice
    step = np.random.default_rng(seed).normal(size=PEROVSKITE.shape)
    step *= noise / np.linalg.norm(step, axis=-1, keepdims=True)
    return to_structure(lattice, PEROVSKITE + step @ np.linalg.inv(lattice), BA_TI_O3)


def test_a_sound_cell_has_no_defect():
    assert cell_defect(SKEWED, PEROVSKITE) is None
    assert cell_defect(SKEWED[[1, 0, 2]], PEROVSKITE) is None  # left-handed


@pytest.mark.parametrize(
    ("lattice", "frac_coords", "reason"),
    [
        (np.full((3, 3), np.nan), PEROVSKITE, "non-finite numbers"),
        (np.eye(3), np.where(PEROVSKITE == 0, np.inf, PEROVSKITE), "non-finite numbers"),
        (np.zeros((3, 3)), PEROVSKITE, "volume below 0.1 A^3"),
        (0.46 * np.eye(3), PEROVSKITE, "volume below 0.1 A^3"),  # 0.097 A^3
        (
            np.array([[9.0, 0.0, 0.0], [9.0, 0.4, 0.0], [0.0, 0.0, 9.0]]),  # 2.5 degrees
            PEROVSKITE,
            "collinear cell vectors (|cos| > 0.999)",
        ),
        (1e-310 * np.eye(3), PEROVSKITE, "volume below 0.1 A^3"),  # denormal
        (np.float32(1e-41) * np.eye(3, dtype=np.float32), PEROVSKITE, "volume below 0.1 A^3"),
        (np.diag([4.0, 4.0, 1000.1]), PEROVSKITE, "cell vector longer than 1000 A"),
        (np.diag([4.0, 4.0, 1e300]), PEROVSKITE, "cell vector longer than 1000 A"),
        (np.full((3, 3), np.finfo(np.float32).max), PEROVSKITE, "cell vector longer than 1000 A"),
    ],
)
def test_each_defect_is_named(lattice, frac_coords, reason):
    assert cell_defect(lattice, frac_coords) == reason


def test_defects_begin_at_their_thresholds():
    assert cell_defect(0.47 * np.eye(3), PEROVSKITE) is None  # 0.104 A^3
    assert cell_defect(np.array([[9, 0, 0], [9, 0.5, 0], [0, 0, 9]]), PEROVSKITE) is None


def test_a_left_handed_cell_becomes_right_handed_with_all_distances_kept():
    left = SKEWED * [1, 1, -1]
    frac_coords = np.random.default_rng(0).uniform(-2, 2, size=(5, 3))
    structure = to_structure(left, frac_coords, BA_TI_O3)

    assert np.linalg.det(left) < 0 < np.linalg.det(structure.lattice.matrix)
    assert np.all((structure.frac_coords >= 0) & (structure.frac_coords < 1))
    np.testing.assert_allclose(
        brute_force_distances(structure.lattice.matrix, structure.frac_coords),
        brute_force_distances(left, frac_coords % 1.0),
        atol=1e-10,
    )


def test_rotating_the_cell_vectors_changes_no_number():
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turned = to_structure(SKEWED @ rotation, PEROVSKITE, BA_TI_O3)
    plain = to_structure(SKEWED, PEROVSKITE, BA_TI_O3)
    np.testing.assert_allclose(turned.lattice.matrix, plain.lattice.matrix, atol=1e-10)


def test_a_coordinate_just_below_zero_wraps_to_zero_not_to_one():
    structure = to_structure(SKEWED, np.array([[-1e-20, 1.0, -0.25]]), np.array([6]))
    np.testing.assert_array_equal(structure.frac_coords, [[0.0, 0.0, 0.75]])


def test_the_ideal_perovskite_is_written_with_its_space_group():
    structure = perovskite()
    cif = to_cif(structure, symprec=0.01)
    assert cif_field(cif, "_symmetry_space_group_name_H-M") == "Pm-3m"
    assert cif_field(cif, "_symmetry_Int_Tables_number") == "221"
    assert cif.count("\n  O  ") == 1  # three equivalent oxygen atoms are one site
    reread = read_cif(cif)
    assert len(reread) == 5
    assert StructureMatcher(scale=False).fit(structure, reread)


def test_a_polar_displacement_beyond_the_tolerance_lowers_the_symmetry():
    polar = PEROVSKITE.copy()
    polar[1, 2] += 0.3 / 4.0  # titanium, by 0.3 Angstrom along z
    structure = to_structure(4.0 * np.eye(3), polar, BA_TI_O3)
    cif = to_cif(structure, symprec=0.1)
    assert cif_field(cif, "_symmetry_space_group_name_H-M") == "P4mm"
    assert StructureMatcher(scale=False).fit(structure, read_cif(cif))


@pytest.mark.parametrize(
    ("structure", "symprec"), [(perovskite(noise=0.3), 0.1), (perovskite(), 0.0)]
)
def test_without_symmetry_or_with_symprec_zero_the_cell_is_written_as_it_is(structure, symprec):
    cif = to_cif(structure, symprec)
    assert cif_field(cif, "_symmetry_Int_Tables_number") == "1"
    reread = read_cif(cif)
    assert reread.atomic_numbers == structure.atomic_numbers
    np.testing.assert_allclose(reread.frac_coords, structure.frac_coords, atol=1e-8)
    np.testing.assert_allclose(reread.lattice.parameters, structure.lattice.parameters, atol=1e-7)


@pytest.mark.parametrize("symprec", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_an_element_is_written_atom_by_atom_though_it_forms_molecules(count, symprec):
    sites = [[0.1 * k, 0.0, 0.0] for k in range(count)]
    crystal = Structure(Lattice.orthorhombic(9.0, 4.0, 5.0), ["O"] * count, sites)
    # Our reader compares the atoms with the formula and the formula units.
    assert StructureMatcher().fit(parse_cif(to_cif(crystal, symprec)), crystal)


def test_a_rhombohedral_cell_near_90_degrees_is_not_straightened_to_a_cubic_one():
    lattice = Lattice.from_parameters(4.0, 4.0, 4.0, 89.0, 89.0, 89.0)  # off by 0.07 Angstrom
    structure = perovskite(lattice.matrix)
    cif = to_cif(structure, symprec=0.01)
    assert cif_field(cif, "_symmetry_space_group_name_H-M") == "R-3m"
    reread = read_cif(cif)
    assert len(reread) == 15  # hexagonal setting
    np.testing.assert_allclose(reread.volume, 3 * structure.volume, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_noisy_perovskite_keeps_its_atoms_and_finds_its_space_group(seed):
    strained = 4.0 * np.eye(3) + np.random.default_rng(seed).normal(scale=0.01, size=(3, 3))
    structure = perovskite(strained, noise=0.02, seed=seed)
    cif = to_cif(structure, symprec=0.15)
    assert cif_field(cif, "_symmetry_space_group_name_H-M") == "Pm-3m"
    reread = read_cif(cif)  # warnings are errors, a wrong number of atoms among them
    assert reread.composition == structure.composition
    np.testing.assert_allclose(reread.volume, structure.volume, rtol=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_a_crystal_of_nonsense_keeps_its_composition_and_density(seed):
    # Symmetric up to noise, with atoms closer than the tolerance: spglib's worst case.
    rng = np.random.default_rng(seed)
    pair = rng.normal(scale=0.02, size=(2, 3))
    structure = to_structure(
        3.0 * np.eye(3), np.concatenate([pair, pair + 0.5]), np.array([6, 6, 8, 8])
    )
    reread = read_cif(to_cif(structure, symprec=0.3))
    assert reread.composition.reduced_formula == "CO"
    density = len(structure) / structure.volume
    np.testing.assert_allclose(len(reread) / reread.volume, density, rtol=0.2)


def test_a_failure_of_spglib_falls_back_to_p1(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ValueError("spglib gave up")

    structure = perovskite()
    plain = to_cif(structure, symprec=0.0)
    monkeypatch.setattr(SpacegroupAnalyzer, "get_refined_structure", fail)
    assert to_cif(structure, symprec=0.01) == plain


@pytest.mark.parametrize("changed", ["one oxygen lost", "one titanium moved", "cell doubled"])
def test_a_symmetrised_cell_that_is_another_crystal_falls_back_to_p1(monkeypatch, changed):
    structure = perovskite()
    plain = to_cif(structure, symprec=0.0)
    other = structure.copy()
    if changed == "one oxygen lost":
        other.remove_sites([4])
    elif changed == "one titanium moved":
        other.translate_sites([1], [0, 0, 0.1])
    else:
        other = Structure(Lattice.cubic(8.0), structure.species, structure.frac_coords)
    monkeypatch.setattr(SpacegroupAnalyzer, "get_refined_structure", lambda _: other)
    assert to_cif(structure, symprec=0.01) == plain


def test_symmetrised_real_crystals_read_back_as_themselves():
    if not MP20.exists():
        pytest.skip(f"needs the MP-20 test set, {MP20}")
    with gzip.open(MP20, mode="rt") as file:
        rows = list(itertools.islice(csv.DictReader(file), 0, 60, 6))
    symmetric = 0
    for row in rows:
        structure = read_cif(row["cif"])
        cif = to_cif(structure, symprec=0.05)
        symmetric += cif_field(cif, "_symmetry_Int_Tables_number") != "1"
        assert StructureMatcher(scale=False).fit(structure, read_cif(cif)), row["material_id"]
    assert symmetric >= 8


def test_ase_reads_the_same_crystals_from_extxyz():
    structures = [perovskite(), to_structure(SKEWED, PEROVSKITE[:2], np.array([55, 17]))]
    infos: list[dict[str, Any]] = [{"index": 0, "target_gap": 1.5}, {"index": 7, "model": "a b"}]
    text = to_extxyz([to_ase(each, **info) for each, info in zip(structures, infos, strict=True)])
    frames = list(ase.io.iread(io.StringIO(text), format="extxyz"))
    assert [frame.info["index"] for frame in frames] == [0, 7]
    assert frames[0].info["target_gap"] == 1.5
    assert frames[1].info["model"] == "a b"
    for frame, structure in zip(frames, structures, strict=True):
        assert frame.pbc.all()
        assert tuple(frame.numbers) == structure.atomic_numbers
        np.testing.assert_allclose(frame.cell.array, structure.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(frame.positions, structure.cart_coords, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_minimum_distance_is_that_of_brute_force(seed):
    frac_coords = np.random.default_rng(seed).uniform(size=(5, 3))
    distances = brute_force_distances(SKEWED, frac_coords) + np.diag(np.full(5, np.inf))
    structure = to_structure(SKEWED, frac_coords, BA_TI_O3)
    np.testing.assert_allclose(minimum_distance(structure), distances.min(), atol=1e-10)


@pytest.mark.parametrize("third", [0.5, 101.0, 999.0])
def test_an_elongated_cell_is_written_as_it_is_at_little_cost(third):
    structure = to_structure(np.diag([0.5, 0.5, third]), np.zeros((1, 3)), np.array([6]))
    cif = to_cif(structure, symprec=0.1)
    # Compared with its symmetrised form, the longest cell would take tens of gigabytes.
    assert (cif_field(cif, "_symmetry_Int_Tables_number") == "1") == (third > 50)
    np.testing.assert_allclose(read_cif(cif).volume, 0.25 * third, rtol=1e-6)


@pytest.mark.parametrize("symprec", [0.0, 0.1])
def test_atoms_at_one_position_are_written_all_with_distance_zero(symprec):
    structure = to_structure(SKEWED, np.tile([[0.25, 0.5, 1.75]], (3, 1)), np.array([6, 6, 8]))
    assert minimum_distance(structure) == 0.0
    cif = to_cif(structure, symprec)
    assert (cif.count("\n  C  "), cif.count("\n  O  ")) == (2, 1)


def test_coordinates_of_any_size_are_wrapped_into_the_cell():
    huge = np.array([[3e38, -3e38, 1e-45]], dtype=np.float32)
    wrapped = to_structure(SKEWED, huge, np.array([6])).frac_coords
    assert np.all((wrapped >= 0) & (wrapped < 1))


def test_a_single_atom_has_no_neighbour():
    assert minimum_distance(to_structure(SKEWED, PEROVSKITE[:1], np.array([6]))) == np.inf


def test_formulas_are_reduced_also_with_noble_gases():
    assert reduced_formula(np.tile(BA_TI_O3, 2)) == "BaTiO3"
    assert reduced_formula(np.array([6] * 8)) == "C"
    assert set(reduced_formula(np.array([2, 11, 11]))) == set("Na2He")  # He: no electronegativity


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("BaTiO3", ((8, 3), (22, 1), (56, 1))),
        ("Ti2O6Ba2", ((8, 3), (22, 1), (56, 1))),
        ("O2", ((8, 1),)),
        ("Li0.5CoO2", ((3, 1), (8, 4), (27, 2))),
        ("Al0.3333Ga0.6667", ((13, 1), (31, 2))),
        ("(NH4)2SO4", ((1, 8), (7, 2), (8, 4), (16, 1))),
        ("HDO", ((1, 2), (8, 1))),
        ("He2Na", ((2, 2), (11, 1))),
    ],
)
def test_a_formula_is_parsed_however_it_is_written(formula, expected):
    assert parse_formula(formula) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "Xx2", "X2", "Fe2+", "Fe-2", "Fe0", "Fe1e-9", "1e999", "((Fe", "Na" * 200]
)
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(ValueError, match="is not a formula of elements"):
        parse_formula(text)


def test_atoms_on_top_of_each_other_are_written_in_p1_without_a_warning():
    # Within 0.1 A of a cubic perovskite whose B site holds two atoms, which pymatgen merges.
    numbers = np.array([16, 16, 49, 16, 16])
    coords = np.array(
        [[0.909, 0.082, 0.082], [0.908, 0.582, 0.58], [0.407, 0.079, 0.579], [0.41, 0.084, 0.581],
         [0.409, 0.581, 0.081]]
    )  # fmt: skip
    lattice = np.array([[5.17, 0.0, -0.07], [-0.09, 5.23, -0.07], [0.0, 0.0, 5.24]])

    # Recorded, because an error raised from a warning would itself lead to P1.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = to_cif(to_structure(lattice, coords, numbers), 0.1)

    assert not [str(warning.message) for warning in caught]
    assert "_symmetry_space_group_name_H-M   'P 1'" in text
    assert text.count("  S  ") == 4
