"""Properties as people have them, from the table to the request."""

import csv
import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import sample
from crystal_diffusion_jax.cli.request_flags import requested
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, dataset_statistics
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Request, SampledBatch, Trajectory
from crystal_diffusion_jax.sampling.parse import parse_target, requested_classes
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.samples_reader import read_request
from crystal_diffusion_jax.structures.store import Samples
from crystal_diffusion_jax.trained_model import TrainedModel, example_target, model_card
from tests.test_data_prepare import run_prepare
from tests.tiny_run import perovskite

INPUTS = Path(__file__).parents[2] / "shared" / "reports" / "inputs"
# 24 different compounds.
COMPOUNDS = [(a, b) for a in ("Ca", "Sr", "Ba", "Pb") for b in ("Ti", "Zr", "Hf", "Sn", "Ge", "V")]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))


def write(
    path: Path, columns: Mapping[str, Iterable[object]], structures: Sequence[Structure] = ()
) -> Path:
    """A table of different crystals, or of the given ones."""
    structures = structures or [perovskite(a, b, 4.0) for a, b in COMPOUNDS]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", *columns, "cif"])
        for row, (structure, *cells) in enumerate(zip(structures, *columns.values(), strict=True)):
            writer.writerow([f"m{row}", *cells, to_cif(structure, 0.0)])
    return path


def loaded(path: Path, *properties: str) -> dict[str, CrystalDataset]:
    return load(DataConfig(root=str(path), properties=properties), progress=False)


def by_id(splits: dict[str, CrystalDataset]) -> dict[str, list[float]]:
    """The values of each crystal."""
    return {
        str(name): row.tolist()
        for part in splits.values()
        for name, row in zip(part.material_ids, part.properties, strict=True)
    }


def test_a_property_of_some_crystals_is_read_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gaps = ["nan" if row % 3 == 0 else str(row / 8) for row in range(24)]
    splits = loaded(write(tmp_path / "mine.csv", {"band_gap": gaps}), "band_gap")
    found = by_id(splits)
    np.testing.assert_array_equal(
        [found[f"m{row}"][0] for row in range(24)],
        [np.nan if row % 3 == 0 else row / 8 for row in range(24)],
    )
    assert "8 of 24 crystals have no value of band_gap" in caplog.text
    assert "outlier" not in caplog.text


def test_crystals_without_any_value_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = ["-" if row < 6 else row for row in range(24)]
    other = ["NA" if row % 2 else row for row in range(24)]
    splits = loaded(write(tmp_path / "mine.csv", {"a": one, "b": other}), "a", "b")
    assert sum(map(len, splits.values())) == 24
    assert "6 of 24 crystals have no value of a;" in caplog.text
    assert "12 of 24 crystals have no value of b;" in caplog.text
    assert "3 of 24 crystals have no value of any property" in caplog.text


def test_a_column_without_a_value_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", {"gap": ["nan"] * 24})
    with pytest.raises(UserError, match="no crystal to train on has a value of gap"):
        loaded(table, "gap")


def test_a_text_is_refused_with_row_and_column(tmp_path: Path) -> None:
    gaps = ["1.2 eV" if row == 4 else row for row in range(24)]
    with pytest.raises(UserError, match=r"row 5 \(m4\): gap is not a number: '1.2 eV'"):
        loaded(write(tmp_path / "mine.csv", {"gap": gaps}), "gap")


def test_names_are_numbered_alike_in_all_splits_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    kinds = ["metal", "semiconductor", "insulator"] * 8
    write(folder / "train.csv", {"kind": kinds, "is_metal": ["TRUE", "false"] * 12})
    others = [perovskite("Mg", "Ti", 4.0), perovskite("Mg", "Zr", 4.0)]
    columns = {"kind": ["semiconductor", "nan"], "is_metal": ["True", "True"]}
    write(folder / "val.csv", columns, others)
    splits = loaded(folder, "kind", "is_metal")
    names = ("insulator", "metal", "semiconductor")
    for part in splits.values():
        assert part.class_names == {"kind": names, "is_metal": ("False", "True")}
    np.testing.assert_array_equal(splits["val"].properties, [[2, 1], [np.nan, 1]])
    codes = splits["train"].properties
    assert [names[int(code)] for code in codes[:, 0]] == kinds
    np.testing.assert_array_equal(codes[:, 1], [1, 0] * 12)
    again = loaded(folder, "kind", "is_metal")  # from the cache
    np.testing.assert_array_equal(again["train"].properties, codes)
    assert again["val"].class_names == splits["val"].class_names

    write(folder / "val.csv", {"kind": ["metall", "nan"], "is_metal": [1, 0]}, others)
    with pytest.raises(UserError, match=r"'metall', which train never has: .*; did you mean metal"):
        loaded(folder, "kind")
    with pytest.raises(UserError, match="is_metal holds numbers in val, but False, True in train"):
        loaded(folder, "is_metal")


