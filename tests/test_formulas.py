"""Formulas as they are asked for: lists, tables, data sets; what is refused; the way back."""

import csv
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from crystal_diffusion_jax.cli import sample
from crystal_diffusion_jax.cli.request_flags import requested
from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, LossConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.chosen_rows import chosen_rows
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import TEMPLATE_START_TIME, FormulaRequest, Request
from crystal_diffusion_jax.sampling import formulas as module
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.compositions import cell_formula, formula_counts
from tests.knowing_model import knowing

NAME = "tolerance_factor"
TABLE = (((1, 2), ((1, 20), (2, 50))),)


@pytest.fixture
def model(tiny_model, tmp_path):
    return knowing(tiny_model, TABLE, folder=tmp_path)


def write_csv(path: Path, header: Sequence[str], *rows: Sequence[object]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def dataset(cells: Sequence[Sequence[int]], ids: Sequence[str]) -> CrystalDataset:
    sizes = np.array([*map(len, cells)])
    return CrystalDataset(
        lattice=np.broadcast_to(4.0 * np.eye(3), (len(cells), 3, 3)),
        num_atoms=sizes,
        frac_coords=np.zeros((sizes.sum(), 3)),
        atomic_numbers=np.concatenate(cells),
        properties=np.zeros((len(cells), 1)),
        property_names=(NAME,),
        material_ids=np.array(ids),
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("TiO2", ((8, 2), (22, 1))),
        ("Ti2O4", ((8, 4), (22, 2))),
        ("O2Ti", ((8, 2), (22, 1))),
        ("Ca(OH)2", ((1, 2), (8, 2), (20, 1))),
        ("C", ((6, 1),)),
        ("Li10O5", ((3, 10), (8, 5))),
        ("HOH", ((1, 2), (8, 1))),
    ],
)
def test_a_formula_is_read_as_it_is_written(text, wanted):
    assert formula_counts(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TxO2", "'Tx' in 'TxO2' is not an element"),
        ("Xx2O", "'Xx' in 'Xx2O' is not an element"),
        ("tio2", "'tio2' is not a formula"),
        ("", "'' is not a formula"),
        ("Ti-O", "'Ti-O' is not a formula"),
        ("2TiO2", "not a formula"),
        ("Li0.5CoO2", "not whole.*Li2Co4O8"),
        ("TiO0", "not whole"),
        ("TiO1.999999999", "not whole"),
        ("Ti02", "begins with 0"),
        ("BaTi03", "oxygen is the letter O"),
        ("TiO2e1", "has an exponent"),
        ("CaSO4.2H2O", "water after a full stop"),
    ],
)
def test_what_is_no_whole_formula_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        formula_counts(text)


@pytest.mark.parametrize("cell", [[22, 8, 8, 22, 8, 8], [8, 8], [6], [2, 18], [56, 22, 8, 8, 8]])
def test_the_formula_of_a_cell_gives_its_atoms_back(cell):
    read = [number for number, count in formula_counts(cell_formula(cell)) for _ in range(count)]
    assert read == sorted(cell)
    assert cell_formula([22, 8, 8, 22, 8, 8]) == "Ti2O4"


