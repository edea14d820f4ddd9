"""structures/cif_symmetry.py: the cell, the operations and all names of a group have to agree."""

import gemmi
import numpy as np
import pytest

from crystal_diffusion_jax.structures import space_groups
from tests.cif_cells import parse_cif
from tests.cif_texts import HEXAGONAL, atoms, cell, group, operations
from tests.test_cif_reader import assert_refused, contents

ONE = atoms("Na1 Na 0.1 0.2 0.3")
RHOMBOHEDRAL = cell(4.7, alpha=57, beta=57, gamma=57) + atoms("Bi1 Bi 0.234 0.234 0.234")
AS_HEXAGONAL = cell(4.5, c=11.8, **HEXAGONAL) + atoms("Bi1 Bi 0 0 0.234")


@pytest.mark.parametrize(
    "line",
    [*map(group, ["R -3 m", "R-3m", "R -3 2/m"]), "_space_group_IT_number 166\n"],
)
def test_the_cell_decides_the_axes_of_a_rhombohedral_group(line: str) -> None:
    assert contents("data_x\n" + line + RHOMBOHEDRAL) == {"Bi": 2}
    assert contents("data_x\n" + line + AS_HEXAGONAL) == {"Bi": 6}


@pytest.mark.parametrize("name", ["R -3 m :R", "R -3 m R", "R-3mR", "R -3 m (rhombohedral axes)"])
def test_axes_that_are_named_have_to_be_those_of_the_cell(name: str) -> None:
    assert contents("data_x\n" + group(name) + RHOMBOHEDRAL) == {"Bi": 2}
    assert_refused("data_x\n" + group(name) + AS_HEXAGONAL, "such a cell cannot have this symmetry")
    other = name.replace("R)", "H)").replace("rhombohedral", "hexagonal")
    other = other if other != name else name[:-1] + "H"
    assert contents("data_x\n" + group(other) + AS_HEXAGONAL) == {"Bi": 6}
    assert_refused("data_x\n" + group(other) + RHOMBOHEDRAL, "cannot have this symmetry")


@pytest.mark.parametrize(
    ("cell_lines", "triplets"),
    [
        (cell(4, b=5), ["x,y,z", "-y,x,z", "-x,-y,z", "y,-x,z"]),
        (cell(4), ["x,y,z", "-y,x-y,z", "-x+y,-x,z"]),
        (cell(4, gamma=95), ["x,y,z", "-x,y,-z"]),
    ],
)
def test_listed_operations_have_to_fit_the_cell(cell_lines: str, triplets: list[str]) -> None:
    text = "data_x\n" + cell_lines + operations(*triplets) + ONE
    assert_refused(text, "the symmetry operations: such a cell cannot have this symmetry")


# Diamond: 8 a of F d -3 m is (0, 0, 0) from the first origin, (1/8, 1/8, 1/8) from the second.
DIAMOND = {
    "F d -3 m :1": 8, "Fd-3mS": 8, "F 41/d -3 2/m (origin choice 1)": 8, "FD-3M:1": 8, "Fd3m:1": 8,
    "F d -3 m :2": 16, "F d -3 m Z": 16, "F d -3 m O2": 16, "Fd\\bar{3}m:2 (227)": 16,
}  # fmt: skip


@pytest.mark.parametrize("name", DIAMOND)
def test_the_origin_that_is_named_counts(name: str) -> None:
    text = "data_x\n" + cell(5.431) + group(name) + atoms("Si1 Si 0 0 0")
    assert contents(text) == {"Si": DIAMOND[name]}


def test_without_an_origin_the_number_of_atoms_decides_or_nothing() -> None:
    for position in ("0 0 0", "0.125 0.125 0.125"):
        text = cell(5.431) + group("F d -3 m") + atoms(f"Si1 Si {position}")
        assert_refused("data_x\n" + text, "leaves 2 choices of axes or origin")
        content = "data_x\n_chemical_formula_sum Si\n_cell_formula_units_Z 8\n"
        assert contents(content + text) == {"Si": 8}
    code = "data_x\n_space_group_IT_coordinate_system_code 2\n"
    assert contents(code + text) == {"Si": 8}


# P 21/c: the same crystal in many words.
ZIRCONIA = cell(5.15, 5.21, 5.32, beta=99.2) + atoms(
    "Zr1 Zr 0.2758 0.0411 0.2082", "O1 O 0.0703 0.3359 0.3406", "O2 O 0.4423 0.7549 0.4789"
)
P21C = [
    "P 21/c", "P21/c", "p 21/c", "P 1 21/c 1", "P2(1)/c", "P 2_1/c", "P 2<sub>1</sub>/c",
    "P2_{1}/c", "P121/c1", "P 21/c (14)", "P 21/c (No. 14)", "P 21/c :b1",
]  # fmt: skip


@pytest.mark.parametrize("name", P21C)
def test_a_group_has_many_spellings(name: str) -> None:
    structure = parse_cif("data_x\n" + group(name) + ZIRCONIA)
    assert structure.formula == "Zr4 O8"
    # The glide plane of c: (x, 1/2 - y, z + 1/2).
    image = np.array([0.2758, 0.4589, 0.7082])
    assert np.abs(structure.frac_coords - image).max(axis=1).min() < 1e-9