def test_the_last_crystal_of_a_class_stays_in_train(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", {"kind": ["rare", "other", *["common"] * 22]})
    for seed in range(10):
        config = DataConfig(root=str(table), properties=("kind",), val_fraction=0.4, seed=seed)
        splits = load(config, progress=False)
        assert len(splits["val"]) == 10
        assert set(splits["train"].properties[:, 0]) == {0, 1, 2}


def test_a_constant_property_and_wild_outliers_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wild = [1e9 if row == 7 else 1 + row / 24 for row in range(24)]
    sparse = [0.0] * 18 + [0.1, 0.2, 0.3, 0.4, 0.5, 1e7]
    table = write(tmp_path / "mine.csv", {"same": [2.5] * 24, "wild": wild, "mostly zero": sparse})
    loaded(table, "same", "wild", "mostly zero")
    assert "same is 2.5 in all 24 crystals" in caplog.text
    assert "wild has 1 value far from all others" in caplog.text
    assert "m7 1e+09" in caplog.text
    assert "m23 1e+07" in caplog.text


def test_ordinary_values_have_no_outliers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draws = ("normal", "lognormal", "exponential", "uniform")
    columns = {draw: getattr(np.random.default_rng(0), draw)(size=24) for draw in draws}
    columns["standard_t"] = np.random.default_rng(0).standard_t(3, 24)
    loaded(write(tmp_path / "mine.csv", columns), *columns)
    assert caplog.text == ""


def test_copies_are_named_and_contradictions_among_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    doubled = perovskite("Ca", "Ti", 4.0)
    doubled.make_supercell([1, 1, 2])
    strained = perovskite("Sr", "Ti", 4.3)  # the same to the matcher, but larger
    structures = [perovskite(a, b, 4.0) for a, b in COMPOUNDS[:22]] + [doubled, strained]
    values = [float(row) for row in range(24)]
    loaded(write(tmp_path / "mine.csv", {"x": values}, structures), "x")
    assert "2 of 24 crystals are copies of others" in caplog.text
    assert "m0 = m22; m6 = m23" in caplog.text
    assert "1 crystal occurs with different x: m0 0, m22 22" in caplog.text


def test_copies_on_two_sides_of_a_given_split_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train.csv", {"x": range(24)})
    turned = [perovskite(a, b, 4.0) for a, b in [COMPOUNDS[3], ("Mg", "Ti")]]
    write(tmp_path / "val.csv", {"x": [3, 1]}, turned)
    splits = loaded(tmp_path, "x")
    assert [len(part) for part in splits.values()] == [24, 2]
    assert "1 of 2 crystals of val are copies of crystals of train" in caplog.text


def test_one_crystal_in_24_rows_cannot_be_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write(tmp_path / "mine.csv", {"x": range(24)}, [perovskite("Ca", "Ti", 4.0)] * 24)
    with pytest.raises(UserError, match="24 crystals are copies of 1 "):
        loaded(table, "x")
    assert "23 of 24 crystals are copies of others" in caplog.text
    assert "m0 = m1 = m2 = 21 more" in caplog.text


NAME = "gap, eV (HSE06)"


@pytest.mark.parametrize(
    ("flag", "columns"),
    [
        (NAME, [NAME]),
        (f'"{NAME}",density', [NAME, "density"]),
        (f'density, "{NAME}"', ["density", NAME]),
        ("a=b,density", ["a=b", "density"]),
    ],
)
def test_names_may_hold_commas_and_equal_signs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    columns: list[str],
) -> None:
    values = {name: np.arange(24.0) for name in (NAME, "density", "a=b")}
    table = write(tmp_path / "mine.csv", values)
    run_prepare(monkeypatch, f"--root={table}", f"--properties={flag}")
    header = capsys.readouterr().out.splitlines()[0]
    assert header.count("min/mean/max") == 1 + len(columns)
    for name in columns:
        assert f"{name} min/mean/max" in header


