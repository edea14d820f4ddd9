"""data/tables.py: csv files of every make, and rows that are bad before any CIF is parsed."""

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from crystal_diffusion_jax.data import tables
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.data.tables import BadRow, RawCrystal
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures import csv_tables
from crystal_diffusion_jax.structures.csv_tables import read_rows

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def table(folder: Path, text: str) -> Source:
    path = folder / "table.csv"
    path.write_text(text)
    return Source((path,))


def read_table(source: Source, properties: list[str]) -> tuple[list[RawCrystal], list[BadRow]]:
    """The good rows and the bad ones."""
    rows = list(tables.read_table(source, tables.read_columns(source, properties)))
    return (
        [row for row in rows if isinstance(row, RawCrystal)],
        [row for row in rows if isinstance(row, BadRow)],
    )


def test_a_compressed_table_reads_as_the_plain_one(tmp_path: Path) -> None:
    text = 'material_id,energy,cif\na,1.5,"line 1\nline 2"\nb,-2e-1,data_x\n'
    plain = table(tmp_path, text)
    compressed = Source((tmp_path / "table.csv.gz",))
    with gzip.open(compressed.tables[0], "wt") as file:
        file.write(text)
    crystals, bad_rows = read_table(plain, ["energy"])
    assert [(c.row, c.material_id, c.crystal, c.properties) for c in crystals] == [
        (1, "a", "line 1\nline 2", (1.5,)),
        (2, "b", "data_x", (-0.2,)),
    ]
    assert bad_rows == []
    same, _ = read_table(compressed, ["energy"])
    assert [dataclasses.replace(crystal, file="table.csv") for crystal in same] == crystals


def test_a_long_cif_a_byte_order_mark_and_blank_lines_are_no_trouble(tmp_path: Path) -> None:
    long_cif = "x" * 200_000
    source = table(tmp_path, f"\ufeffcif,energy\n\n{long_cif},1\n\n{long_cif},2\n")
    crystals, _ = read_table(source, ["energy"])
    assert [len(str(crystal.crystal)) for crystal in crystals] == [200_000] * 2
    assert [crystal.material_id for crystal in crystals] == ["table-1", "table-2"]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("id,data_x,1", "the row ends before gap"),
        ("id,data_x,low,2", "energy is not a number: 'low'"),
        ("id,data_x,1.2 eV,2", "energy is not a number: '1.2 eV'"),
        ("id,data_x,>5,2", "energy is not a number: '>5'"),
        ('id,data_x,"1,5",2', "energy is not a number: '1,5'"),
        ("id,data_x,1_000,2", "energy is not a number: '1_000'"),
        ("id,data_x,True,2", "energy is not a number: 'True'"),
        ("id,data_x,1,-inf", "gap is not finite"),
        ("id,,1,2", "column 'cif' is empty"),
        ("id,data_x,1,2,3", "more cells"),
    ],
)
def test_a_defect_of_a_row_is_named(tmp_path: Path, cells: str, reason: str) -> None:
    source = table(
        tmp_path, f"material_id,cif,energy,gap\nfirst,data_x,0,0\n{cells}\nlast,data_x,0,0\n"
    )
    crystals, bad_rows = read_table(source, ["energy", "gap"])
    assert [crystal.row for crystal in crystals] == [1, 3]
    (bad,) = bad_rows
    assert (bad.file, bad.row, bad.material_id) == ("table.csv", 2, "id")
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv is empty"),
        ("cif,energy,energy\n", "more than one column named energy"),
        ("cif,gap,volume\n", "no column 'energy' .* columns are cif, gap, volume"),
        ("prototype,energy\n", "no column with the crystals .* columns are prototype, energy"),
        ('cif,energy\n"never closed,1\n', "cannot be read as a csv table"),
    ],
)
def test_an_unusable_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(table(tmp_path, text), ["energy"])


@pytest.mark.parametrize(
    "content", [gzip.compress(b"cif,energy\n" * 100)[:-9], b"no gzip", b""], ids=["cut", "no", "0"]
)
def test_a_damaged_gz_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"table\.csv\.gz"):
        list(read_rows(path)[1])


@pytest.mark.parametrize("column", ["file", "filename", "cif_file", "material_id"])
@pytest.mark.parametrize("ending", ["", ".cif"])
def test_rows_find_their_cif_files(tmp_path: Path, column: str, ending: str) -> None:
    (tmp_path / "a.cif").write_text("text a")
    (tmp_path / "b.cif").write_text("text b")
    rows = table(tmp_path, f"{column},energy\nb{ending},1\na{ending},2\n")
    crystals, bad_rows = read_table(Source(rows.tables, crystal_folder=tmp_path), ["energy"])
    assert [(crystal.crystal, crystal.properties) for crystal in crystals] == [
        (tmp_path / "b.cif", (1.0,)),
        (tmp_path / "a.cif", (2.0,)),
    ]
    assert bad_rows == []


