"""Tables as spreadsheets and programs write them: encodings, separators, line ends, decimal commas;
crystals in a column as text or as paths."""

import codecs
import csv
import gzip
import io
import itertools
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures.csv_dialect import with_decimal_commas
from crystal_diffusion_jax.structures.csv_tables import read_rows
from crystal_diffusion_jax.structures.reading import read_structures
from tests.one_file import WRITERS, to_json
from tests.prepared_tables import read_whole
from tests.test_crystal_files import assert_same_crystal, random_crystal, tolerance

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}


def encoded(text: str, encoding: str) -> bytes:
    """With a byte order mark, except as plain UTF-8."""
    return MARKS.get(encoding, b"") + text.encode(encoding)


def written(rows: Sequence[Sequence[str]], separator: str, line_end: str, quoting: Any = 0) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(rows)
    return text.getvalue()


# The csv format has no way to write null characters, and a lone carriage return ends a line.
CELLS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t;,\"'"), max_size=12
)


@settings(max_examples=150)
@given(
    cells=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4),
    encoding=st.sampled_from(ENCODINGS),
    separator=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    compressed=st.booleans(),
)
def test_a_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, str, str]],
    encoding: str,
    separator: str,
    line_end: str,
    compressed: bool,
) -> None:
    header = ["material_id", "gap, eV (HSE06)", "cif"]
    text = written([header, *cells], separator, line_end, csv.QUOTE_ALL)
    content = encoded(text, encoding)
    path = tmp_path_factory.mktemp("t") / ("a.csv.gz" if compressed else "a.csv")
    path.write_bytes(gzip.compress(content) if compressed else content)
    found, rows = read_rows(path)
    assert found == header
    assert [tuple(row.values()) for row in rows] == cells


KINDS = ("a.cif", "POSCAR", "a.json", "a.xsf", "a.cssr", "a.res", "a.extxyz", "a.cif.gz")


@pytest.mark.parametrize(
    ("encoding", "name", "line_end"),
    [  # each kind and each encoding with both ends of lines
        (encoding, name, "\r\n" if (row + column) % 2 else "\n")
        for row, encoding in enumerate(ENCODINGS)
        for column, name in enumerate(KINDS)
    ],
)
def test_text_of_every_kind_is_read_in_every_unicode_encoding(
    tmp_path: Path, encoding: str, name: str, line_end: str
) -> None:
    crystal = random_crystal(4)
    plain = {
        "a.cif": "pymatgen.cif",
        "a.cif.gz": "pymatgen.cif",
        "a.json": "pymatgen.json",
        "a.xsf": "ase.xsf",
        "a.cssr": "pymatgen.cssr",
        "a.res": "ase.res",
        "a.extxyz": "ase.extxyz",
    }.get(name, name)
    WRITERS[plain](tmp_path / plain, crystal)
    text = (tmp_path / plain).read_text()
    content = encoded(text.replace("\n", line_end), encoding)
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (read,) = read_structures(folder / name).structures
    assert_same_crystal(read, crystal, tolerance(plain))


def test_other_encodings_of_a_table_are_named(tmp_path: Path) -> None:
    for content in ("cif,größe\n".encode("latin-1"), "cif,a\n".encode("utf-16-le")):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.csv cannot be read as a csv table.*UTF-8"):
            read_rows(tmp_path / "a.csv")


def table(folder: Path, values: Sequence[str], separator: str) -> Path:
    cif = random_crystal(0).to(fmt="cif")
    rows = [["id", "gap", "cif"], *([f"m{i}", value, cif] for i, value in enumerate(values))]
    (folder / "a.csv").write_text(written(rows, separator, "\n"), encoding="utf-8-sig")
    return folder / "a.csv"