def test_each_formula_has_as_many_crystals(model):
    request = resolve(model, "m", num=3, formula=" TiO2, LiMnO2", formula_units="1")
    assert request.num == 6
    assert request.num_each == 3
    assert [each.formula for each in request.formulas] == ["TiO2", "LiMnO2"]
    assert [each.formula_units for each in request.formulas] == [1, 1]
    drawn = resolve(model, "m", num=3, formula="TiO2")
    assert drawn.formula_units == "auto"
    assert drawn.formulas == (FormulaRequest("TiO2"),)
    assert drawn == resolve(model, "m", num=3, formula="TiO2", formula_units="auto")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"formula": "TxO2"}, "--formula: 'Tx' in 'TxO2' is not an element"),
        ({"formula": "TiO2,"}, "--formula: '' is not a formula"),
        ({"formula": "Li0.5CoO2"}, "--formula: 'Li0.5CoO2' has an amount that is not whole"),
        ({"formula": "RnO2"}, "--formula: RnO2 has Rn, and the model only knows Li,O"),
        ({"formula": "Ti20O40"}, "--formula: no cell of Ti20O40 fits the model.* 2 to 20 atoms"),
        (
            {"formula": "TiO2", "formula_units": "9"},
            "--formula: 9 of TiO2 in a cell are 27 atoms, and the model only knows cells of 2 to",
        ),
        ({"formula": "TiO2", "formula_units": "0"}, "--formula_units=0 must be auto, or how many"),
        ({"formula": "TiO2", "formula_units": "x"}, "--formula_units=x must be auto"),
        ({"formula": "TiO2", "formula_units": "1.5"}, "--formula_units=1.5 must be auto"),
        ({"formula_units": "2"}, "--formula_units .* --formula.* give both"),
        ({"formula": "TiO2", "like": "mp20:test"}, "--formula and --like exclude each other"),
        ({"formula": "TiO2", "elements": "Ti,O"}, "--formula and --elements exclude"),
        ({"formula": "TiO2", "chemical_system": "Ti-O"}, "--formula and --chemical_system excl"),
        ({"formula": "TiO2", "charge_balance": True}, "--formula and --charge_balance exclude"),
        ({"formula": "TiO2", "num_atoms": 3}, "--formula and --num_atoms .* --formula_units"),
        ({"like": "mp20:test", "elements": "Ti,O"}, "--like and --elements exclude"),
        ({"like": "mp20:test", "num_atoms": 3}, "--like and --num_atoms exclude"),
        ({"like": "mp20:test", "formula_units": "1"}, "--like and --formula_units exclude"),
        ({"like": "mp20"}, "--like=mp20: the splits of mp20 are train, val, test"),
        ({"like": "mp20:tset"}, "--like=mp20:tset: the splits of mp20 are train, val, test"),
        ({"like": "mp21:test"}, "--like=mp21:test must be DATASET:SPLIT.*did you mean mp20"),
        ({"like": "mp20:test:0"}, "--like=mp20:test:0: give at least one row"),
        ({"like": ""}, "--like= must be DATASET:SPLIT"),
        ({"like": "missing.csv"}, "missing.csv is not a .csv"),
        ({"formula": "missing.csv"}, "missing.csv cannot be read"),
        (
            {"formula": "TiO2,VO2", "num": 600_000},
            "--num=600000 .* 2 formulas are more than 1,000,000",
        ),
        ({"formula": "TiO2", "num": 0}, "--num=0 must be"),
        ({"formula": "TiO2", "start": "data"}, "--start=data must be noise, template or"),
        ({"formula": "TiO2", "start": "template:"}, "--start=template: must be noise, template or"),
        ({"formula": "TiO2", "start": "template:0"}, "from 1 to 50"),
        ({"formula": "TiO2", "start": "template:51"}, "from 1 to 50"),
    ],
)
def test_each_mistake_is_one_sentence_with_its_flag(model, asked, message):
    with pytest.raises(UserError, match=message):
        resolve(model, "m", **{"num": 2, **asked})


@pytest.mark.parametrize("asked", [{"formula": "TiO2"}, {"like": "mp20:test"}])
def test_a_model_that_knows_no_formulas_refuses_them_and_names_those_that_do(tiny_model, asked):
    with pytest.raises(UserError, match=r"--(formula|like): mine never .*carbon24_cdi") as refused:
        resolve(tiny_model, "mine", num=2, **asked)
    assert f"--{next(iter(asked))}: " in str(refused.value)


def test_a_model_knows_formulas_if_it_was_trained_to_or_knows_one_element(tiny_model, model):
    assert not tiny_model.predicts
    assert model.predicts
    carbon = dataclasses.replace(tiny_model.statistics, vocabulary=(6,))
    assert dataclasses.replace(tiny_model, statistics=carbon).predicts


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_the_probability_of_given_species_is_one(probability):
    with pytest.raises(ValueError, match="species_given"):
        LossConfig(species_given=probability)


def test_charges_need_not_balance_in_what_was_asked_for(model):
    request = resolve(model, "m", num=1, formula="TiO", formula_units="1")
    assert warnings(request, model) == []
    (cell,) = compositions(request, model) or []
    assert cell.tolist() == [8, 22]


