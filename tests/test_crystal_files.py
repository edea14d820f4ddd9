"""Files of every kind hold the crystal that pymatgen or ASE wrote, or are refused by name."""

import bz2
import contextlib
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.io.vasp import Poscar

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures import crystal_files
from crystal_diffusion_jax.structures.crystal_files import one_crystal, read_file
from crystal_diffusion_jax.structures.file_names import (
    OTHER_KINDS,
    SUFFIXES,
    TEXT_KINDS,
    kind_of,
)
from crystal_diffusion_jax.structures.reading import read_structures
from tests.cif_texts import CSCL
from tests.one_file import WRITERS, atoms, to_json

# Of the distances, in Angstrom: the digits that each kind of file has.
TOLERANCE = {"cssr": 1e-2, "ase.cif": 1e-4}


def random_crystal(seed: int) -> Structure:
    """A triclinic crystal of two to nine atoms without symmetry."""
    rng = np.random.default_rng(seed)
    lattice = 5.0 * np.eye(3) + rng.normal(scale=0.5, size=(3, 3))
    number = int(rng.integers(2, 10))
    species = sorted(rng.choice(["Ba", "Ti", "O", "F", "I", "No"], number))
    return Structure(lattice, species, rng.random((number, 3)))


def assert_same_crystal(read: Structure | None, written: Structure, atol: float) -> None:
    """The same cell, elements and distances between all atoms, whose order may differ."""
    assert read is not None
    np.testing.assert_allclose(read.lattice.parameters, written.lattice.parameters, atol=atol)
    assert read.composition == written.composition

    def rows(structure: Structure) -> list[tuple[str, list[float]]]:
        """Each atom's element and sorted distances to the others of each element."""
        found = []
        for site, distances in zip(structure, structure.distance_matrix, strict=True):
            others = sorted(zip(structure.atomic_numbers, distances, strict=True))
            found.append((site.specie.symbol, [distance for _, distance in others]))
        return sorted(found)

    for (element, first), (other, second) in zip(rows(read), rows(written), strict=True):
        assert element == other
        np.testing.assert_allclose(first, second, atol=4 * atol)


def tolerance(name: str) -> float:
    return next((value for ending, value in TOLERANCE.items() if name.endswith(ending)), 2e-5)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_each_kind_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    for seed in range(8):
        crystal = random_crystal(seed)
        path = tmp_path / str(seed) / name
        path.parent.mkdir()
        WRITERS[name](path, crystal)
        (read,) = read_structures(path).structures
        assert_same_crystal(read, crystal, tolerance(name))


def test_a_folder_of_any_mix_is_read_with_a_name_for_each(tmp_path: Path) -> None:
    crystal = random_crystal(1)
    for name, write in WRITERS.items():
        write(tmp_path / name, crystal)
    (tmp_path / ".hidden.cif").write_text("of macOS")
    (tmp_path / "README.md").write_text("no crystal")
    inputs = read_structures(tmp_path)
    assert sorted(inputs.names) == sorted(WRITERS)
    assert inputs.failures == {}
    for name, read in zip(inputs.names, inputs.structures, strict=True):
        assert_same_crystal(read, crystal, tolerance(name))


def test_every_kind_has_a_reader_and_a_writer_here() -> None:
    assert crystal_files._FROM_TEXT.keys() == TEXT_KINDS.keys()
    assert crystal_files._FROM_FILE.keys() == OTHER_KINDS.keys()
    assert {kind_of(name) for name in WRITERS} == {*TEXT_KINDS, *OTHER_KINDS}
    assert all(kind_of(f"a{suffix.upper()}") for suffix in SUFFIXES)
    assert kind_of("POSCAR_1") == kind_of("mp-1-CONTCAR") == kind_of("POSCAR.gz") == "POSCAR"
    assert kind_of("a.txt") is kind_of("poscar-notes.txt") is kind_of("a.pkl") is None


