"""data/read.py: canonical cells are the same crystals, and every defect of a CIF has its name."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystal_diffusion_jax.data import read as reading
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures import crystal_files
from tests.cif_cells import cell_of
from tests.prepared_tables import read_whole
from tests.time_limit import processor_time_limit

PEROV5 = Path(__file__).parents[2] / "shared" / "data" / "perov5"

PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Sr", "Ti", "O", "O", "O"],
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]],
)
# Four different atoms as a corner with legs of different lengths, so that its mirror image is
# another crystal; the cell has no symmetry.
CHIRAL = Structure(
    Lattice.from_parameters(6.0, 7.0, 8.5, 75.0, 82.0, 68.0),
    ["Li", "F", "Na", "Cl"],
    [[0.95, 0.9, 0.02], [1.15, 0.9, 0.02], [0.95, 1.15, 0.02], [0.95, 0.9, 0.3]],
)
# Other bases of the same lattice: integer matrices of determinant 1.
BASES = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 1, 0], [0, 1, 2], [0, 0, 1]],
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    [[2, 1, 0], [1, 1, 0], [-1, 0, 1]],
]


def cif_of(structure: Structure, basis: list[list[int]] = BASES[0]) -> str:
    return str(CifWriter(structure.copy().make_supercell(basis, to_unit_cell=False)))


def minimum_images(lattice: np.ndarray, frac_coords: np.ndarray, reach: int = 4) -> np.ndarray:
    """Shortest vectors between all pairs of different atoms, by trying all images in reach."""
    images = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    difference = frac_coords[None, :] - frac_coords[:, None]
    vectors = (difference[:, :, None] + images) @ lattice
    nearest = np.linalg.norm(vectors, axis=-1).argmin(axis=-1)
    return np.take_along_axis(vectors, nearest[..., None, None], axis=2)[:, :, 0]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("structure", [PEROVSKITE, CHIRAL])
def test_canonical_cell_is_the_same_crystal(structure: Structure, basis: list[list[int]]) -> None:
    cell = cell_of(cif_of(structure, basis))
    rebuilt = Structure(cell.lattice, cell.atomic_numbers.tolist(), cell.frac_coords)
    assert np.isclose(rebuilt.volume, structure.volume, rtol=1e-6)
    assert StructureMatcher(scale=False, primitive_cell=False).fit(rebuilt, structure)
    distances = [
        np.sort(np.linalg.norm(minimum_images(lattice, frac_coords), axis=-1), axis=None)
        for lattice, frac_coords in (
            (structure.lattice.matrix, structure.frac_coords),
            (cell.lattice, cell.frac_coords),
        )
    ]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_canonical_cell_is_not_the_mirror_image(basis: list[list[int]]) -> None:
    def handedness(lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray) -> float:
        order = np.argsort(numbers)  # Li, F, Na, Cl
        legs = minimum_images(lattice, frac_coords[order])[0, 1:]
        return float(np.linalg.det(legs))

    before = handedness(CHIRAL.lattice.matrix, CHIRAL.frac_coords, np.array(CHIRAL.atomic_numbers))
    assert abs(before) > 1.0
    np.testing.assert_allclose(handedness(*cell_of(cif_of(CHIRAL, basis))), before, rtol=1e-4)


@pytest.mark.parametrize("basis", BASES)
def test_canonical_cell_meets_the_niggli_conditions_in_a_fixed_orientation(
    basis: list[list[int]],
) -> None:
    lattice = cell_of(cif_of(CHIRAL, basis)).lattice
    (aa, ab, ac), (_, bb, bc), (_, _, cc) = lattice @ lattice.T
    assert aa <= bb + 1e-6
    assert bb <= cc + 1e-6
    assert 2 * abs(bc) <= bb + 1e-6
    assert 2 * abs(ac) <= aa + 1e-6
    assert 2 * abs(ab) <= aa + 1e-6
    assert min(ab, ac, bc) > 0 or max(ab, ac, bc) <= 1e-6
    assert np.linalg.det(lattice) > 0
    np.testing.assert_allclose(lattice[2, :2], 0.0, atol=1e-9)  # c along z
    np.testing.assert_allclose(lattice[0, 1], 0.0, atol=1e-9)  # a in the xz plane


def test_every_choice_of_basis_gives_the_same_canonical_lattice() -> None:
    lattices = [cell_of(cif_of(CHIRAL, basis)).lattice for basis in BASES]
    for lattice in lattices[1:]:
        np.testing.assert_allclose(lattice, lattices[0], atol=1e-5)


def test_fractional_coordinates_are_wrapped() -> None:
    moved = PEROVSKITE.copy().translate_sites(range(5), [-3.2, 7.7, -1e-19], to_unit_cell=False)
    frac_coords = cell_of(cif_of(moved)).frac_coords
    assert (frac_coords >= 0).all()
    assert (frac_coords < 1).all()


GOOD = str(CifWriter(PEROVSKITE))
TI_SITE = "Ti  Ti1  1  0.50000000  0.50000000  0.50000000  1"
DEFECTS = {
    "no CIF at all": ("", "this is no CIF", "unparsable CIF"),
    "cut off within the header": (GOOD[400:], "", "unparsable CIF"),
    "cut off within an atom": (GOOD[-30:], "", "unparsable CIF"),
    "cut off between atoms": (GOOD[GOOD.index("  O  O3") :], "", "disagree with the CIF's formula"),
    "no cell length": ("_cell_length_a", "_cell_width_a", "unparsable CIF: cell lengths"),
    "cell length NaN": ("_cell_length_a   4.0", "_cell_length_a   nan", "unparsable CIF: cell"),
    "unknown coordinate": (TI_SITE, "Ti  Ti1  1  0.5  ?  0.5  1", "coordinate '?'"),
    "missing coordinate": (TI_SITE, "Ti  Ti1  1  0.5  .  0.5  1", "coordinate '.'"),
    "infinite coordinate": (TI_SITE, "Ti  Ti1  1  0.5  inf  0.5  1", "coordinate 'inf'"),
    "partial occupancy": (TI_SITE, TI_SITE[:-1] + "0.5", "partial occupancy: 0.5"),
    "zero occupancy": (TI_SITE, TI_SITE[:-1] + "0", "partial occupancy: 0"),
    "unknown occupancy": (TI_SITE, TI_SITE[:-1] + "?", "partial occupancy: ?"),
    "two halves of one atom": (
        TI_SITE,
        f"{TI_SITE[:-1]}0.5\n  {TI_SITE[:-1]}0.5",
        "partial occupancy",
    ),
    "dummy species": ("  Sr  Sr0", "  Xx  Xx0", "unknown element: 'Xx'"),
    "element that could be guessed": ("  Sr  Sr0", "  Sx  Sr0", "unknown element: 'Sx'"),
    "water molecule": ("  Sr  Sr0", "  OH2  Sr0", "unknown element: 'OH2'"),
    "zero length": ("_cell_length_a   4.0", "_cell_length_a   0.0", "volume below"),
    "negative length": ("_cell_length_a   4.0", "_cell_length_a   -4.0", "volume below"),
    "flat cell": ("_cell_angle_alpha   90", "_cell_angle_alpha   180", "volume below"),
    "atom on another": (TI_SITE, "Ti  Ti1  1  0.0  0.0  0.0  1", "duplicate atoms at one site"),
    "atom on its equal": (
        "O  O3  1  0.50000000  0.00000000  0.50000000",
        "O  O3  1  0.5  0.5  1.0",
        "duplicate atoms at one site",
    ),
    "atom nearly on another": (TI_SITE, "Ti  Ti1  1  0.0  0.0  0.01  1", "duplicate atoms"),
    "atom nearly on its own image": (
        "_cell_length_a   4.0",
        "_cell_length_a   0.05 #",
        "make a volume of 0.8 A^3",
    ),
    "formula with more atoms": ("'Sr1 Ti1 O3'", "'Sr1 Ti1 O4'", "disagree with the CIF's formula"),
    "length beyond all sense": (
        "_cell_length_a   4.0",
        "_cell_length_a   1001 #",
        "longer than 1000",
    ),
    "denormal length": (
        "_cell_length_a   4.0",
        "_cell_length_a   1e-310 #",
        "volume below",
    ),
    "collinear vectors": (
        "_cell_angle_gamma   90",
        "_cell_angle_gamma   0.0001 #",
        "volume below",
    ),
    "huge coordinate": (TI_SITE, "Ti  Ti1  1  0.5  0.5  1e300  1", "coordinate beyond 1e+10"),
    "cell length twice": (
        "_cell_length_a",
        "_cell_length_a 3.0\n_cell_length_a",
        "duplicate tag _cell_length_a",
    ),
    "endless line": ("# generated", "_title '" + "x" * 2048 + "'\n#", "line is longer than 2048"),
    "two blocks of one name": ("# generated", GOOD + "#", "duplicate block name"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_of_the_cif_is_named(defect: str) -> None:
    old, new, reason = DEFECTS[defect]
    broken = GOOD.replace(old, new, 1) if old else new
    assert broken != GOOD
    with pytest.raises(ValueError) as caught:
        cell_of(broken)
    assert reason in str(caught.value)


def test_coordinates_without_a_label_are_no_lost_atoms() -> None:
    columns = "".join(f"_atom_site_fract_{axis}\n" for axis in "xyz")
    cif = GOOD[: GOOD.index("loop_\n _atom_site")] + "loop_\n_atom_site_label\nSr1\nTi1\n"
    cif += f"loop_\n{columns}0 0 0\n0.5 0.5 0.5\n0.5 0.5 0\n"
    with pytest.raises(ValueError, match="columns of atoms differ in length"):
        cell_of(cif)


def test_one_atom_is_a_crystal() -> None:
    cell = cell_of(cif_of(Structure(Lattice.cubic(3.35), ["Po"], [[0.3, 0.3, 0.3]])))
    assert cell.atomic_numbers.tolist() == [84]
    np.testing.assert_allclose(cell.lattice, 3.35 * np.eye(3), atol=1e-6)


def test_hundred_thousands_of_blank_lines_do_not_matter() -> None:
    spaced = GOOD.replace("_cell_length_a", "\n \n" * 100_000 + "_cell_length_a", 1)
    with processor_time_limit(10.0):
        np.testing.assert_array_equal(cell_of(spaced).lattice, cell_of(GOOD).lattice)


def test_hydrogen_without_coordinates_is_a_defect() -> None:
    cif = GOOD.replace("_atom_site_occupancy", "_atom_site_attached_hydrogens")
    with pytest.raises(ValueError, match="hydrogen"):
        cell_of(cif)


def test_the_limit_on_atoms_is_inclusive() -> None:
    assert len(cell_of(GOOD, max_num_atoms=5).atomic_numbers) == 5
    with pytest.raises(ValueError, match="too many atoms: 5, the limit is 4"):
        cell_of(GOOD, max_num_atoms=4)


def write_table(path: Path, cifs: list[str]) -> Source:
    rows = [f'm{i},{i / 2},"{cif}"' for i, cif in enumerate(cifs)]
    path.write_text("material_id,energy,cif\n" + "\n".join(rows) + "\n")
    return Source((path,))


def test_workers_and_one_process_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifs = [cif_of(CHIRAL, basis) for basis in BASES] + ["nonsense", GOOD]
    source = write_table(tmp_path / "table.csv", cifs)
    alone = read_whole(source, ["energy"])
    monkeypatch.setattr(reading, "_MIN_ROWS_FOR_WORKERS", 1)
    monkeypatch.setattr(reading, "_CHUNK", 2)
    together = read_whole(source, ["energy"])
    assert together.bad_rows == alone.bad_rows
    for name in ("lattice", "num_atoms", "frac_coords", "atomic_numbers", "properties"):
        np.testing.assert_array_equal(getattr(together.dataset, name), getattr(alone.dataset, name))


def test_a_table_that_breaks_off_late_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_table(tmp_path / "table.csv", ["nonsense"] * 40)
    with source.tables[0].open("a") as file:
        file.write('m40,1,"never closed\n')
    monkeypatch.setattr(reading, "_MIN_ROWS_FOR_WORKERS", 3)
    monkeypatch.setattr(reading, "_CHUNK", 2)
    with pytest.raises(UserError, match=r"table\.csv cannot be read as a csv table"):
        read_whole(source, ["energy"])


def test_good_rows_keep_their_order_and_bad_rows_their_numbers(tmp_path: Path) -> None:
    source = write_table(tmp_path / "table.csv", [GOOD, "nonsense", cif_of(CHIRAL), "", GOOD])
    prepared = read_whole(source, ["energy"])
    assert list(prepared.dataset.material_ids) == ["m0", "m2", "m4"]
    assert list(prepared.dataset.properties[:, 0]) == [0.0, 1.0, 2.0]
    assert list(prepared.dataset.num_atoms) == [5, 4, 5]
    assert [(bad.row, bad.material_id) for bad in prepared.bad_rows] == [(2, "m1"), (4, "m3")]


def test_an_unforeseen_error_of_the_parser_makes_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*arguments: object) -> None:
        raise RuntimeError("never seen before")

    monkeypatch.setitem(crystal_files._FROM_TEXT, "CIF", parse)
    prepared = read_whole(write_table(tmp_path / "table.csv", [GOOD]), ["energy"])
    assert len(prepared.dataset) == 0
    assert "never seen before" in prepared.bad_rows[0].reason


@pytest.mark.skipif(not PEROV5.is_dir(), reason=f"no Perov-5 data in {PEROV5}")
def test_real_perovskites_are_cubic_cells_of_five_atoms_and_56_elements() -> None:
    prepared = read_whole(Source((PEROV5 / "val.csv.gz",)), ["heat_ref"])
    dataset = prepared.dataset
    assert prepared.bad_rows == ()
    assert len(dataset) == 300
    assert set(dataset.num_atoms) == {5}
    assert len(np.unique(dataset.atomic_numbers)) == 56
    edges = np.linalg.norm(dataset.lattice, axis=-1)
    np.testing.assert_allclose(
        dataset.lattice, edges[:, :1, None] * np.eye(3), atol=1e-6 * edges.max()
    )