def test_a_table_gives_each_formula_its_size_id_and_targets(tmp_path, model, caplog):
    path = write_csv(
        tmp_path / "wanted.csv",
        ["material_id", "formula", "num_atoms", NAME],
        ["mp-1", "TiO2", 12, 0.9],
        ["17", "SrTiO3", "", "0.8:1"],
        ["x", "LiMnO2", "NaN", ""],
    )
    request = resolve(model, "m", num=2, formula=str(path), seed=5)
    one, two, three = request.formulas
    assert one == FormulaRequest("TiO2", 4, "mp-1", {NAME: (0.9, 0.9)})
    assert two == FormulaRequest("SrTiO3", 0, "17", {NAME: (0.8, 1.0)})
    assert three == FormulaRequest("LiMnO2", 0, "x")
    assert request.material_ids == ["mp-1", "mp-1", "17", "17", "x", "x"]
    values = request.values()[NAME]
    uniform = np.random.default_rng([5, *NAME.encode()]).uniform(0.8, 1.0, 6)
    np.testing.assert_array_equal(values, [0.9, 0.9, *uniform[2:4], np.nan, np.nan])
    assert caplog.text == ""
    cells = compositions(request, model)
    assert cells is not None
    assert [len(cell) for cell in cells[:2]] == [12, 12]


def test_a_column_that_is_not_used_is_named(tmp_path, model, caplog):
    path = write_csv(tmp_path / "a.csv", ["formula", "gap", "cif"], ["TiO2", 1, "x"])
    assert resolve(model, "m", num=1, formula=str(path)).formulas == (FormulaRequest("TiO2"),)
    assert "a.csv: columns not used: gap, cif" in caplog.text
    assert NAME in caplog.text


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["Formula", "a"], [["TiO2", 1]], "no column formula, only Formula, a; did you mean"),
        (["formula"], [], "no row with a formula"),
        (["formula"], [["TiO2"], ["TxO2"]], "t.csv, row 2: 'Tx' in 'TxO2' is not an element"),
        (["formula"], [["Li0.5CoO2"]], "t.csv, row 1: 'Li0.5CoO2' has an amount"),
        (["formula"], [["RnO2"]], "t.csv, row 1: RnO2 has Rn"),
        (["formula"], [["TiO2", "x"]], "row 1 has more cells"),
        (["formula", "num_atoms"], [["TiO2", 4]], "row 1: num_atoms=4 must be a multiple of the 3"),
        (["formula", "num_atoms"], [["TiO2", "six"]], "row 1: num_atoms=six must be"),
        (["formula", "num_atoms"], [["TxO2", 6]], "row 1: 'Tx' in"),
        (["formula", "num_atoms"], [["TiO2", 21]], "row 1: 7 of TiO2 in a cell are 21 atoms"),
        (["formula", NAME], [["TiO2", "high"]], f"row 1, {NAME}: 'high' is not a number"),
        (["formula", "material_id"], [["TiO2", "a"], ["VO2", ""]], "row 2 has no material_id"),
        (["formula", "material_id"], [["TiO2", 201 * "a"]], "row 1: material_id is longer"),
    ],
)
def test_a_table_that_cannot_be_used_names_file_and_row(tmp_path, model, header, rows, message):
    path = write_csv(tmp_path / "t.csv", header, *rows)
    with pytest.raises(UserError, match=message):
        resolve(model, "m", num=1, formula=str(path))


def test_flags_that_contradict_a_column_are_refused(tmp_path, model):
    path = str(write_csv(tmp_path / "t.csv", ["formula", "num_atoms", NAME], ["TiO2", 6, 0.9]))
    with pytest.raises(UserError, match=r"row 1 has a num_atoms, which --formula_units=2"):
        resolve(model, "m", num=1, formula=path, formula_units="2")
    with pytest.raises(UserError, match=f"--target requests {NAME}, and so does a column"):
        resolve(model, "m", num=1, formula=path, target="min")
    assert resolve(model, "m", num=1, formula=path, guidance=1.0).guidance == 1.0
    with pytest.raises(UserError, match="--guidance steers"):
        resolve(model, "m", num=1, formula="TiO2", guidance=1.0)


def test_a_model_trained_without_hidden_properties_needs_the_target_of_each_row(tmp_path, model):
    loss = dataclasses.replace(model.config.loss, condition_dropout=0.0)
    config = dataclasses.replace(model.config, loss=loss)
    model = dataclasses.replace(model, config=config)
    header = ["formula", NAME]
    full = write_csv(tmp_path / "full.csv", header, ["TiO2", 0.9], ["VO2", 0.8])
    gaps = write_csv(tmp_path / "gaps.csv", header, ["TiO2", 0.9], ["VO2", ""])
    assert resolve(model, "m", num=1, formula=str(full)).num == 2
    with pytest.raises(UserError, match="condition_dropout=0"):
        resolve(model, "m", num=1, formula=str(gaps))