def test_each_data_block_of_a_cif_is_a_crystal(tmp_path: Path) -> None:
    path = tmp_path / "two.cif"
    path.write_text(f"data_title\n_x 1\ndata_a\n{CSCL}data_b\n{CSCL.replace('Cs 0', 'Qq 0')}")
    (name, good), bad = read_file(path)
    assert name == "a"
    assert not isinstance(good, str)
    assert good.formula == "Cs1 Cl1"
    assert bad == ("b", "unknown element: 'Qq'")
    with pytest.raises(ValueError, match="2 crystals in one file, one is expected"):
        one_crystal(path)


def test_several_crystals_of_one_file_have_names(tmp_path: Path) -> None:
    crystals = [random_crystal(seed) for seed in range(3)]
    (tmp_path / "list.json").write_text(f"[{','.join(map(to_json, crystals))}]")
    named = {f"mp-{index}": crystal.as_dict() for index, crystal in enumerate(crystals)}
    (tmp_path / "named.json").write_text(json.dumps(named))
    for kind in ("traj", "extxyz", "json"):
        ase.io.write(tmp_path / f"ase.{kind}", list(map(atoms, crystals)))
    with ase.db.connect(tmp_path / "ase.db") as database:
        for crystal in crystals:
            database.write(atoms(crystal), band_gap=1.0)
    names = {
        "list.json": [f"entry {i}" for i in range(3)],
        "named.json": [f"mp-{i}" for i in range(3)],
        "ase.json": [f"row {i}" for i in (1, 2, 3)],
        "ase.db": [f"row {i}" for i in (1, 2, 3)],
        "ase.traj": [f"frame {i}" for i in range(3)],
        "ase.extxyz": [f"frame {i}" for i in range(3)],
    }
    for name, expected in names.items():
        inputs = read_structures(tmp_path / name)
        assert inputs.names == expected
        for read, crystal in zip(inputs.structures, crystals, strict=True):
            assert_same_crystal(read, crystal, tolerance(name))
        with pytest.raises(ValueError, match="3 crystals in one file"):
            one_crystal(tmp_path / name)
    found = read_structures(tmp_path)
    assert len(found.names) == len(set(found.names)) == 3 * len(names)
    assert "ase.db row 2" in found.names


@pytest.mark.parametrize("scale", ["1.0", "2.5", "-100.0", "1.5 1.0 0.5"])
@pytest.mark.parametrize("mode", ["Direct", "cartesian"])
@pytest.mark.parametrize("selective", ["", "Selective dynamics\n"])
def test_a_poscar_is_scaled_as_ase_scales_it(
    tmp_path: Path, scale: str, mode: str, selective: str
) -> None:
    crystal = random_crystal(3)
    lines = "\n".join(" ".join(map(repr, vector)) for vector in crystal.lattice.matrix.tolist())
    counts = " ".join(str(int(n)) for n in crystal.composition.values())
    coords = crystal.frac_coords if mode == "Direct" else crystal.cart_coords
    flags = " T F T" if selective else ""
    places = "".join(f"{' '.join(map(repr, row))}{flags}\n" for row in coords.tolist())
    symbols = " ".join(element.symbol for element in crystal.composition)
    text = f"title\n{scale}\n{lines}\n{symbols}\n{counts}\n{selective}{mode}\n{places}"
    (tmp_path / "POSCAR").write_text(text)
    truth: Any = ase.io.read(tmp_path / "POSCAR", format="vasp")
    (read,) = read_structures(tmp_path / "POSCAR").structures
    assert read is not None
    np.testing.assert_allclose(read.lattice.matrix, truth.cell.array, atol=1e-9)
    np.testing.assert_allclose(read.cart_coords, truth.positions, atol=1e-9)
    np.testing.assert_array_equal(read.atomic_numbers, truth.numbers)
    if scale == "-100.0":
        assert read.volume == pytest.approx(100.0)
    if scale in ("1.0", "2.5"):
        second = Poscar.from_str(text).structure
        np.testing.assert_allclose(read.frac_coords, second.frac_coords, atol=1e-9)