def test_rows_without_file_and_files_without_row_are_bad(tmp_path: Path) -> None:
    for name in ("a", "b", "stray"):
        (tmp_path / f"{name}.cif").write_text("text")
    rows = table(tmp_path, "file,energy\na,1\nlost,2\nb,3\na,4\n")
    crystals, bad_rows = read_table(Source(rows.tables, crystal_folder=tmp_path), ["energy"])
    assert [crystal.row for crystal in crystals] == [1, 3]
    assert [(bad.file, bad.row) for bad in bad_rows] == [
        ("table.csv", 2),
        ("table.csv", 4),
        ("stray.cif", 0),
    ]
    assert "lost is not in" in bad_rows[0].reason
    assert "earlier row" in bad_rows[1].reason


def test_a_folder_of_cif_files_needs_a_column_that_names_them(tmp_path: Path) -> None:
    rows = table(tmp_path, "prototype,energy\na,1\n")
    with pytest.raises(UserError, match="no column with the crystals or their files"):
        read_table(Source(rows.tables, crystal_folder=tmp_path), ["energy"])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real data in {REAL_DATA}")
@pytest.mark.parametrize(
    ("name", "sizes"), [("perov5", (6572, 300, 700)), ("carbon24", (3362, 200, 500))]
)
def test_success_thresholds_are_percentiles_of_the_real_labels(
    name: str, sizes: tuple[int, int, int]
) -> None:
    spec = KNOWN_DATASETS[name]
    splits = [
        read_table(Source((REAL_DATA / name / f"{split}.csv.gz",)), [spec.property_name])
        for split in SPLITS
    ]
    assert tuple(len(crystals) for crystals, _ in splits) == sizes
    assert all(bad_rows == [] for _, bad_rows in splits)
    labels = [crystal.properties[0] for crystals, _ in splits for crystal in crystals]
    # The thresholds were measured on other rows of the same population.
    percentiles = np.percentile(labels, [5, 10, 15])
    tolerance = 0.1 * float(np.std(labels))
    np.testing.assert_allclose(np.array(spec.success_thresholds), percentiles, atol=tolerance)


def test_a_property_beyond_all_sense_and_an_endless_id_are_named(tmp_path: Path) -> None:
    rows = table(
        tmp_path, f"material_id,cif,energy\na,data_x,1e31\n{'b' * 201},data_x,1\nc,data_x,1e30\n"
    )
    crystals, bad_rows = read_table(rows, ["energy"])
    assert [(crystal.material_id, crystal.properties) for crystal in crystals] == [("c", (1e30,))]
    assert "energy is beyond 1e+30" in bad_rows[0].reason
    assert "longer than 200 characters" in bad_rows[1].reason


def test_what_a_file_holds_is_printable_in_a_message(tmp_path: Path) -> None:
    rows = table(tmp_path, f"material_id,cif,energy\na\x00\u2028b,text,{'x' * 10_000}\x1b[31m\n")
    (bad,) = read_table(rows, ["energy"])[1]
    assert str(bad).isprintable()
    assert len(str(bad)) < 300


def test_a_header_of_ten_thousand_columns_is_refused_in_a_short_sentence(tmp_path: Path) -> None:
    header = ",".join(f"column_{i}" for i in range(10_000))
    with pytest.raises(UserError, match="no column 'energy' for the property") as caught:
        read_table(table(tmp_path, f"{header}\n"), ["energy"])
    assert len(str(caught.value)) < 1000


def test_a_split_may_come_in_several_files(tmp_path: Path) -> None:
    paths = tmp_path / "train-0.csv", tmp_path / "train-1.csv.gz"
    paths[0].write_text("cif,energy\ndata_a,1\ndata_b,2\n")
    paths[1].write_bytes(gzip.compress(b"energy,cif\n3,data_c\nx,data_d\n"))
    crystals, (bad,) = read_table(Source(paths), ["energy"])
    assert [(crystal.material_id, crystal.properties) for crystal in crystals] == [
        ("train-0-1", (1.0,)),
        ("train-0-2", (2.0,)),
        ("train-1-1", (3.0,)),
    ]
    assert (bad.file, bad.row) == ("train-1.csv.gz", 2)


def test_a_bomb_in_gzip_is_refused_and_a_compressible_table_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_tables, "ALWAYS_ALLOWED", 2**16)
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"cif,energy\n" + b"a,1\n" * 1_000_000))
    with pytest.raises(UserError, match="expands more than 100-fold"):
        list(read_rows(path)[1])
    rows = "".join(f"crystal number {i},{i * 0.37}\n" for i in range(10_000))
    path.write_bytes(gzip.compress(f"cif,energy\n{rows}".encode()))
    assert len(list(read_rows(path)[1])) == 10_000
