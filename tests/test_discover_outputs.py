"""What a shortlist hands to other programs, read back."""

import re
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar

from crystal_diffusion_jax.discovery import calculations
from crystal_diffusion_jax.discovery.calculations import in_cell, unknown_elements, write_inputs
from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.vasp import read_poscar
from tests import discoveries
from tests.discoveries import Bench
from tests.test_discover import shortlist

MATCHER = StructureMatcher(scale=False, primitive_cell=True)
SAME_CELL = StructureMatcher(scale=False, primitive_cell=False, attempt_supercell=False)
# Alternating elements, which POSCAR must gather; tetragonal, two formula units.
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
ROCKSALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("discover")
    with pytest.MonkeyPatch.context() as patch:
        model = discoveries.write_model(folder / "model")
        Bench.of(model, patch).run(folder / "out", "--top=3")
    return folder / "out"


def test_every_crystal_of_the_table_has_its_folder_with_both_crystals(out: Path) -> None:
    rows = shortlist(out)
    folders = sorted(path for path in (out / "shortlist").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == sorted(
        row["folder"].removeprefix("shortlist/") for row in rows
    )
    relaxed = read_relaxed(out / "relaxed")
    for row in rows:
        folder, index = out / row["folder"], int(row["index"])
        assert folder.name == f"{index:05d}_{row['formula']}"
        generated = Structure.from_file(folder / "generated.cif")
        assert SAME_CELL.fit(generated, discoveries.crystal(index))
        expected = relaxed[index].relaxation.structure
        assert expected is not None
        assert SAME_CELL.fit(Structure.from_file(folder / "relaxed.cif"), expected)
        assert SAME_CELL.fit(read_poscar((folder / "POSCAR").read_text()), expected)


def test_the_ase_database_holds_the_relaxed_crystals_with_the_table(out: Path) -> None:
    rows = shortlist(out)
    relaxed = read_relaxed(out / "relaxed")
    with ase.db.connect(out / "shortlist" / "shortlist.db") as db:
        stored = list(db.select(sort="rank"))
        assert len(list(db.select("score<0.5"))) == sum(float(r["score"]) < 0.5 for r in rows)
    assert len(stored) == len(rows) == 3
    for row, atoms in zip(rows, stored, strict=True):
        assert (atoms["rank"], atoms["index"]) == (int(row["rank"]), int(row["index"]))
        assert atoms.score == pytest.approx(float(row["score"]), abs=1e-6)
        expected = relaxed[int(row["index"])].relaxation.structure
        assert expected is not None
        assert SAME_CELL.fit(Structure.from_ase_atoms(atoms.toatoms()), expected)
    inputs = read_structures(out / "shortlist" / "shortlist.db")  # by our other commands
    assert len(inputs.structures) == 3
    assert inputs.failures == {}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rutile")
    mixed = Structure.from_sites([RUTILE[i] for i in (2, 0, 3, 1, 4, 5)])
    write_inputs(folder, in_cell(mixed, "as_relaxed", 0.1))
    return folder


def test_a_poscar_has_one_block_per_element(written: Path) -> None:
    for path in (written / "POSCAR", written / "MPRelaxSet" / "POSCAR"):
        lines = path.read_text().splitlines()
        assert lines[5].split() == ["Ti", "O"]
        assert lines[6].split() == ["2", "4"]
        assert SAME_CELL.fit(Poscar.from_str(path.read_text()).structure, RUTILE)


def test_vasp_inputs_are_those_of_the_materials_project_without_pseudopotentials(
    written: Path,
) -> None:
    names = {"INCAR", "POSCAR", "POTCAR.spec"}
    assert {path.name for path in (written / "MPRelaxSet").iterdir()} == names | {"KPOINTS"}
    assert {path.name for path in (written / "MPScanRelaxSet").iterdir()} == names
    pbe = Incar.from_file(str(written / "MPRelaxSet" / "INCAR"))
    assert (pbe["ENCUT"], pbe["ISIF"], pbe["IBRION"]) == (520, 3, 2)
    scan = Incar.from_file(str(written / "MPScanRelaxSet" / "INCAR"))
    assert scan["METAGGA"].lower() == "r2scan"
    assert scan["ENCUT"] == 680
    for name in ("MPRelaxSet", "MPScanRelaxSet"):
        spec = (written / name / "POTCAR.spec").read_text().split()
        assert spec == ["Ti_pv", "O"]  # in the order of POSCAR
    (grid,) = Kpoints.from_file(str(written / "MPRelaxSet" / "KPOINTS")).kpts
    # 64 per inverse Angstrom^3 of the reciprocal cell: denser along the short vector.
    assert grid[0] == grid[1] < grid[2]


def test_the_input_of_quantum_espresso_is_the_crystal_with_placeholders(written: Path) -> None:
    text = (written / "espresso.in").read_text()
    atoms: Any = ase.io.read(written / "espresso.in", format="espresso-in")
    assert SAME_CELL.fit(Structure.from_ase_atoms(atoms), RUTILE)
    assert re.search(r"Ti +47\.867 +Ti\.UPF", text)
    assert re.search(r"O +15\.999 +O\.UPF", text)
    assert "'vc-relax'" in text
    assert re.search(r"ecutwfc += 60\n", text)
    # 1 / (0.04 x 4.6) and 1 / (0.04 x 2.96), rounded up.
    assert re.search(r"K_POINTS automatic\n6 6 9 +0 0 0", text)


@pytest.mark.parametrize(("cell", "num_atoms"), [("primitive", 2), ("conventional", 8)])
@pytest.mark.parametrize("start", ["primitive", "conventional"])
def test_cells_are_the_standard_ones_of_the_same_crystal(
    cell: calculations.Cell, num_atoms: int, start: calculations.Cell
) -> None:
    given = ROCKSALT if start == "conventional" else ROCKSALT.get_primitive_structure()
    found = in_cell(given, cell, symprec=0.1)
    assert len(found) == num_atoms
    assert MATCHER.fit(found, ROCKSALT)
    if cell == "conventional":
        np.testing.assert_allclose(found.lattice.matrix, 4.2 * np.eye(3), atol=1e-6)


def test_cells_are_symmetrised_within_the_tolerance_and_left_alone_otherwise() -> None:
    rattled = ROCKSALT.copy()
    rattled.translate_sites([1], [0.005, 0, 0])
    assert len(in_cell(rattled, "primitive", symprec=0.1)) == 2
    assert len(in_cell(rattled, "primitive", symprec=1e-4)) == 8
    assert len(in_cell(rattled, "primitive", symprec=0)) == 8
    as_relaxed = in_cell(rattled, "as_relaxed", symprec=0.1)
    assert sorted(map(tuple, as_relaxed.frac_coords)) == sorted(map(tuple, rattled.frac_coords))


def test_an_element_without_a_pseudopotential_costs_only_that_set(tmp_path: Path) -> None:
    radium = Structure(Lattice.cubic(5.0), [Element("Ra"), Element("O")], [[0.0] * 3, [0.5] * 3])
    write_inputs(tmp_path, in_cell(radium, "as_relaxed", 0.1))
    missing = [unknown_elements(kind, radium) for kind in calculations.VASP_SETS]
    assert missing == [["Ra"], []]
    assert (tmp_path / "POSCAR").is_file()
    assert (tmp_path / "espresso.in").is_file()
    assert not (tmp_path / "MPRelaxSet").exists()
    spec = (tmp_path / "MPScanRelaxSet" / "POTCAR.spec").read_text()
    assert spec.split() == ["Ra_sv", "O"]