CORNERS = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
CELL = "title\n1.0\n5 0 0\n0 5 0\n0 0 5\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{CELL}1 1\nDirect\n0 0 0\n.5 .5 .5\n", "without a line of elements"),
        (f"{CELL}1 1\nDirect\n0 0 0 Na\n.5 .5 .5 Cl\n", "without a line of elements"),
        (f"{CELL}Na Cl\n1 1\nDirect\n0 0 0\n", "ends before its 2 atoms"),
        (f"{CELL}Na Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n.1 .1 .1\n", "more coordinates"),
        (f"{CELL}Na Cl\n1\nDirect\n0 0 0\n.5 .5 .5\n", "2 elements and 1 numbers"),
        (f"{CELL}Na Qq\n1 1\nDirect\n0 0 0\n.5 .5 .5\n", "unknown element: 'Qq'"),
        (f"{CELL}Na Cl\n1 1\n0 0 0\n.5 .5 .5\n\n", "neither Direct nor Cartesian"),
        (CELL.replace("1.0", "0") + "Na\n1\nDirect\n0 0 0\n", "scale"),
        (CELL.replace("5 0 0", "5 0") + "Na\n1\nDirect\n0 0 0\n", "vector '5 0'"),
        ("title\n1.0\n", "fewer than eight lines"),
    ],
)
def test_a_poscar_that_would_need_a_guess_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "POSCAR").write_text(text)
    inputs = read_structures(tmp_path / "POSCAR")
    assert inputs.structures == [None]
    assert reason in inputs.failures[0]


def test_potentials_names_and_wrapped_lines_of_elements_are_understood(tmp_path: Path) -> None:
    text = f"{CELL}Mg_pv/f474ac0d Si\nO_s\n1 1\n2\nDirect\n0 0 0\n.5 0 0\n0 .5 0\n0 0 .5\n"
    (tmp_path / "a.vasp").write_text(f"{text}\n0.1 0.2 0.3\n0 0 0\n0 0 0\n0 0 0\n")  # velocities
    assert one_crystal(tmp_path / "a.vasp").formula == "Mg1 Si1 O2"


def disordered(lattice: Lattice) -> Structure:
    return Structure(lattice, [{"Fe": 0.5, "Ni": 0.5}, "C"], CORNERS)


def test_disorder_and_open_boundaries_are_refused_by_name(tmp_path: Path) -> None:
    alloy = disordered(Lattice.cubic(3.6))
    slab = Structure(Lattice(3.6 * np.eye(3), pbc=(True, True, False)), ["Fe"], [[0, 0, 0]])
    vacancy = Structure(Lattice.cubic(3.6), [{"Fe": 0.9}], [[0, 0, 0]])
    full = Structure(Lattice.cubic(3.6), [{"Fe2+": 0.9999}], [[0, 0, 0]])
    for name, crystal in {"a": alloy, "b": slab, "c": vacancy, "d": full}.items():
        (tmp_path / f"{name}.json").write_text(to_json(crystal))
    (tmp_path / "e.json").write_text(json.dumps(Molecule(["H"], [[0, 0, 0]]).as_dict()))
    sheet = ase.Atoms("C", cell=3 * np.eye(3), pbc=[True, True, False])
    mixed = ase.Atoms("Fe", cell=3 * np.eye(3), pbc=True, info={"occupancy": {"0": {"Fe": 0.5}}})
    for kind in ("traj", "extxyz", "json"):
        ase.io.write(tmp_path / f"f.{kind}", sheet)
        ase.io.write(tmp_path / f"g.{kind}", mixed)
    ase.db.connect(tmp_path / "f.db").write(sheet)
    inputs = read_structures(tmp_path)
    found = {inputs.names[index]: reason for index, reason in inputs.failures.items()}
    open_cell = "no periodic cell: pbc is T T F, all three are needed"
    assert found == {
        "a.json": "disorder: a site holds Fe 0.5, Ni 0.5",
        "b.json": open_cell,
        "c.json": "disorder: a site holds Fe 0.9",
        "e.json": "no periodic cell: a molecule of pymatgen",
        **{f"f.{kind}": open_cell for kind in ("traj", "extxyz", "json", "db")},
        **{f"g.{kind}": "disorder: an occupancy is not 1" for kind in ("traj", "extxyz")},
    }
    assert one_crystal(tmp_path / "d.json").formula == "Fe1"