@pytest.mark.parametrize(
    ("separator", "values", "expected"),
    [
        (";", ["0,866", "1,234", "-12,5", "3", "1,5e-3"], [0.866, 1.234, -12.5, 3.0, 0.0015]),
        ("\t", ["0,5", "2"], [0.5, 2.0]),
        (";", ["0.866", "1.5"], [0.866, 1.5]),
        # May be thousands, or contradicts the other rows: never read.
        (";", ["1,234", "2,345"], [None, None]),
        (";", ["1.5", "1,5"], [1.5, None]),
        (";", ["1.234,5"], [None]),
        (",", ["1,5", "0,25"], [None, None]),
    ],
)
def test_a_decimal_comma_is_read_only_where_it_is_certain(
    tmp_path: Path, separator: str, values: list[str], expected: list[float | None]
) -> None:
    prepared = read_whole(Source((table(tmp_path, values, separator),)), ["gap"])
    wanted = [value for value in expected if value is not None]
    np.testing.assert_allclose(prepared.dataset.properties[:, 0], wanted)
    assert [bad.row for bad in prepared.bad_rows] == [
        row for row, value in enumerate(expected, start=1) if value is None
    ]
    for bad in prepared.bad_rows:
        assert "decimal or thousands? write it without a comma" in bad.reason


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 8))
def test_numbers_with_decimal_commas_come_back_or_are_refused(
    numbers: list[float], digits: int
) -> None:
    cells = [f"{number:.{digits}f}" for number in numbers]
    assert not with_decimal_commas(cells)
    commas = [cell.replace(".", ",") for cell in cells]
    certain = with_decimal_commas(commas)
    # Three digits behind all of them, and no zero in front: thousands, perhaps.
    doubtful = digits == 3 and all(cell.lstrip("+-")[0] != "0" for cell in cells)
    doubtful = doubtful and all(len(cell.lstrip("+-").split(".")[0]) <= 3 for cell in cells)
    assert certain == (not doubtful)
    thousands = [f"{int(1000 * number):,}" for number in numbers]
    assert not with_decimal_commas(thousands)


def contents(structure: Structure) -> dict[str, str]:
    """A crystal as cells hold it."""
    return {
        "cif": structure.to(fmt="cif"),
        "pymatgen": to_json(structure),
        "poscar": structure.to(fmt="poscar"),
    }


@pytest.mark.parametrize("column", ["cif", "CIF", "structure", "poscar", "json", "file", "path"])
@pytest.mark.parametrize("kind", ["cif", "pymatgen", "poscar"])
def test_a_column_holds_crystals_as_text(tmp_path: Path, column: str, kind: str) -> None:
    crystals = [random_crystal(seed) for seed in range(3)]
    rows = [["id", "gap", column], *(["x", "1.5", contents(one)[kind]] for one in crystals)]
    (tmp_path / "a.csv").write_text(written(rows, ";", "\r\n"))
    inputs = read_structures(tmp_path / "a.csv")
    for read, crystal in zip(inputs.structures, crystals, strict=True):
        assert_same_crystal(read, crystal, 2e-5)
    prepared = read_whole(Source((tmp_path / "a.csv",)), ["gap"])
    assert prepared.bad_rows == ()
    assert list(prepared.dataset.num_atoms) == [len(crystal) for crystal in crystals]


@pytest.mark.parametrize("column", ["cif", "file", "structure", "path"])
def test_a_column_holds_paths_beside_the_table(tmp_path: Path, column: str) -> None:
    folder = tmp_path / "with blanks, and 'quotes'"
    folder.mkdir()
    rows = [[column, "gap"]]
    for index, (name, write) in enumerate(WRITERS.items()):
        write(folder / name, random_crystal(index))
        rows.append([f"{folder.name}/{name}", str(index)])
    (tmp_path / "a.csv").write_text(written(rows, ",", "\n"))
    inputs = read_structures(tmp_path / "a.csv")
    for index, (name, read) in enumerate(zip(WRITERS, inputs.structures, strict=True)):
        assert_same_crystal(read, random_crystal(index), tolerance(name))
    prepared = read_whole(Source((tmp_path / "a.csv",)), ["gap"])
    assert prepared.bad_rows == ()
    assert list(prepared.dataset.properties[:, 0]) == list(range(len(WRITERS)))


def test_names_without_or_with_another_suffix_find_their_file(tmp_path: Path) -> None:
    crystal = random_crystal(0)
    for name in ("a.CIF", "b.cif", "c.vasp", "d.cif", "d.json", "e.cif"):
        WRITERS["POSCAR" if "vasp" in name else f"pymatgen.{name[2:].lower()}"](
            tmp_path / name, crystal
        )
    rows = [["file", "gap"], *([name, "1"] for name in ("a", "b.CIF", "c", "d", "gone", "../e"))]
    (tmp_path / "props.csv").write_text(written(rows, ",", "\n"))
    prepared = read_whole(Source((tmp_path / "props.csv",), tmp_path), ["gap"])
    assert len(prepared.dataset) == 3
    assert [bad.reason.split(str(tmp_path))[0] for bad in prepared.bad_rows] == [
        "d may be d.cif, d.json: write the whole name",
        "gone is not in ",
        "../e is not in ",
        "no row of props.csv names it",
        "no row of props.csv names it",
        "no row of props.csv names it",
    ]


