"""structures/cif_reader.py: CIFs as people have them are read as what they say, or refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from crystal_diffusion_jax.structures.cif_reader import parse_cif_blocks
from tests.cif_cells import cell_of, parse_cif
from tests.cif_texts import CSCL, HEXAGONAL, atoms, cell, group

REPORTED = Path(__file__).parents[2] / "shared" / "reports" / "inputs"
# What the reported files hold; a text is the reason for which one is refused.
REPORTED_CONTENTS = {
    "01_si_origin1.cif": {"Si": 8},
    "03_zro2_P21c.cif": {"Zr": 4, "O": 8},
    "05_mixed_site_label.cif": "disorder: several elements on one site, 'Nb,Zr'",
    "06_bom.cif": {"Cs": 1, "Cl": 1},
    "07_data_global.cif": {"Cs": 1, "Cl": 1},
    "08_text_field_data_line.cif": {"Cs": 1, "Cl": 1},
    "09_mg_three_decimals.cif": {"Mg": 2},
    "10_occupancy_default.cif": {"Cs": 1, "Cl": 1},
    "12_z_mismatch.cif": "disagree with the CIF's formula",
    "14_lone_carbon_30A.cif": {"C": 1},
    "20_upper_case_CIF_folder/S0.CIF": {"Ba": 1, "Ti": 1, "O": 3},
}


def contents(text: str) -> dict[str, float]:
    """Atoms in the cell by element; training and everything else agree on them."""
    structure = parse_cif(text)
    numbers = sorted(site.specie.Z for site in structure)
    assert sorted(cell_of(text).atomic_numbers) == numbers
    return dict(structure.composition.as_dict())


def assert_refused(text: str, reason: str) -> None:
    for read in (parse_cif, cell_of):
        with pytest.raises(ValueError, match=re.escape(reason)):
            read(text)


@pytest.mark.skipif(not REPORTED.is_dir(), reason=f"no reported inputs in {REPORTED}")
@pytest.mark.parametrize("name", REPORTED_CONTENTS)
def test_a_reported_file_is_read_as_what_it_says(name: str) -> None:
    text, expected = (REPORTED / name).read_text(encoding="utf-8"), REPORTED_CONTENTS[name]
    if isinstance(expected, str):
        assert_refused(text, expected)
    else:
        assert contents(text) == expected


FORMS = {
    "byte order mark": "\ufeffdata_x\n" + CSCL,
    "Windows line ends": ("data_x\n" + CSCL).replace("\n", "\r\n"),
    "old Macintosh line ends": ("data_x\n" + CSCL).replace("\n", "\r"),
    "header of CIF 2": "#\\#CIF_2.0\ndata_x\n" + CSCL,
    "upper case tags": "data_x\n"
    + CSCL.replace("_cell_length", "_CELL_LENGTH").replace("fract_x", "FRACT_X"),
    "upper case words": ("data_x\n" + CSCL).replace("data_", "DATA_").replace("loop_", "LOOP_"),
    "dots of mmCIF": "data_x\n" + CSCL.replace("_cell_", "_cell.").replace("site_", "site."),
    "uncertainties": "data_x\n" + CSCL.replace("4.12", "4.120(3)").replace(" 90", " 90.0(2)"),
    "tabs": "data_x\n" + CSCL.replace(" ", "\t"),
    "comments": "# a\ndata_x # b\n" + CSCL.replace("0.5\n", "0.5 # c\n"),
    "typographic minus": "data_x\n" + CSCL.replace("0.5 0.5", "\u22120.5 0.5"),
    "title outside ASCII": "data_x\n_publ_section_title Größe\n" + CSCL,
    "block of a title first": "data_global\n_publ_section_title\n;\n A\n;\ndata_I\n" + CSCL,
    "text with data_ within": "data_x\n" + CSCL + "_iucr_details\n;\ndata_y\nloop_\n_a\n;\n",
    "other columns unknown": "data_x\n_cell_volume ?\n_chemical_formula_sum ?\n" + CSCL,
    "number of the space group unknown": "data_x\n_symmetry_Int_Tables_number ?\n" + CSCL,
    "no name of the block": "data_\n" + CSCL,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_text_does_not_matter(form: str) -> None:
    structure = parse_cif(FORMS[form])
    assert contents(FORMS[form]) == {"Cs": 1, "Cl": 1}
    np.testing.assert_allclose(structure.lattice.abc, 4.12)
    np.testing.assert_allclose(structure.frac_coords[1] % 1, 0.5)


def test_one_atom_needs_no_loop() -> None:
    pairs = "_atom_site_label Po1\n" + "".join(f"_atom_site_fract_{axis} 0.1\n" for axis in "xyz")
    assert contents("data_x\n" + cell(3.35) + pairs) == {"Po": 1}


BROKEN = {
    "a block twice": (f"data_a\n{CSCL}data_A\n_x 1\n", "duplicate block name"),
    "a tag twice": (f"data_a\n_cell_length_a 5\n{CSCL}", "duplicate tag"),
    "a tag in two spellings": (f"data_a\n_cell.length_a 5\n{CSCL}", "occurs twice"),
    "a value without quotes": (f"data_a\n_x P 1\n{CSCL}", "line 2"),
    "a row cut short": (f"data_a\n{CSCL}O1 O 0\n", "Wrong number of values in loop"),
    "Cartesian coordinates": (f"data_a\n{CSCL.replace('fract', 'Cartn')}", "only Cartesian"),
    "one axis missing": (f"data_a\n{CSCL.replace('fract_z', 'other_z')}", "coordinate z"),
    "decimal comma": (f"data_a\n{CSCL.replace('0.5 0.5 0.5', '0,5 0,5 0,5')}", "not a number"),
    "angle beyond 180": (f"data_a\n{CSCL.replace('gamma 90', 'gamma 270')}", "volume below"),
    "angles of no cell": (
        f"data_a\n{CSCL.replace('gamma 90', 'gamma 150').replace('alpha 90', 'alpha 50')}".replace(
            "beta 90", "beta 50"
        ),
        "volume below",
    ),
    "a length that overflows": (f"data_a\n{CSCL.replace('a 4.12', 'a 1e999')}", "volume below"),
    "modulated": (f"data_a\n_cell_modulation_dimension 1\n{CSCL}", "modulated"),
    "superspace group": (f"data_a\n_space_group_ssg_name 'Pnma(0b0)'\n{CSCL}", "modulated"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_text_that_leaves_doubt_is_refused_with_the_reason(kind: str) -> None:
    assert_refused(*BROKEN[kind])


def test_several_blocks_are_several_crystals() -> None:
    text = f"data_title\n_x 1\ndata_a\n{CSCL}data_b\n{CSCL.replace('Cs 0', 'Qq 0')}"
    first, second = parse_cif_blocks(text)
    assert (first.name, second.name) == ("a", "b")
    assert not isinstance(first.structure, str)
    assert first.structure.formula == "Cs1 Cl1"
    assert second.structure == "unknown element: 'Qq'"
    with pytest.raises(ValueError, match="0 structures"):
        parse_cif_blocks("data_x\n_y 1\n")


@pytest.mark.parametrize("occupancy", [".", "1", "1.", "1.000(5)", "0.9999", "1.0001"])
def test_a_full_site_is_an_atom(occupancy: str) -> None:
    site = atoms(f"Po1 Po 0 0 0 {occupancy}", more=["occupancy"])
    assert contents("data_x\n" + cell(3.35) + site) == {"Po": 1}


@pytest.mark.parametrize("occupancy", ["?", "0", "0.5", "0.998", "2", "full"])
def test_a_site_that_may_not_be_full_is_refused(occupancy: str) -> None:
    site = atoms(f"Po1 Po 0 0 0 {occupancy}", more=["occupancy"])
    assert_refused("data_x\n" + cell(3.35) + site, f"partial occupancy: {occupancy}")


@pytest.mark.parametrize(
    ("groups", "is_read"),
    [("..", True), ("?.", True), ("1.", True), ("11", True), ("12", False), ("AB", False)],
)
def test_atoms_of_several_disorder_groups_are_alternatives(groups: str, is_read: bool) -> None:
    rows = [
        f"O{i} O 0 0 {z} {one}" for i, (z, one) in enumerate(zip((0, 0.5), groups, strict=True))
    ]
    text = "data_x\n" + cell(4) + atoms(*rows, more=["disorder_group"])
    if is_read:
        assert contents(text) == {"O": 2}
    else:
        assert_refused(text, "disorder: alternative atoms")
    negative = text.replace(" 1\n", " -1\n")
    if negative != text:
        assert_refused(negative, "disorder: alternative atoms")


def test_a_dummy_is_no_atom() -> None:
    rows = atoms("C1 C 0 0 0 d", "Q1 C 0.5 0.5 0.5 dum", more=["calc_flag"])
    assert_refused("data_x\n" + cell(4) + rows, "dummy")


def stated(**tags: str) -> str:
    return "".join(f"_{tag} {value}\n" for tag, value in tags.items())


MG = cell(3.209, c=5.211, **HEXAGONAL) + group("P 63/m m c") + atoms("Mg1 Mg 1/3 2/3 1/4")
# Two atoms of 24.305 in 46.47 A^3.
AGREEING = {
    "formula": {"chemical_formula_sum": "Mg"},
    "formula of the cell": {"chemical_formula_sum": "Mg2", "cell_formula_units_Z": "2"},
    "formula and Z": {"chemical_formula_sum": "'Mg1'", "cell_formula_units_Z": "2"},
    "volume": {"cell_volume": "46.47(2)"},
    "density": {"exptl_crystal_density_diffrn": "1.737"},
    "weight": {"chemical_formula_weight": "24.31", "cell_formula_units_Z": "2"},
}
DISAGREEING = {
    "formula": ({"chemical_formula_sum": "'Mg O'"}, "formula: Mg2 instead of Mg O"),
    "Z": (
        {"chemical_formula_sum": "Mg", "cell_formula_units_Z": "4"},
        "formula: Mg2 in the cell instead of 4 (Mg)",
    ),
    "volume": ({"cell_volume": "53.6"}, "a volume of 46.472 A^3, not the CIF's 53.6"),
    "density": ({"exptl_crystal_density_diffrn": "3.48"}, "not the CIF's 3.48"),
    "weight": (
        {"chemical_formula_weight": "40.31", "cell_formula_units_Z": "2"},
        "a weight of a formula of 24.3 u, not the CIF's 40.31",
    ),
}


@pytest.mark.parametrize("kind", AGREEING)
def test_what_is_stated_of_the_whole_cell_may_agree(kind: str) -> None:
    assert contents("data_x\n" + stated(**AGREEING[kind]) + MG) == {"Mg": 2}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_what_is_stated_of_the_whole_cell_must_agree(kind: str) -> None:
    tags, reason = DISAGREEING[kind]
    assert_refused("data_x\n" + stated(**tags) + MG, reason)


def test_hydrogen_that_is_missing_is_noticed() -> None:
    text = "data_x\n" + stated(chemical_formula_sum="'H2 O'") + cell(4) + atoms("O1 O 0 0 0")
    assert_refused(text, "formula: O1 instead of H2 O")


def test_deuterium_of_a_formula_is_hydrogen() -> None:
    rows = atoms("D1 D 0 0 0", "Li1 Li 0.5 0.5 0.5")
    for formula in ("'Li D'", "'H Li'"):
        text = "data_x\n" + stated(chemical_formula_sum=formula) + cell(4) + rows
        assert cell_of(text).atomic_numbers.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("multiplicity", "is_read"), [("2", True), ("12", True), ("?", True), ("6", False)]
)
def test_a_multiplicity_counts_the_images_or_their_symmetry(
    multiplicity: str, is_read: bool
) -> None:
    # 2 c of P 6_3/m m c, with 12 of the 24 operations; SHELXL-97 wrote the 12.
    rows = atoms(f"Mg1 Mg 0.3333 0.6667 0.25 {multiplicity}", more=["symmetry_multiplicity"])
    text = "data_x\n" + cell(3.209, c=5.211, **HEXAGONAL) + group("P 63/m m c") + rows
    if is_read:
        assert contents(text) == {"Mg": 2}
    else:
        assert_refused(text, "an atom has 2 images, not the CIF's multiplicity of 6")


def test_all_atoms_with_all_operations_are_listed_twice() -> None:
    rows = atoms("Fe1 Fe 0 0 0", "Fe2 Fe 0.5 0.5 0.5")
    text = "data_x\n" + cell(2.87) + group("I m -3 m") + rows
    assert_refused(text, "duplicate atoms at one site: 'Fe2' is a symmetry image")
    assert contents(text.replace("I m -3 m", "P m -3 m")) == {"Fe": 2}


def test_magnetic_operations_move_atoms_too() -> None:
    magnetic = (
        "_space_group_magn.name_BNS 'P_I -1'\n_parent_space_group.name_H-M_alt 'I m -3 m'\n"
        "loop_\n_space_group_symop_magn_operation.id\n_space_group_symop_magn_operation.xyz\n"
        "1 x,y,z,+1\n2 -x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering.id\n_space_group_symop_magn_centering.xyz\n"
        "1 x,y,z,+1\n2 x+1/2,y+1/2,z+1/2,-1\n"
    )
    text = "data_x\n" + cell(5) + magnetic + atoms("Mn1 Mn 0.1 0.2 0.3")
    expected = [[0.1, 0.2, 0.3], [0.4, 0.3, 0.2], [0.6, 0.7, 0.8], [0.9, 0.8, 0.7]]
    np.testing.assert_allclose(sorted(parse_cif(text).frac_coords.tolist()), expected)
    only_named = magnetic[: magnetic.index("loop_")]
    assert_refused("data_x\n" + cell(5) + only_named + atoms("Mn1 Mn 0.1 0.2 0.3"), "neither")
