"""structures/cif_reader.py: a space group by any of its names is that group, or is refused.

Independent truth: spglib's database of 530 settings, whose operations are applied here one by one.
"""

import io
from collections import Counter

import ase
import ase.io
import numpy as np
import pytest
from ase.spacegroup.spacegroup import SpacegroupError
from pymatgen.core import Structure

from tests.cif_cells import parse_cif
from tests.space_group_crystals import (
    Crystal,
    cif_of,
    crystal_of,
    keeps,
    kind_of,
    operations_loop,
)

SETTINGS = range(1, 531)
# spglib calls this setting B b c b and the other origin B b e b; both are called either.
BBCB = 331
CHUNKS = [range(first, min(first + 53, 531)) for first in range(1, 531, 53)]


def assert_same(structure: Structure, crystal: Crystal) -> None:
    assert Counter(site.specie.symbol for site in structure) == Counter(
        dict(zip(("Si", "O"), map(len, crystal.images), strict=False))
    )
    np.testing.assert_allclose(structure.lattice.parameters, crystal.lattice.parameters, atol=1e-6)
    for element, images in zip(("Si", "O"), crystal.images, strict=False):
        read = np.array([site.frac_coords for site in structure if site.specie.symbol == element])
        difference = read[:, None] - images
        difference = np.abs(difference - np.round(difference)).max(axis=-1)
        assert difference.min(axis=1).max() < 1e-6
        assert difference.min(axis=0).max() < 1e-6


def same_or_refused(text: str, crystal: Crystal) -> bool:
    """Whether it is read, and then as this crystal."""
    try:
        structure = parse_cif(text)
    except ValueError as error:
        if "choices of axes or origin" not in str(error):
            raise
        return False
    assert_same(structure, crystal)
    return True


def may_mean(hall_number: int, attribute: str) -> int:
    """How many groups of operations with the same name the cell allows."""
    lattice, name = crystal_of(hall_number).lattice, getattr(kind_of(hall_number), attribute)
    return len(
        {
            operations_loop(other)
            for other in SETTINGS
            if getattr(kind_of(other), attribute) == name and keeps(lattice, other)
        }
    )


def name_line(name: str) -> str:
    return f"_space_group_name_H-M_alt '{name}'\n"


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_listed_operations_are_applied(chunk: range) -> None:
    for hall_number in chunk:
        crystal = crystal_of(hall_number)
        assert_same(parse_cif(cif_of(crystal, operations_loop(hall_number))), crystal)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_a_hall_symbol_is_its_setting(chunk: range) -> None:
    for hall_number in chunk:
        crystal = crystal_of(hall_number)
        quote = "'"
        line = f"_space_group_name_Hall {quote}{kind_of(hall_number).hall}{quote}\n"
        assert_same(parse_cif(cif_of(crystal, line)), crystal)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("attribute", ["short", "full"])
def test_a_symbol_is_its_setting_unless_it_may_mean_another(chunk: range, attribute: str) -> None:
    for hall_number in chunk:
        crystal, name = crystal_of(hall_number), getattr(kind_of(hall_number), attribute)
        is_read = same_or_refused(cif_of(crystal, name_line(name)), crystal)
        if hall_number != BBCB:
            assert is_read == (may_mean(hall_number, attribute) == 1), (hall_number, name)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_any_spelling_of_a_symbol_is_its_setting(chunk: range) -> None:
    for hall_number in chunk:
        crystal, kind = crystal_of(hall_number), kind_of(hall_number)
        if hall_number == BBCB or may_mean(hall_number, "short") > 1:
            continue
        spellings = [
            kind.short.replace(" ", ""),
            kind.short.upper(),
            kind.full.lower(),
            kind.full.replace(" ", "  "),
        ]
        spelling = spellings[hall_number % len(spellings)]
        assert_same(parse_cif(cif_of(crystal, name_line(spelling))), crystal)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_origin_and_axes_after_a_symbol_decide(chunk: range) -> None:
    for hall_number in chunk:
        crystal, kind = crystal_of(hall_number), kind_of(hall_number)
        if not kind.choice:
            continue
        for text in (f"{kind.short} :{kind.choice}", f"{kind.short}:{kind.choice.upper()}"):
            is_read = same_or_refused(cif_of(crystal, name_line(text)), crystal)
            # C c c e is C c c a as well as C c c b, each with two origins.
            assert is_read or kind.number in (67, 68)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_a_number_is_a_group_of_one_setting_or_refused(chunk: range) -> None:
    for hall_number in chunk:
        crystal, number = crystal_of(hall_number), kind_of(hall_number).number
        line = f"_symmetry_Int_Tables_number {number}\n"
        is_read = same_or_refused(cif_of(crystal, line), crystal)
        assert is_read == (may_mean(hall_number, "number") == 1), hall_number


@pytest.mark.slow
def test_ase_reads_a_symbol_as_the_same_crystal_where_the_axes_are_its_own() -> None:
    compared = 0
    for hall_number in SETTINGS:
        crystal, kind = crystal_of(hall_number), kind_of(hall_number)
        # ASE does not look at the cell: its unique axis is b, its axes of R groups are hexagonal.
        monoclinic_a_or_c = 3 <= kind.number <= 15 and "b" not in kind.choice
        if monoclinic_a_or_c or kind.choice == "R":
            continue
        text = cif_of(crystal, name_line(kind.short))
        if not same_or_refused(text, crystal):
            continue
        try:
            read = ase.io.read(io.StringIO(text), format="cif")
        except SpacegroupError:
            continue
        assert isinstance(read, ase.Atoms)
        difference = read.get_scaled_positions()[:, None] - np.concatenate(crystal.images)
        difference = np.abs(difference - np.round(difference)).max(axis=-1)
        assert len(read) == sum(map(len, crystal.images))
        assert difference.min(axis=0).max() < 1e-4
        compared += 1
    assert compared > 200