def test_a_file_that_changes_is_prepared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cifs").mkdir()
    rows = [["path", "gap"], *([f"cifs/{index}.cif", str(index)] for index in range(4))]
    (tmp_path / "a.csv").write_text(written(rows, ",", "\n"))
    config = DataConfig(root=str(tmp_path / "a.csv"), properties=("gap",))
    for seed in (0, 4):
        crystals = [random_crystal(seed + index) for index in range(4)]
        for index, crystal in enumerate(crystals):
            crystal.to(filename=tmp_path / "cifs" / f"{index}.cif")
        splits = load(config, progress=False).values()
        found = {
            gap: number
            for split in splits
            for gap, number in zip(split.properties[:, 0], split.num_atoms, strict=True)
        }
        assert found == {index: len(crystal) for index, crystal in enumerate(crystals)}


def test_a_path_in_a_table_of_texts_is_called_that(tmp_path: Path) -> None:
    random_crystal(0).to(filename=tmp_path / "b.cif")
    rows = [["cif", "gap"], [random_crystal(0).to(fmt="cif"), "1"], ["b.cif", "2"]]
    (tmp_path / "a.csv").write_text(written(rows, ",", "\n"))
    (bad,) = read_whole(Source((tmp_path / "a.csv",)), ["gap"]).bad_rows
    assert bad.reason == "the path of a file, where other rows have the crystal itself"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("b.cif", "b.cif is not in"),
        (str(random_crystal(0).as_dict()), "Python dict instead of JSON"),
        (str(random_crystal(0)), "a printed structure"),
        ("some\ntext", "neither a CIF"),
        ("[1, 2]", "JSON without crystals"),
        (json.dumps([random_crystal(0).as_dict()] * 2), "2 crystals"),
    ],
)
def test_a_cell_without_a_crystal_is_a_named_failure(
    tmp_path: Path, cell: str, reason: str
) -> None:
    good = random_crystal(0).to(fmt="cif")
    rows = [["cif", "gap"], [good, "1"], [cell, "2"]]
    if "is not in" in reason:
        del rows[1]
    (tmp_path / "a.csv").write_text(written(rows, ",", "\n"))
    (bad,) = read_whole(Source((tmp_path / "a.csv",)), ["gap"]).bad_rows
    assert reason in bad.reason
    if "2 crystals" not in reason:
        assert any(reason in text for text in read_structures(tmp_path / "a.csv").failures.values())


def test_a_table_of_other_columns_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("formula,gap\nNaCl,5\n")
    with pytest.raises(UserError, match=r"no column with the crystals .* are formula, gap\."):
        read_structures(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("mp-1,5.1\nmp-2,3.1\n")  # CGCNN's id_prop.csv
    with pytest.raises(UserError, match="first line has to name the columns"):
        read_structures(tmp_path / "b.csv")


def test_a_folder_of_any_mix_is_trained_on_with_one_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed, (name, write) in enumerate(WRITERS.items()):
        write(folder / name, random_crystal(seed))
    for line, separator in itertools.product(["\n", "\r\n"], ",;\t"):
        rows = [["File", "gap"], *([name, str(i)] for i, name in enumerate(WRITERS))]
        (folder / "props.csv").write_text(written(rows, separator, line))
        splits = load(DataConfig(root=str(folder), properties=("gap",)), progress=False)
        values = np.concatenate([split.properties[:, 0] for split in splits.values()])
        assert sorted(values) == list(range(len(WRITERS)))


def test_the_archive_of_any_mix_is_read(tmp_path: Path) -> None:
    crystal = random_crystal(0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("pymatgen.cif", "POSCAR", "ase.json", "ase.xsf"):
            WRITERS[name](tmp_path / name, crystal)
            archive.write(tmp_path / name, f"folder/{name}")
        archive.writestr("__MACOSX/folder/._pymatgen.cif", "a copy that macOS adds")
    inputs = read_structures(tmp_path / "a.zip")
    assert len(inputs.structures) == 4
    for read in inputs.structures:
        assert_same_crystal(read, crystal, 2e-5)