def test_targets_of_rows_outside_the_training_range_are_warned_of(tmp_path, model):
    rows = [["TiO2", value] for value in (0.9, *range(50, 58), 50)]
    path = write_csv(tmp_path / "t.csv", ["formula", NAME], *rows)
    sentences = warnings(resolve(model, "m", num=1, formula=str(path)), model)
    assert len(sentences) == 6
    assert f"{NAME}=50 is outside the training range" in sentences[0]
    assert sentences[-1] == "the same for 3 more targets"


CELLS = [
    [22, 8, 8],
    [25, 3, 8, 8],
    [56, 22, 8, 8, 8],
    [22, 8, 8, 22, 8, 8],
    [86, 8],
    7 * [56, 8, 8],
]


def test_like_takes_compositions_sizes_and_ids_of_the_chosen_rows(model, monkeypatch, caplog):
    asked = []

    def load(config, splits):
        asked.append((config.name, *splits))
        return {splits[0]: dataset(CELLS, ["a", "b", "c", "d", "radon", "large"])}

    monkeypatch.setattr(module, "load", load)
    request = resolve(model, "m", num=2, like="perov5:test")
    assert asked == [("perov5", "test")]
    assert [each.formula for each in request.formulas] == ["TiO2", "LiMnO2", "BaTiO3", "Ti2O4"]
    assert {each.formula_units for each in request.formulas} == {1}
    assert request.material_ids == ["a", "a", "b", "b", "c", "c", "d", "d"]
    cells = compositions(request, model)
    assert cells is not None
    assert [cell.tolist() for cell in cells] == [
        sorted(cell) for cell in CELLS[:4] for _ in range(2)
    ]
    assert request.target == {}
    assert "2 of 6 crystals do not fit the model and are left out: radon (" in caplog.text
    with pytest.raises(UserError, match=r"^--like=perov5:test:99 has only \d+ rows"):
        resolve(model, "m", num=1, like="perov5:test:99")
    some = resolve(model, "m", num=1, like="perov5:test:3")
    wanted = ["abcd"[row] for row in chosen_rows(6, 3) if row < 4]
    assert some.material_ids == wanted


def test_like_reads_a_csv_of_crystals(tmp_path, model, monkeypatch):
    path = write_csv(tmp_path / "own.csv", ["material_id", "cif"], ["1", "x"])
    monkeypatch.setattr(module, "load_table", lambda place: dataset(CELLS[:2], [place.name, "b"]))
    both = resolve(model, "m", num=1, like=str(path))
    assert sorted(both.material_ids) == ["b", "own.csv"]
    one = resolve(model, "m", num=1, like=f"{path}:1")
    assert len(one.formulas) == 1
    monkeypatch.setattr(module, "load_table", lambda place: dataset(CELLS[4:5], ["radon"]))
    with pytest.raises(UserError, match=r"no crystal fits the model, for example radon \(RnO"):
        resolve(model, "m", num=1, like=str(path))


def test_too_many_formulas_are_refused(model, monkeypatch):
    monkeypatch.setattr(module, "_MAX_FORMULAS", 2)
    assert resolve(model, "m", num=1, formula="TiO2,VO2").num == 2
    with pytest.raises(UserError, match="3 formulas are more than one request takes, 2"):
        resolve(model, "m", num=1, formula="TiO2,VO2,CrO2")


def test_a_start_is_a_time_of_the_diffusion(model):
    def time(start):
        return resolve(model, "m", num=1, formula="TiO2", start=start).start_time

    assert time(None) == 0
    assert time("template:17") == 17
    assert time("template") == model.config.noise.num_steps < TEMPLATE_START_TIME
    noise = dataclasses.replace(model.config.noise, num_steps=1000)
    config = dataclasses.replace(model.config, noise=noise)
    long = dataclasses.replace(model, config=config)
    request = resolve(long, "m", num=1, formula="TiO2", start="template", num_steps=10)
    assert request.start_time == TEMPLATE_START_TIME


def test_a_start_needs_the_training_crystals(tiny_model):
    with pytest.raises(UserError, match=r"^--start=template: m came without its training crystals"):
        resolve(knowing(tiny_model, TABLE), "m", num=1, formula="TiO2", start="template")