OTHER_TAGS = [
    "_space_group_name_H-M_alt 'P 21/c'", "_space_group.name_H-M_alt 'P 21/c'",
    "_SYMMETRY_SPACE_GROUP_NAME_H-M 'P 21/c'", "_space_group_name_Hall '-P 2ybc'",
    "_symmetry_space_group_name_Hall '-p 2ybc'", "_symmetry_space_group_name_H-M\n;\nP 21/c\n;",
    "_symmetry_space_group_name_H-M 'P 21/c'\n_symmetry_Int_Tables_number 14",
]  # fmt: skip


@pytest.mark.parametrize("line", OTHER_TAGS)
def test_a_group_is_named_under_many_tags(line: str) -> None:
    assert contents(f"data_x\n{line}\n{ZIRCONIA}") == {"Zr": 4, "O": 8}


CONTRADICTIONS = {
    "unknown name": (group("Q 7 7"), "space group 'Q 7 7' is not known"),
    "unknown number": ("_space_group_IT_number 231\n", "space group number 231 is not known"),
    "unknown Hall symbol": ("_space_group_name_Hall '-P 9'\n", "Hall symbol '-P 9' is not known"),
    "name and number": (group("P -1") + "_space_group_IT_number 1\n", "contradict each other"),
    "name and Hall symbol": (
        group("P -1") + "_space_group_name_Hall 'P 2y'\n",
        "contradict each other",
    ),
    "name and operations": (
        group("P m -3 m") + operations("x,y,z", "-x,-y,-z"),
        "space group 'P m -3 m' contradicts the symmetry operations",
    ),
    "number and operations": (
        "_symmetry_Int_Tables_number 2\n" + operations("x,y,z"),
        "space group number 2 contradicts the symmetry operations",
    ),
    "no group": (operations("x,y,z", "-y,x,z"), "not a group"),
    "no finite group": (operations("x,y,z", "x+y,y,z"), "not a group"),
    "no identity": (operations("-x,-y,-z", "x+1/2,y,z"), "not a group"),
    "two lists": (
        operations("x,y,z")
        + operations("x,y,z", "-x,-y,-z").replace(
            "_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"
        ),
        "two lists of symmetry operations differ",
    ),
    "no operation": (operations("x,y"), "symmetry operation 'x,y' cannot be read"),
    "stretching": (operations("x,y,z", "x+y,x-y,z"), "changes volumes"),
    "only a crystal system": ("_symmetry_cell_setting cubic\n", "neither symmetry operations"),
    "several settings": ("_symmetry_Int_Tables_number 62\n", "leaves 6 choices"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_symmetry_that_is_unknown_or_contradicts_itself_is_refused(kind: str) -> None:
    lines, reason = CONTRADICTIONS[kind]
    assert_refused("data_x\n" + cell(5) + lines + ONE, reason)


@pytest.mark.parametrize(
    "triplets",
    [
        ["X,Y,Z", "1/2-X , 0.5-Y, Z", "x+1/2,y+0.50,z", "-X,-Y,+Z"],
        ["x, y, z", "-x+1/2,-y+1/2,z", "1/2+x,1/2+y,z", "-x,-y,z"],
        ["1 x,y,z", "2 -x+.5,-y-1/2,z", "3 x-1/2,y+3/2,z", "4 -x,-y,z+1"],
    ],
)
def test_operations_have_many_spellings(triplets: list[str]) -> None:
    expected = [[0.1, 0.2, 0.3], [0.4, 0.3, 0.3], [0.6, 0.7, 0.3], [0.9, 0.8, 0.3]]
    for lines in (operations(*triplets), operations(*triplets).replace("'", "")):
        if "1 x" in lines and "'" not in lines:
            continue  # without quotes the number is a value of its own
        read = parse_cif("data_x\n" + cell(5) + lines + ONE).frac_coords
        np.testing.assert_allclose(sorted(read.tolist()), expected, atol=1e-12)


def test_symmetry_in_another_block_than_the_atoms_is_refused() -> None:
    text = "data_group\n" + group("P -1") + "data_x\n" + cell(5) + ONE
    assert_refused(text, "another data block")


def test_operations_do_without_a_name_that_is_known() -> None:
    text = "data_x\n" + cell(5) + group("*Q 7") + operations("x,y,z", "-x,-y,-z") + ONE
    assert contents(text) == {"Na": 2}


def test_operations_count_where_the_name_is_that_of_other_axes() -> None:
    # P 21/n under the name P 21/c, as many files have it.
    listed = operations("x,y,z", "-x,-y,-z", "-x+1/2,y+1/2,-z+1/2", "x+1/2,-y+1/2,z+1/2")
    text = "data_x\n" + cell(5, 6, 7, beta=95) + group("P 21/c") + listed + ONE
    image = np.array([0.6, 0.3, 0.8])
    assert np.abs(parse_cif(text).frac_coords - image).max(axis=1).min() < 1e-12


def test_every_name_of_gemmi_has_the_number_that_spglib_finds_for_its_operations() -> None:
    for entry in gemmi.spacegroup_table():
        operations_of_entry = space_groups.group_of(entry.operations())
        assert space_groups.is_closed(operations_of_entry)
        assert space_groups.number_of(operations_of_entry) == entry.number
        found = space_groups.settings_of_name(entry.xhm())
        assert operations_of_entry in [setting.group() for setting in found], entry.xhm()