def test_charges_spins_constraints_and_isotopes_leave_plain_elements(tmp_path: Path) -> None:
    crystal = Structure(Lattice.cubic(4.2), ["Fe2+", "O2-"], CORNERS)
    crystal.add_spin_by_site([4.0, 0.0])
    (tmp_path / "a.json").write_text(to_json(crystal))
    fixed = ase.Atoms("FeO", positions=[[0, 0, 0], [2.1, 2.1, 2.1]], cell=[4.2] * 3, pbc=True)
    fixed.set_constraint(FixAtoms([0]))
    fixed.set_initial_magnetic_moments([4.0, 0.0])
    for kind in ("json", "traj", "extxyz", "db"):
        ase.io.write(tmp_path / f"b.{kind}", fixed)
    inputs = read_structures(tmp_path)
    assert inputs.failures == {}
    for structure in inputs.structures:
        assert structure is not None
        assert {site.species_string for site in structure} == {"Fe", "O"}
    heavy = to_json(Structure(Lattice.cubic(3.0), ["D+"], [[0, 0, 0]]))
    assert [site.specie.Z for site in one_crystal(heavy)] == [1]


def test_frames_of_a_trajectory_that_omit_elements_have_those_of_the_first(tmp_path: Path) -> None:
    first, second = atoms(random_crystal(0)), atoms(random_crystal(1))
    for step, frame in enumerate((first, second, first)):
        with Trajectory(tmp_path / "a.traj", "a" if step else "w") as trajectory:
            trajectory.write(frame)
    inputs = read_structures(tmp_path / "a.traj")
    for read, expected in zip(inputs.structures, ase.io.iread(tmp_path / "a.traj"), strict=True):
        assert read is not None
        assert list(read.atomic_numbers) == list(expected.numbers)


def test_the_steps_of_an_xsf_are_read_in_turn(tmp_path: Path) -> None:
    steps = [atoms(random_crystal(0)) for _ in range(3)]
    for number, step in enumerate(steps):
        step.positions += 0.1 * number
    ase.io.write(tmp_path / "a.xsf", steps)
    inputs = read_structures(tmp_path / "a.xsf")
    assert inputs.names == ["step 0", "step 1", "step 2"]
    for read, step in zip(inputs.structures, steps, strict=True):
        assert read is not None
        np.testing.assert_allclose(read.cart_coords, step.positions, atol=1e-9)


def test_frames_of_a_trajectory_inherit_what_does_not_change(tmp_path: Path) -> None:
    first = atoms(random_crystal(0))
    with Trajectory(tmp_path / "a.traj", "w") as trajectory:
        for step in range(4):
            moved = first.copy()
            moved.positions += 0.1 * step
            moved.set_cell(moved.cell * (1 + 0.01 * step))
            trajectory.write(moved)
    truth = ase.io.read(tmp_path / "a.traj", ":")
    inputs = read_structures(tmp_path / "a.traj")
    for read, expected in zip(inputs.structures, truth, strict=True):
        assert read is not None
        np.testing.assert_allclose(read.cart_coords, expected.positions, atol=1e-9)
        np.testing.assert_allclose(read.lattice.matrix, expected.cell.array, atol=1e-9)
        np.testing.assert_array_equal(read.atomic_numbers, expected.numbers)


class _Mark:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["a.traj", "a.json", "a.db", "a.extxyz", "a.cif", "POSCAR"])
def test_no_pickle_is_ever_opened(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    for header in (b"", b"PickleTrajectory", b"- of Ulm"):
        (tmp_path / name).write_bytes(header + pickle.dumps(_Mark(mark)))
        for read in (read_structures, read_file):
            with contextlib.suppress(ValueError):
                read(tmp_path / name)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Mark(mark)))  # so would any reader that did
    assert mark.exists()


