"""Damaged input of every kind ends in a result or in one sentence that names it, never otherwise.

No traceback, no hang, and no crystal lost in silence. A few hundred cases of each kind here; ten
thousand under `make test-faults`.
"""

import contextlib
import csv
import gzip
import io
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags as absl_flags

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import sample, train
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import draw_values
from crystal_diffusion_jax.sampling.conditions import allowed_species
from crystal_diffusion_jax.sampling.parse import parse_elements, parse_target
from crystal_diffusion_jax.sampling.sizes import draw_num_atoms
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.conversion import to_ase, to_extxyz
from crystal_diffusion_jax.structures.reading import Inputs, read_structures
from tests import one_file, smoke_config
from tests.cif_cells import cell_of
from tests.mutations import NUMBERS, PIECES, Rng, mutated, mutated_tree
from tests.prepared_tables import read_whole
from tests.test_evaluation_inputs import crystal, sampled
from tests.test_trained_model import STATISTICS, made_up_model
from tests.time_limit import processor_time_limit

pytestmark = pytest.mark.parametrize(
    "num_cases", [150, pytest.param(10_000, marks=pytest.mark.faults)]
)
SECONDS = 10.0  # of processor time, for one case

CRYSTALS = [crystal(seed) for seed in range(3)]
CIFS = [to_cif(structure, symprec=0.0) for structure in CRYSTALS]
SYMMETRIC = """data_CsCl
_symmetry_space_group_name_H-M 'P m m m'
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs+ 0 0 0 1
Cl1 Cl- 0.5 0.5 0.5 1.0(1)
"""


def middle(statistics: DatasetStatistics) -> dict[str, np.ndarray]:
    """The mean of each property, for five crystals."""
    means = zip(statistics.property_names, statistics.property_mean, strict=True)
    return {name: np.full(5, mean) for name, mean in means}


def run(num_cases: int, case: Callable[[Rng], None]) -> int:
    """Runs cases, each within its time; how many of them ended with a sentence."""
    sentences: list[str] = []
    for seed in range(num_cases):
        try:
            with processor_time_limit(SECONDS):
                case(np.random.default_rng(seed))
        except UserError as error:
            sentences.append(str(error))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    for sentence in sentences:
        assert 10 < len(sentence) < 20_000  # the command line's own words come back
    return len(sentences)


@contextlib.contextmanager
def naming(part: str) -> Iterator[None]:
    """The sentence of a UserError within must hold `part`."""
    try:
        yield
    except UserError as error:
        if part not in str(error) or not str(error).isprintable():
            raise AssertionError(f"not printable or without {part}: {error!r}") from error
        raise


def check(inputs: Inputs, num: int) -> None:
    """Every crystal has its place, its name and, if it is none, its reason."""
    assert len(inputs.structures) == len(inputs.names) == num
    for index, structure in enumerate(inputs.structures):
        if structure is None:
            assert 0 < len(inputs.failures[index]) < 500
            assert inputs.failures[index].isprintable()
        else:
            assert index not in inputs.failures
            assert np.isfinite(structure.frac_coords).all()
            assert 0.1 <= structure.volume < np.inf


def table() -> bytes:
    text = io.StringIO()
    rows = [[f"m{i}", i / 3, cif] for i, cif in enumerate([*CIFS, SYMMETRIC])]
    csv.writer(text).writerows([["material_id", "energy", "cif"], *rows])
    return text.getvalue().encode()


def num_rows(content: bytes) -> int:
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    return sum(1 for row in csv.reader(text, strict=True) if row) - 1


def test_a_damaged_table_loses_no_row(num_cases: int, tmp_path: Path) -> None:
    good = table()

    def case(rng: Rng) -> None:
        packed = rng.integers(4) == 0
        content = gzip.compress(good, mtime=0) if packed else good
        content = mutated(content, rng)
        path = tmp_path / ("set.csv.gz" if packed else "set.csv")
        path.write_bytes(content)
        with naming(str(path)):
            prepared = read_whole(Source((path,)), ["energy"])
        assert np.isfinite(prepared.dataset.lattice).all()
        assert np.isfinite(prepared.dataset.properties).all()
        plain = gzip.decompress(content) if packed else content
        assert len(prepared.dataset) + len(prepared.bad_rows) == num_rows(plain)
        assert len({bad.row for bad in prepared.bad_rows}) == len(prepared.bad_rows)
        for bad in prepared.bad_rows:
            assert str(bad).startswith(f"{path.name} row {bad.row} (")
            assert str(bad).isprintable()
            assert len(str(bad)) < 1000

    assert 0 < run(num_cases, case) < num_cases