@pytest.mark.parametrize("asked", ["Gap", " gap ", "GAP"])
def test_another_case_or_a_blank_is_recognised(tmp_path: Path, asked: str) -> None:
    table = write(tmp_path / "mine.csv", {"gap": range(24)})
    with pytest.raises(UserError, match=r"did you mean 'gap'\?"):
        loaded(table, asked)


def test_a_name_that_was_cut_at_its_comma_is_recognised(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", {NAME: range(24)})
    with pytest.raises(UserError, match=r"did you mean 'gap, eV \(HSE06\)'\?"):
        loaded(table, "gap", "eV (HSE06)")


PROPERTIES = (NAME, "kind", "a=b", "is_metal")
CLASSES = {"kind": ("insulator", "metal, d", "metal"), "is_metal": ("False", "True")}


def classified(model: TrainedModel) -> TrainedModel:
    """The tiny model's statistics, as if of two numbers, three classes and a Boolean."""
    statistics = model.statistics
    columns: dict[str, Any] = {
        "property_mean": (1.0, 0.0, 1.0, 0.5),
        "property_std": (2.0, 1.0, 2.0, 0.5),
        "property_min": (0.0, 0.0, 0.0, 0.0),
        "property_max": (4.0, 2.0, 4.0, 1.0),
        "property_quantiles": [
            tuple(np.linspace(0, top, 101).tolist()) for top in (4.0, 2.0, 4.0, 1.0)
        ],
        "num_atoms_by_property": 4 * statistics.num_atoms_by_property[:1],
    }
    return dataclasses.replace(
        model,
        statistics=dataclasses.replace(
            statistics, property_names=PROPERTIES, class_names=CLASSES, **columns
        ),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{NAME}=1.5", {NAME: (1.5, 1.5)}),
        (f"{NAME}=1:2,kind=metal, d", {NAME: (1.0, 2.0), "kind": (1.0, 1.0)}),
        (f"kind=metal, {NAME}=min", {"kind": (2.0, 2.0), NAME: (0.0, 0.0)}),
        (f"a=b=max,{NAME}=0", {"a=b": (4.0, 4.0), NAME: (0.0, 0.0)}),
        ("is_metal=TRUE,kind=0", {"is_metal": (1.0, 1.0), "kind": (0.0, 0.0)}),
        ("is_metal=0", {"is_metal": (0.0, 0.0)}),
    ],
)
def test_targets_name_classes_and_properties_of_any_name(
    tiny_model: TrainedModel, text: str, expected: dict[str, tuple[float, float]]
) -> None:
    statistics = classified(tiny_model).statistics
    target = parse_target(text, statistics)
    assert target == expected
    classes = requested_classes(target, statistics)
    assert classes == {
        name: CLASSES[name][int(low)] for name, (low, _) in expected.items() if name in CLASSES
    }
    # The command of the request asks for the same, by name.
    request = Request("m", "", target, 3, 0, 0.0, "ancestral", 50, 1e-6, 0, classes=classes)
    words = shlex.split(request.command("out"))
    again = requested(sample.parser().parse_args(words[2:]))["target"]
    assert parse_target(again, statistics) == target
    assert all(f"{name}={text}" in again for name, text in classes.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind=metl", "kind is one of insulator, metal, d, metal, not 'metl'; did you mean metal"),
        ("kind=min", "kind is one of"),
        ("kind=0:1", "kind is one of"),
        ("kind=3", "kind is one of"),
        ("is_metal=0.5", "is_metal is one of False, True"),
        ("kind=metal,dense=1", "no property 'dense'"),
        ("knd=metal", "no property 'knd', only .*; did you mean kind"),
        ("metal", "name one of them"),
        ("kind=metal,kind=insulator", "kind is requested twice"),
    ],
)
def test_a_wrong_class_or_name_is_refused_with_the_right_ones(
    tiny_model: TrainedModel, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        parse_target(text, classified(tiny_model).statistics)


def test_the_card_lists_classes_and_counts_known_values(tiny_model: TrainedModel) -> None:
    model = classified(tiny_model)
    total = sum(count for _, count in model.statistics.num_atoms_histogram)
    (table,) = tiny_model.statistics.num_atoms_by_property
    few = (tuple([1] + [0] * (len(table[0]) - 1)),) * len(table)
    sparse = dataclasses.replace(model.statistics, num_atoms_by_property=(few, table, table, table))
    card = model_card(dataclasses.replace(model, statistics=sparse))
    assert "| kind | insulator, metal, d, metal | | |" in card
    assert f"Only {len(table)} crystals have a value of {NAME}" in card
    assert card.count("Only ") == 1
    assert len(table) < total


def test_the_example_target_of_a_class_is_a_class() -> None:
    classes = {"kind": ("insulator", "metal")}
    assert example_target("cds", ("kind",), classes) == "insulator"
    assert example_target("cds", ("kind", "gap"), classes) == "kind=insulator"
    assert example_target("cds", ("gap",), {}) == "min"


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the reported inputs are not on this machine")
@pytest.mark.parametrize(
    ("file", "column", "num_known", "classes"),
    [
        ("16_sparse_property.csv", "band_gap", 16, ()),
        ("17_bool_property.csv", "is_metal", 24, ("False", "True")),
        ("18_class_property.csv", "kind", 24, ("insulator", "metal", "semiconductor")),
        ("19_comma_in_property_name.csv", NAME, 24, ()),
    ],
)
def test_reported_tables_are_read(
    file: str, column: str, num_known: int, classes: tuple[str, ...]
) -> None:
    splits = loaded(INPUTS / file, column)
    assert sum(np.sum(~np.isnan(part.properties)) for part in splits.values()) == num_known
    assert splits["train"].class_names.get(column, ()) == classes
    statistics = dataset_statistics(splits["train"], scale_by_num_atoms=True)
    for name in classes:
        target = parse_target(name, statistics)
        assert requested_classes(target, statistics) == {column: name}


def test_names_that_the_database_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", {"gap (eV)": range(24), "gap [eV]": range(24)})
    with pytest.raises(UserError, match=r"'gap \(eV\)' and 'gap \[eV\]' differ only in signs"):
        loaded(table, "gap (eV)", "gap [eV]")


def test_published_data_have_all_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", {"heat_ref": range(24), "gap": ["nan"] * 23 + ["1"]})
    others = [perovskite("Mg", "Ti", 4.0), perovskite("Mg", "Zr", 4.0)]
    write(tmp_path / "val.csv", {"heat_ref": ["1", "-"], "gap": ["1", "-"]}, others)
    with pytest.raises(UserError, match=r"1 crystals of val in .* of heat_ref.* first one is m1"):
        load(DataConfig("perov5", str(tmp_path)), progress=False)
    splits = load(DataConfig("perov5", str(tmp_path), ("gap",)), progress=False)
    np.testing.assert_array_equal(splits["val"].properties, [[1.0], [np.nan]])


def test_samples_carry_the_class_by_name(tiny_model: TrainedModel, tmp_path: Path) -> None:
    statistics = classified(tiny_model).statistics
    target = parse_target("kind=metal, d,is_metal=True,a=b=2", statistics)
    request = Request(
        "m", "", target, 1, 0, 0.0, "ancestral", 50, 1e-6, 0,
        classes=requested_classes(target, statistics),
    )  # fmt: skip
    crystal = perovskite("Sr", "Ti", 3.9)
    numbers = np.array(crystal.atomic_numbers)
    state = Trajectory(
        np.zeros(1), crystal.lattice.matrix[None], crystal.frac_coords[None], numbers[None]
    )
    samples = Samples(tmp_path / "out", request)
    samples.add(SampledBatch([0], [state], 1.0, 1))
    samples.export()
    with (tmp_path / "out" / "samples.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["target_kind"] == "metal, d"
    assert float(row["target_is_metal"]) == 1
    assert float(row["target_a_b"]) == 2
    stored = read_request(tmp_path / "out")
    assert stored is not None
    assert stored.request == request