def test_what_a_json_names_is_never_imported(tmp_path: Path) -> None:
    content = random_crystal(0).as_dict()
    content["@module"] = content["sites"][0]["@module"] = "module_that_does_not_exist"
    content["properties"] = {"a": {"@module": "os", "@callable": "getcwd", "@bound": None}}
    assert one_crystal(json.dumps(content)).composition == random_crystal(0).composition


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "{", "unreadable JSON"),
        ("a.json", "{'@module': 'x'}", "Python dict instead of JSON"),
        ("a.json", '{"a": 1}', "JSON without crystals"),
        ("a.xsf", "MOLECULE\nATOMS\n6 0 0 0\n", "unreadable XSF"),
        (
            "a.xsf",
            "CRYSTAL\nPRIMVEC\n4 0 0\n0 4 0\n0 0 4\nPRIMCOORD\n1 1\nC 0 0 0\nC 2 2 2\n",
            "more atoms than the 1 stated",
        ),
        ("a.traj", "- of what", "not a trajectory"),
        ("a.cif", "no block", "has no data block"),
        ("a.xlsx", "PK", "is a spreadsheet: save it as csv"),
        ("a.txt", "data_x", "not among the kinds"),
        ("a.pkl", "data_x", "not among the kinds"),
    ],
)
def test_a_file_without_crystals_is_refused_in_a_sentence(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        read_structures(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("pymatgen.res", ("LATT -1", "LATT 1"), "LATT -1"),
        ("pymatgen.res", ("LATT -1", "LATT -1\nSYMM -X,-Y,-Z"), "SYMM"),
        ("pymatgen.res", ("1.000000\n", "0.5\n"), "disorder"),
        ("pymatgen.res", ("SFAC ", "SFAC Xe "), "is element 1 of SFAC"),
        ("pymatgen.res", (" 1 ", " 0 "), "is element 0 of SFAC"),
        ("pymatgen.cssr", ("SPGR =  1", "SPGR = 225"), "space group 225"),
        ("pymatgen.cssr", (" 0\n0", " 1\n0"), "Cartesian"),
    ],
)
def test_what_the_libraries_overlook_is_refused(
    tmp_path: Path, name: str, change: tuple[str, str], reason: str
) -> None:
    WRITERS[name](tmp_path / name, random_crystal(0))
    text = (tmp_path / name).read_text()
    assert change[0] in text
    (tmp_path / name).write_text(text.replace(*change))
    inputs = read_structures(tmp_path / name)
    assert inputs.structures == [None]
    assert reason in inputs.failures[0]


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"data_x" * 99, mtime=0)[:-9], bz2.compress(b"x"), b""],
    ids=["cut", "bz2", "empty"],
)
def test_a_damaged_gz_file_is_a_named_failure(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.cif.gz").write_bytes(content)
    (tmp_path / "b.cif").write_text(random_crystal(0).to(fmt="cif"))
    inputs = read_structures(tmp_path)
    assert list(inputs.failures) == [0]
    with pytest.raises(UserError, match=r"a\.cif\.gz cannot be read"):
        read_structures(tmp_path / "a.cif.gz")


REPORTED = Path(__file__).parents[2] / "shared" / "reports" / "inputs"


@pytest.mark.skipif(not REPORTED.is_dir(), reason=f"no reported inputs in {REPORTED}")
@pytest.mark.parametrize(
    ("name", "formulas"),
    [
        ("06_bom.cif", ["Cs1 Cl1"]),
        ("20_upper_case_CIF_folder", ["Ba1 Ti1 O3", "Ba1 Zr1 O3", "Ba1 Nb1 O3"]),
        ("22_bom.extxyz", ["Ba1 Ti1 O3"]),
        ("23_slab_pbc_TTF.extxyz", ["no periodic cell: pbc is T T F, all three are needed"]),
        ("24_POSCAR", ["Ba1 Ti1 O3"]),
        ("25_pymatgen_structure.json", ["Ba1 Ti1 O3"]),
    ],
)
def test_what_users_reported_is_read(name: str, formulas: list[str]) -> None:
    inputs = read_structures(REPORTED / name)
    assert [
        inputs.failures[index] if structure is None else structure.formula
        for index, structure in enumerate(inputs.structures)
    ] == formulas