def test_a_damaged_table_of_generated_crystals_loses_no_row(num_cases: int, tmp_path: Path) -> None:
    good = table()

    def case(rng: Rng) -> None:
        content = mutated(good, rng)
        path = tmp_path / "set.csv"
        path.write_bytes(content)
        with naming(str(path)):
            inputs = read_structures(path)
        check(inputs, num_rows(content))

    assert 0 < run(num_cases, case) < num_cases


def test_a_damaged_cif_is_read_or_named(num_cases: int, tmp_path: Path) -> None:
    goods = [text.encode() for text in (*CIFS, SYMMETRIC)]
    path = tmp_path / "a.cif"

    def case(rng: Rng) -> None:
        content = mutated(goods[rng.integers(len(goods))], rng)
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            cell = cell_of(content.decode("utf-8", errors="replace"))
            assert np.isfinite(cell.lattice).all()
            assert np.linalg.det(cell.lattice) >= 0.09
            assert ((cell.frac_coords >= 0) & (cell.frac_coords < 1)).all()
            assert len(cell.frac_coords) == len(cell.atomic_numbers) > 0
        with naming(str(path)):
            check(read_structures(path), 1)

    assert run(num_cases, case) < num_cases


def num_frames(content: bytes) -> int:
    lines = io.StringIO(content.decode("utf-8", errors="replace"), newline=None).readlines()
    place = frames = 0
    while place < len(lines) and lines[place].strip():
        place += 2 + int(lines[place])
        frames += 1
    assert not "".join(lines[place:]).strip(), "frames after a blank line"
    return frames


def test_a_damaged_extxyz_loses_no_frame(num_cases: int, tmp_path: Path) -> None:
    good = to_extxyz([to_ase(one, index=i, model="m") for i, one in enumerate(CRYSTALS)]).encode()
    path = tmp_path / "set.extxyz"

    def case(rng: Rng) -> None:
        content = mutated(good, rng)
        path.write_bytes(content)
        with naming(str(path)):
            inputs = read_structures(path)
        check(inputs, num_frames(content))

    assert 0 < run(num_cases, case) < num_cases


# Those have the content of others under another name.
RENAMED = {"UPPER.CIF", "ase.xyz", "mp-1.POSCAR.gz", "compressed.json.gz"}


@pytest.mark.parametrize("name", sorted(set(one_file.WRITERS) - RENAMED))
def test_a_damaged_file_of_another_kind_is_read_or_named(
    num_cases: int, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    one_file.WRITERS[name](path, CRYSTALS[0])
    good = path.read_bytes()

    def case(rng: Rng) -> None:
        path.write_bytes(mutated(good, rng))
        with naming(str(path)):
            inputs = read_structures(path)
        check(inputs, len(inputs.structures))
        assert inputs.structures

    assert run(num_cases, case) < num_cases


def test_a_damaged_samples_db_loses_no_crystal(num_cases: int, tmp_path: Path) -> None:
    sampled(tmp_path, dict(zip((0, 2, 4), CRYSTALS, strict=True)) | {1: None})
    path = tmp_path / "samples.db"
    good = path.read_bytes()
    with sqlite3.connect(path) as connection:
        tables = {
            table: [column for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("systems", "number_key_values", "information", "rejected", "keys")
        }
    connection.close()

    def case(rng: Rng) -> None:
        path.write_bytes(good if rng.integers(2) else mutated(good, rng))
        if path.read_bytes() == good:
            table = list(tables)[rng.integers(len(tables))]
            column = tables[table][rng.integers(len(tables[table]))]
            with contextlib.suppress(sqlite3.IntegrityError), sqlite3.connect(path) as connection:
                rows = connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
                row, value = rows[rng.integers(len(rows))]
                raw = value if isinstance(value, bytes) else str(value).encode()
                changed: Any = mutated(raw, rng)
                if not isinstance(value, bytes):
                    changed = changed.decode("utf-8", errors="replace")
                connection.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, row)
                )
            connection.close()
        with naming(str(path)):
            inputs = read_structures(tmp_path)
        check(inputs, len(inputs.structures))
        missing = [i for i, why in inputs.failures.items() if "not sampled" in why]
        assert len(inputs.structures) - len(missing) == 4

    assert 0 < run(num_cases, case) < num_cases