@pytest.mark.parametrize(
    "asked",
    [
        {"formula": "TiO2,LiMnO2", "formula_units": "2", "target": "min", "guidance": 0.5},
        {"formula": "TiO2", "start": "template:30"},
        {"formula": "TiO2", "start": "template"},
        {"formula": "the table.csv"},
        {"like": "perov5:test:2", "num": 1},
        {"chemical_system": "Li-Mn-O"},
    ],
)
def test_the_command_of_a_request_repeats_it(tmp_path, model, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("the table.csv"), ["formula", "material_id", NAME], ["TiO2", "7", 0.9])
    found = {"test": dataset(CELLS[:3], ["a", "b", "c"])}
    monkeypatch.setattr(module, "load", lambda config, splits: found)
    request = resolve(model, "my model", **{"num": 3, "seed": 7, **asked})
    flags = sample.parser().parse_args(shlex.split(request.command(Path("an out")))[2:])
    assert resolve(model, str(flags.model), **requested(flags)) == request
    text = msgspec.json.encode(request)
    assert msgspec.json.decode(text, type=Request) == request


def test_requests_of_older_folders_are_read():
    request = Request("m", "ab", {"gap": (0.0, 1.5)}, 3, 0, 0.0, "ancestral", 50, 1e-6, 0)
    stored = msgspec.to_builtins(request)
    for name in ("formulas", "formula", "formula_units", "like", "start_time"):
        del stored[name]
    assert msgspec.convert(stored, Request) == request
    assert request.material_ids == []
    np.testing.assert_array_equal(
        request.values()["gap"], np.random.default_rng([0, *b"gap"]).uniform(0.0, 1.5, 3)
    )


def test_a_request_has_as_many_crystals_of_each_formula():
    formulas = (FormulaRequest("TiO2"), FormulaRequest("VO2"))
    with pytest.raises(ValueError, match="num=3 is no multiple of 2 formulas"):
        Request("m", "", {}, 3, 0, 0.0, "ancestral", 50, 1e-6, 0, formulas=formulas)


def test_a_difference_of_many_formulas_is_one_short_line():
    plain = Request("m", "", {}, 100, 0, 0.0, "ancestral", 50, 1e-6, 0)
    many = dataclasses.replace(plain, formulas=tuple(FormulaRequest("TiO2") for _ in range(100)))
    (difference,) = many.differences(plain)
    assert difference.startswith("formulas (there []")
    assert len(difference) < 400


def test_a_size_that_pandas_wrote_as_a_float_is_whole(tmp_path, model):
    rows = [["TiO2", "6.0"], ["VO2", ""], ["CrO2", "12."]]
    path = write_csv(tmp_path / "t.csv", ["formula", "num_atoms"], *rows)
    request = resolve(model, "m", num=1, formula=str(path))
    assert [each.formula_units for each in request.formulas] == [2, 0, 4]


@pytest.mark.parametrize("size", ["6.5", "6.05", "-6", "6e0", "inf", "6.0.0", "\u0666"])
def test_a_size_that_is_no_whole_number_is_refused(tmp_path, model, size):
    path = write_csv(tmp_path / "t.csv", ["formula", "num_atoms"], ["TiO2", size])
    with pytest.raises(UserError, match=r"row 1: num_atoms=.* must be a multiple of the 3 atoms"):
        resolve(model, "m", num=1, formula=str(path))


def test_a_model_that_was_always_given_the_formula_cannot_choose_one(model):
    loss = dataclasses.replace(model.config.loss, species_given=1.0)
    always = dataclasses.replace(model, config=dataclasses.replace(model.config, loss=loss))
    free: list[dict[str, Any]] = [{}, {"elements": "Ti,O"}, {"target": "min"}]
    for asked in free:
        with pytest.raises(UserError, match=r"^m was only trained with .*give --formula, --like"):
            resolve(always, "m", num=1, **asked)
    assert resolve(always, "m", num=1, formula="TiO2").num == 1
    assert resolve(always, "m", num=1, chemical_system="Ti-O").num == 1


@pytest.mark.parametrize("asked", [{"formula": "TiO2"}, {"chemical_system": "Ti-O"}])
def test_the_default_solver_by_its_name_has_the_same_settings(model, asked):
    noise = dataclasses.replace(model.config.noise, num_steps=1000)
    long = dataclasses.replace(model, config=dataclasses.replace(model.config, noise=noise))
    default = resolve(long, "m", num=1, **asked)
    assert (default.solver, default.num_steps) == (SECOND_ORDER, 100)
    assert (default.renoising_steps, default.corrector_step_size) == (5, 0.0)
    assert resolve(long, "m", num=1, solver=SECOND_ORDER, **asked) == default
    paper = resolve(long, "m", num=1, solver=ANCESTRAL, **asked)
    assert (paper.num_steps, paper.renoising_steps) == (1000, 0)
    free = resolve(long, "m", num=1, solver=SECOND_ORDER)
    assert (free.num_steps, free.renoising_steps) == (50, 0)
