"""structures/reading.py: crystals of any program are read as they are."""

import csv
import dataclasses
import gzip
import os
import re
import sqlite3
import zipfile
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.validity import structural_defect
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.store import Samples
from tests import one_file
from tests.cif_cells import parse_cif
from tests.test_store import REQUEST, batch

REQUEST_FOR_FIVE = dataclasses.replace(REQUEST, num=5, symprec=0.0)
OVERLAP = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
A1 {first} 0.1 0.1 0.1
A2 {second} 0.1 0.1 {z}
"""


def crystal(seed: int) -> Structure:
    """A triclinic crystal without symmetry whose numbers have many digits."""
    rng = np.random.default_rng(seed)
    lattice = 5.0 * np.eye(3) + rng.normal(scale=0.4, size=(3, 3))
    canonical = Lattice.from_parameters(*Lattice(lattice).parameters)
    return Structure(canonical, ["Ba", "Ti", "O", "O", "O"], rng.random((5, 3)))


def sampled(out: Path, crystals: dict[int, Structure | None]) -> None:
    """A folder of samples with these crystals by index; None stands for one that is not finite."""

    def arrays(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if (structure := crystals[index]) is None:
            return np.full((3, 3), np.nan), np.zeros((1, 3)), np.array([1])
        numbers = np.array(structure.atomic_numbers)
        return structure.lattice.matrix, structure.frac_coords, numbers

    samples = Samples(out, REQUEST_FOR_FIVE)
    samples.add(batch(list(crystals), arrays))
    samples.export()


def assert_same(read: Structure | None, written: Structure, atol: float) -> None:
    """Same cell and same atoms, in whatever order."""
    assert read is not None
    np.testing.assert_allclose(read.lattice.parameters, written.lattice.parameters, atol=atol)
    assert len(read) == len(written)
    for element in ("Ba", "Ti", "O"):
        pair = [
            np.array([site.frac_coords % 1 for site in s if site.specie.symbol == element])
            for s in (read, written)
        ]
        first, second = [coords[np.argsort(coords[:, 0])] for coords in pair]
        np.testing.assert_allclose(first, second, atol=atol)


@pytest.mark.parametrize("writer", ["pymatgen", "ase"])
def test_a_folder_of_cifs_is_read_in_the_order_of_numbers_in_names(
    tmp_path: Path, writer: str
) -> None:
    crystals = [crystal(seed) for seed in range(4)]
    for index, structure in zip((2, 3, 10, 11), crystals, strict=True):
        path = tmp_path / f"{index}.cif"
        if writer == "pymatgen":
            CifWriter(structure).write_file(path)
        else:
            ase.io.write(path, one_file.atoms(structure))
    (tmp_path / "notes.txt").write_text("not a crystal")
    inputs = read_structures(tmp_path)
    assert inputs.names == ["2.cif", "3.cif", "10.cif", "11.cif"]
    assert inputs.failures == {}
    for read, written in zip(inputs.structures, crystals, strict=True):
        assert_same(read, written, atol=2e-5 if writer == "ase" else 1e-7)


def test_a_zip_archive_of_cifs_is_read_like_a_folder(tmp_path: Path) -> None:
    crystals = [crystal(seed) for seed in range(3)]
    path = tmp_path / "generated_crystals_cif.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, structure in zip((10, 2, 1), crystals, strict=True):
            archive.writestr(f"gen_{index}.cif", str(CifWriter(structure)))
        archive.writestr("notes.txt", "not a crystal")
        archive.writestr("gen_11.cif", "")
        archive.writestr("gen_12.cif", np.random.default_rng(0).bytes(2**20))
        archive.writestr("gen_13.cif", str(CifWriter(crystals[0])), zipfile.ZIP_BZIP2)
        archive.writestr("../gen_14.cif", "x" * 5000, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"xxx", b"yyy", 1))  # against its checksum
    inputs = read_structures(path)
    assert inputs.names[1:] == [f"gen_{index}.cif" for index in (1, 2, 10, 11, 12, 13)]
    for read, written in zip(inputs.structures[1:4], reversed(crystals), strict=True):
        assert_same(read, written, atol=1e-7)
    assert inputs.failures == {
        0: "cannot be read: Bad CRC-32 for file '../gen_14.cif'",
        4: "empty file",
        5: "too large: larger than 0.5 MiB",
        6: "cannot be read: neither stored nor deflated",
    }
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_that_expands_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", " " * 2**20)
    with pytest.raises(UserError, match=r"a\.zip cannot be read .* expands more than 100-fold"):
        read_structures(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["set.csv", "set.csv.gz"])
def test_a_table_with_a_cif_column_is_read_row_by_row(tmp_path: Path, name: str) -> None:
    crystals = [crystal(seed) for seed in range(2)]
    rows = [["mp-1", str(CifWriter(crystals[0]))], ["", str(CifWriter(crystals[1]))], ["mp-3", ""]]
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt", newline="") as file:
        csv.writer(file).writerows([["material_id", "cif"], *rows])
    inputs = read_structures(tmp_path / name)
    assert inputs.names == ["mp-1", "row 2", "mp-3"]
    assert inputs.failures == {2: "empty file"}
    for read, written in zip(inputs.structures, crystals, strict=False):
        assert_same(read, written, atol=1e-7)


@pytest.mark.parametrize("given", ["", "samples.db"])
def test_every_requested_crystal_of_a_sample_folder_counts(tmp_path: Path, given: str) -> None:
    good = crystal(1)
    sampled(tmp_path, {3: good, 0: None, 1: Structure(0.2 * np.eye(3), ["C"], [[0, 0, 0]])})
    inputs = read_structures(tmp_path / given)
    assert len(inputs.structures) == 5
    read = inputs.structures[3]
    assert read is not None
    np.testing.assert_array_equal(read.frac_coords, good.frac_coords)
    np.testing.assert_allclose(read.lattice.parameters, good.lattice.parameters, rtol=1e-12)
    assert sorted(inputs.failures) == [0, 1, 2, 4]
    assert inputs.failures[0] == "rejected when sampled: non-finite numbers"
    assert inputs.failures[1] == "rejected when sampled: volume below 0.1 A^3"
    assert inputs.failures[2].startswith("not sampled")


@pytest.mark.parametrize("part", ["cif", "cif/00003_BaTiO3.cif", "samples.extxyz", "samples.csv"])
def test_a_part_of_a_sample_folder_is_refused_with_the_folder_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    out = tmp_path / "samples" / "min"
    sampled(out, {3: crystal(1)})
    with pytest.raises(UserError, match=f"give the folder {out} instead"):
        read_structures(out / part)
    monkeypatch.chdir((out / part).parent)
    with pytest.raises(UserError, match=f"give the folder {out} instead"):
        read_structures(Path((out / part).name))


def test_a_sample_folder_within_another_is_no_part_of_it(tmp_path: Path) -> None:
    sampled(tmp_path / "a", {})
    sampled(tmp_path / "a" / "b", {})
    assert len(read_structures(tmp_path / "a" / "b").structures) == 5


def test_a_damaged_row_of_a_database_is_a_failure_of_that_crystal_alone(tmp_path: Path) -> None:
    sampled(tmp_path, {index: crystal(index) for index in range(5)})
    with sqlite3.connect(tmp_path / "samples.db") as connection:
        for row_id, column, value in (
            (2, "cell", np.full((3, 3), np.nan).tobytes()),
            (3, "data", None),
            (4, "numbers", np.zeros(5, np.int32).tobytes()),
            (5, "numbers", np.ones(2, np.int32).tobytes()),
        ):
            connection.execute(f"UPDATE systems SET {column} = ? WHERE id = ?", (value, row_id))
    connection.close()
    failures = read_structures(tmp_path).failures
    assert failures[1] == "unreadable entry: non-finite numbers"
    assert failures[2].startswith("unreadable entry")
    assert failures[3] == "unreadable entry: unknown element"
    assert "do not fit" in failures[4]
    assert 0 not in failures


@pytest.mark.parametrize(
    ("first", "second", "z"),
    [
        ("Si", "Si", 0.1),
        ("Si", "Ge", 0.1),
        ("Si", "Si", 0.1001),
        ("O", "H", 0.1),  # a hydroxyl group to the parser, which then loses the H
    ],
)
def test_two_atoms_at_one_site_are_never_merged(first: str, second: str, z: float) -> None:
    structure = parse_cif(OVERLAP.format(first=first, second=second, z=z))
    assert sorted(site.specie.symbol for site in structure) == sorted([first, second])
    assert structure.distance_matrix[0, 1] == pytest.approx(4.0 * (z - 0.1), abs=1e-9)
    assert structural_defect(structure) is not None


def test_two_atoms_at_one_site_of_a_space_group_have_all_their_images() -> None:
    rock_salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["O", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    text = to_cif(rock_salt, symprec=0.01).replace("_chemical_formula", "_other_formula")
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["O"]]
    structure = parse_cif(f"{text.rstrip()}\n{line.replace('O', 'H')}\n")
    assert structure.composition.as_dict() == {"O": 4, "Cl": 4, "H": 4}
    assert structural_defect(structure) is not None


@pytest.mark.parametrize("kind", ["cif", "extxyz", "db"])
def test_two_atoms_at_one_site_are_a_defect_of_the_structure_in_every_kind_of_file(
    tmp_path: Path, kind: str
) -> None:
    structure = Structure(Lattice.cubic(4.0), ["Mg", "O"], np.zeros((2, 3)))
    path = tmp_path / f"set.{kind}"
    if kind == "cif":
        CifWriter(structure).write_file(path)
    elif kind == "extxyz":
        ase.io.write(path, one_file.atoms(structure))
    else:
        sampled(tmp_path, {0: structure})
        path = tmp_path / "samples.db"
    inputs = read_structures(path)
    assert 0 not in inputs.failures
    read = inputs.structures[0]
    assert read is not None
    assert structural_defect(read) == "two atoms closer than 0.5 A"


def test_atoms_that_overlap_but_not_wholly_stay_two_atoms() -> None:
    structure = parse_cif(OVERLAP.format(first="Si", second="Si", z=0.11))
    assert len(structure) == 2
    assert structure.distance_matrix[0, 1] == pytest.approx(0.04, rel=1e-9)


def test_coordinates_near_a_third_are_not_rounded_to_it() -> None:
    structure = parse_cif(OVERLAP.format(first="Na", second="Cl", z=0.33335))
    assert max(structure.frac_coords[:, 2]) == 0.33335


def test_a_cif_with_a_space_group_holds_the_whole_orbit(tmp_path: Path) -> None:
    rock_salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    (tmp_path / "a.cif").write_text(to_cif(rock_salt, symprec=0.01))
    assert "Fm-3m" in (tmp_path / "a.cif").read_text()
    (read,) = read_structures(tmp_path / "a.cif").structures
    assert read is not None
    assert read.formula == "Na4 Cl4"
    assert min(read.distance_matrix[np.triu_indices(8, 1)]) == pytest.approx(2.82, rel=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0.1 0.1 0.6", "0.1 0.1 nan", "not a number"),
        ("_cell_length_a 4.0", "_cell_length_a 0.0005", "volume below 0.1"),
    ],
)
def test_an_odd_cif_among_good_ones_is_a_named_failure(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    good = OVERLAP.format(first="Na", second="Cl", z=0.6)
    assert old in good
    (tmp_path / "good.cif").write_text(good)
    (tmp_path / "odd.cif").write_text(good.replace(old, new))
    inputs = read_structures(tmp_path)
    assert inputs.structures[0] is not None
    assert list(inputs.failures) == [1]
    assert reason in inputs.failures[1]


def test_empty_and_binary_cifs_in_a_folder_are_named_failures(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text("")
    (tmp_path / "b.cif").write_bytes(bytes(range(256)) * 4)
    inputs = read_structures(tmp_path)
    assert inputs.structures == [None, None]
    assert inputs.failures[0] == "empty file"
    assert "binary, or UTF-16" in inputs.failures[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.cif", None),
        ("no.cif", b"hello"),
        ("empty.extxyz", b""),
        ("noise.extxyz", bytes(range(256))),
        ("noise.csv", b"\xff\xfe\x00"),
        ("columns.csv", b"material_id,energy\na,1\n"),
        ("header.csv", b"material_id,cif\n"),
        ("samples.db", b"{"),
        ("noise.zip", b"PK" + bytes(range(256))),
        ("empty.zip", b"PK\5\6" + bytes(18)),
        ("list.json", b"[1, 2]"),
        ("other.structure", b"Si"),
    ],
)
def test_files_without_structures_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_structures(tmp_path / name)


def test_a_dangling_link_and_a_pipe_among_cifs_are_named_failures(tmp_path: Path) -> None:
    (tmp_path / "1.cif").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "2.cif")
    inputs = read_structures(tmp_path)
    assert inputs.names == ["1.cif", "2.cif"]
    assert "cannot be read: No such file" in inputs.failures[0]
    assert "not a regular file" in inputs.failures[1]


def test_a_folder_without_structures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"neither samples\.db nor files of crystals"):
        read_structures(tmp_path)


def frame(lattice: str, atoms: str) -> str:
    return f'{atoms.count(chr(10))}\nLattice="{lattice}" Properties=species:S:1:pos:R:3\n{atoms}'


@pytest.mark.parametrize(
    ("lattice", "atoms", "reason"),
    [
        ("nan 0 0 0 5 0 0 0 5", "C 0 0 0\n", "non-finite numbers"),
        ("5 0 0 0 inf 0 0 0 5", "C 0 0 0\n", "non-finite numbers"),
        ("5 0 0 0 5 0 0 0 5", "C 0 nan 0\n", "non-finite numbers"),
        ("1e300 0 0 0 1e300 0 0 0 1e300", "C 0 0 0\n", "cell vector longer than 1000 A"),
        ("1e-310 0 0 0 5 0 0 0 5", "C 0 0 0\n", "volume below|non-finite"),
        ("900 0 0 0 900 0 0 0 1e-5", "C 0 0 0\n", "cell vector shorter than 0.1 A"),
        ("5 0 0 10 0 0 0 0 5", "C 0 0 0\n", "volume below"),  # collinear
        ("5 0 0 0 5 0 5 5 0", "C 0 0 0\n", "volume below"),  # coplanar
        ("5 0 0 0 5 0 0 0 5", "C 1e300 0 0\n", "coordinate beyond"),
        ("5 0 0 0 5 0 0 0 5", "", "no atoms|unreadable frame"),
        ("5 0 0 0 5 0 0 0 5", "Xx 0 0 0\n", "unreadable frame"),
    ],
)
def test_unphysical_numbers_fail_only_their_frame(
    tmp_path: Path, lattice: str, atoms: str, reason: str
) -> None:
    good = frame("5 0 0 0 5 0 0 0 5", "C 0 0 0\nC 0 0 0\n")
    (tmp_path / "set.extxyz").write_text(good + frame(lattice, atoms) + good)
    inputs = read_structures(tmp_path / "set.extxyz")
    assert list(inputs.failures) == [1]
    assert re.search(reason, inputs.failures[1])
    first = inputs.structures[0]
    assert first is not None  # identical positions are two atoms, and a structural defect
    assert len(first) == 2
    assert structural_defect(first) == "two atoms closer than 0.5 A"


def test_one_atom_in_a_cell_is_a_crystal(tmp_path: Path) -> None:
    (tmp_path / "one.xyz").write_text(frame("3 0 0 0 3 0 0 0 3", "Po 1 1 1\n"))
    (structure,) = read_structures(tmp_path / "one.xyz").structures
    assert structure is not None
    assert structural_defect(structure) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{good}\n{good}", "frame 1: a blank line"),
        ("{good}-1\n\n", "frame 1: '-1' is not a number of atoms"),
        ("{good}2\n\nC 0 0 0\n", "frame 1: the file ends before its 2 atoms"),
        ("{good}C 0 0 0\n", "frame 1: 'C 0 0 0' is not a number of atoms"),
    ],
)
def test_frames_that_cannot_be_told_apart_are_refused_with_their_number(
    tmp_path: Path, text: str, reason: str
) -> None:
    good = frame("3 0 0 0 3 0 0 0 3", "Po 1 1 1\n")
    (tmp_path / "set.xyz").write_text(text.format(good=good))
    with pytest.raises(UserError, match=rf"set\.xyz .*{reason}"):
        read_structures(tmp_path / "set.xyz")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE number_key_values SET value = 5 WHERE key = 'index'", "crystal 5 occurs twice"),
        ("UPDATE number_key_values SET value = -1 WHERE key = 'index'", "crystal -1 occurs"),
        ("UPDATE number_key_values SET value = 'x' WHERE key = 'index'", "ValueError"),
        ("INSERT INTO rejected VALUES (0, 'x')", "crystal 0 occurs twice"),
        ("DELETE FROM number_key_values", "a crystal has no index"),
    ],
)
def test_a_database_with_a_wrong_index_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    sampled(tmp_path, {0: crystal(0)})
    with sqlite3.connect(tmp_path / "samples.db") as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(UserError, match=rf"samples\.db .*{reason}"):
        read_structures(tmp_path)