def test_a_damaged_model_json_is_read_or_named(num_cases: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    trained_model.save(made_up_model(), folder)
    good = json.loads((folder / "model.json").read_text())

    def case(rng: Rng) -> None:
        match rng.integers(3):
            case 0:
                content = mutated(json.dumps(good, indent=1).encode(), rng)
            case 1:
                content = json.dumps(mutated_tree(good, rng), default=str).encode()
            case _:
                statistics = mutated_tree(good["statistics"], rng)
                content = json.dumps(good | {"statistics": statistics}, default=str).encode()
        (folder / "model.json").write_bytes(content)
        with naming(str(folder)):
            model = trained_model.load(folder)
        # What reading, printing and sampling do with it next.
        assert model.statistics.lattice_unit(np.array([1])) > 0
        assert len(draw_num_atoms(middle(model.statistics), 5, 0, None, model.statistics)) == 5
        assert allowed_species(None, model.statistics.vocabulary).all()
        trained_model.model_card(model)
        config_module.to_dict(model.config)

    assert 0 < run(num_cases, case) < num_cases


def test_a_damaged_config_is_read_or_its_field_named(num_cases: int) -> None:
    good = smoke_config.get_config().to_dict()

    def case(rng: Rng) -> None:
        config = config_module.from_dict(mutated_tree(good, rng))
        assert config_module.from_dict(config_module.to_dict(config)) is not None

    assert 0 < run(num_cases, case) < num_cases


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_overrides_on_the_command_line_of_training_are_taken_or_named(
    num_cases: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = smoke_config.get_config().to_dict()
    fields = [f"{name}.{field}" for name, part in values.items() if isinstance(part, dict)
              for field in part]  # fmt: skip
    base = ["train", "--config=tests/smoke_config.py", "--workdir=runs/x"]
    words = [*PIECES, "True", "False", "()", "('a',)", "[1]", "'x'"]

    def case(rng: Rng) -> None:
        argv = list(base)
        for _ in range(rng.integers(1, 4)):
            field = fields[rng.integers(len(fields))]
            if rng.integers(5) == 0:
                field = mutated(field.encode(), rng).decode("utf-8", errors="replace")
            argv.append(f"--config.{field}={words[rng.integers(len(words))]}")
        if rng.integers(5) == 0:
            argv[rng.integers(1, len(argv))] = words[rng.integers(len(words))]
        for name in list(absl_flags.FLAGS):
            if name.startswith("config."):
                delattr(absl_flags.FLAGS, name)
        absl_flags.FLAGS.unparse_flags()
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
        train.parse_flags(argv)
        config_module.from_dict(train._CONFIG.value.to_dict())

    try:
        assert 0 < run(num_cases, case) < num_cases
    finally:
        absl_flags.FLAGS.unparse_flags()


def test_values_on_the_command_line_of_sampling_are_taken_or_named(num_cases: int) -> None:
    known = [
        "--target",
        "--num",
        "--guidance",
        "--num_steps",
        "--corrector_step_size",
        "--seed",
        "--elements",
    ]
    known += ["--num_atoms", "--batch_size", "--symprec", "--solver", "--unknown"]
    words = ["min", "max", "none", "energy=min", "energy=1,gap=2", "gap=max,gap=1", "Ba,Ti,O"]
    words += ["Ba,,O", "o", "D", "second_order", *NUMBERS, *PIECES]

    def case(rng: Rng) -> None:
        argv = ["--model=m", "--out=o"]
        for _ in range(rng.integers(1, 5)):
            word = words[rng.integers(len(words))]
            if rng.integers(3) == 0:
                word = mutated(word.encode(), rng).decode("utf-8", errors="replace")
            argv.append(f"{known[rng.integers(len(known))]}={word}")
        flags = sample.parser().parse_args(argv)
        target = parse_target(flags.target, STATISTICS)
        assert np.isfinite([*target.values()]).all()
        elements = parse_elements(flags.elements, STATISTICS.vocabulary, "elements")
        assert allowed_species(elements, STATISTICS.vocabulary).any()
        sizes = draw_num_atoms(draw_values(target, 5, 0), 5, 0, flags.num_atoms, STATISTICS)
        assert set(sizes) <= {3, 5}

    assert 0 < run(num_cases, case) < num_cases
