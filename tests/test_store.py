"""samples.db and what is exported from it: whole batches, exact numbers, resumed after a kill."""

import contextlib
import csv
import dataclasses
import os
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.io.cif import CifParser

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import FormulaRequest, Request, SampledBatch, Trajectory
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.structures.export import summary
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.samples_reader import (
    read_material_ids,
    read_request,
    read_samples,
    read_values,
)
from crystal_diffusion_jax.structures.store import Samples, add_columns

REQUEST = Request(
    model="runs/perov5/model",
    model_sha256="ab" * 32,
    target={"formation_energy": (-1.25, -1.25)},
    num=8,
    seed=3,
    guidance=0.0,
    solver="ancestral",
    num_steps=1000,
    corrector_step_size=1e-6,
    renoising_steps=0,
)
PEROVSKITE = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])

Crystal = tuple[np.ndarray, np.ndarray, np.ndarray]


def crystal(index: int) -> Crystal:
    """Lattice, coordinates and atomic numbers that depend on the index alone, as the sampler's."""
    rng = np.random.default_rng(index)
    lattice = 4.0 * np.eye(3) + rng.normal(scale=0.3, size=(3, 3))
    if index % 2:
        lattice = lattice * [1, 1, -1]  # left-handed
    return lattice, PEROVSKITE + rng.normal(scale=0.02, size=(5, 3)), np.array([56, 22, 8, 8, 8])


def defective(index: int) -> Crystal:
    """Like `crystal`, with numbers 1 and 4 not finite and number 6 flat."""
    lattice, frac_coords, atomic_numbers = crystal(index)
    if index in (1, 4):
        lattice[0, 0] = np.nan
    if index == 6:
        lattice[2] = lattice[0] + lattice[1]
    return lattice, frac_coords, atomic_numbers


def batch(indices: Sequence[int], sample: Callable[[int], Crystal] = crystal) -> SampledBatch:
    """A batch of crystals without the states before them."""
    one = [sample(index) for index in indices]
    states = [Trajectory(np.zeros(1, int), *(array[None] for array in each)) for each in one]
    return SampledBatch(indices, states, seconds=0.5, calls_per_crystal=10)


def finish(out: Path, request: Request = REQUEST, sample: Callable[..., Crystal] = crystal) -> None:
    """Does what the sampling command does, in batches of three."""
    samples = Samples(out, request)
    while remaining := samples.remaining():
        samples.add(batch(remaining[:3], sample))
    samples.export()


def content(out: Path) -> dict[str, bytes]:
    """All files but the database, which holds times of writing."""
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    files.pop("samples.db", None)
    return files


def stored(out: Path) -> dict[int, Structure | str]:
    """What the database holds, by index."""
    return dict(enumerate(read_samples(out / "samples.db")))


def table(out: Path) -> list[dict[str, str]]:
    with (out / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_finished_folder_holds_the_database_a_cif_per_crystal_extxyz_and_csv(tmp_path):
    out = tmp_path / "new" / "samples"
    finish(out)
    names = [f"cif/{index:05d}_BaTiO3.cif" for index in range(8)]
    assert sorted(content(out)) == sorted([*names, "samples.csv", "samples.extxyz"])
    found = read_request(out)
    assert found is not None
    assert found == read_request(out / "samples.db")
    assert found.request == REQUEST
    assert found.versions.keys() == {"crystal_diffusion_jax", "jax", "pymatgen", "spglib"}
    samples = Samples(out, REQUEST)
    assert samples.counts() == (8, 0)
    assert samples.cost() == (1.5, 10)  # three batches


def test_crystals_from_elsewhere_have_no_request(tmp_path):
    assert read_request(tmp_path) is None
    assert read_request(tmp_path / "some.cif") is None


def test_stored_numbers_are_the_sampled_ones_in_full_precision(tmp_path):
    finish(tmp_path)
    for index, structure in stored(tmp_path).items():
        lattice, frac_coords, atomic_numbers = crystal(index)
        assert isinstance(structure, Structure)
        cell = structure.lattice.matrix
        np.testing.assert_allclose(cell @ cell.T, lattice @ lattice.T, rtol=1e-12)
        np.testing.assert_array_equal(structure.frac_coords, frac_coords % 1.0)
        assert structure.atomic_numbers == tuple(atomic_numbers)
        assert np.linalg.det(cell) > 0  # half of the sampled cells were left-handed


def test_pymatgen_and_ase_read_the_exported_crystals(tmp_path):
    finish(tmp_path, dataclasses.replace(REQUEST, symprec=0.0))
    frames = ase.io.read(tmp_path / "samples.extxyz", index=":")
    rows = table(tmp_path)
    for index, (frame, row) in enumerate(zip(frames, rows, strict=True)):
        structure = stored(tmp_path)[index]
        assert isinstance(structure, Structure)
        assert frame.info["index"] == int(row["index"]) == index
        assert frame.info["target_formation_energy"] == -1.25
        assert frame.get_chemical_symbols() == ["Ba", "Ti", "O", "O", "O"]
        np.testing.assert_allclose(frame.cell.array, structure.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(frame.positions, structure.cart_coords, atol=1e-7)

        assert row["formula"] == "BaTiO3"
        assert float(row["target_formation_energy"]) == -1.25
        names = ("a", "b", "c", "alpha", "beta", "gamma")
        np.testing.assert_allclose(
            [float(row[name]) for name in names], structure.lattice.parameters
        )
        np.testing.assert_allclose(float(row["volume"]), structure.volume)
        distances = frame.get_all_distances(mic=True)[np.triu_indices(5, k=1)]
        np.testing.assert_allclose(float(row["min_distance"]), distances.min(), atol=1e-6)

        (read,) = CifParser(tmp_path / row["cif"]).parse_structures(primitive=False)
        assert [site.species_string for site in read] == ["Ba", "Ti", "O", "O", "O"]
        np.testing.assert_allclose(read.lattice.matrix, structure.lattice.matrix, atol=1e-6)
        np.testing.assert_allclose(read.frac_coords, structure.frac_coords, atol=1e-7)


def test_ase_db_selects_crystals_by_what_was_requested(tmp_path):
    request = dataclasses.replace(REQUEST, target={"gap (eV)": (1.0, 3.0), "density": (2.0, 2.0)})
    finish(tmp_path, request)
    gaps = request.values()["gap (eV)"]
    with ase.db.connect(tmp_path / "samples.db") as database:
        found = [row.index for row in database.select("target_gap__eV_>2,target_density=2")]
        assert sorted(found) == np.flatnonzero(gaps > 2).tolist()
        assert database.count("Ba,Ti") == 8


def test_defective_crystals_are_counted_by_reason_and_never_exported(tmp_path):
    finish(tmp_path, sample=defective)
    samples = Samples(tmp_path, REQUEST)
    assert samples.counts() == (5, 3)
    assert samples.reasons() == {"non-finite numbers": 2, "volume below 0.1 A^3": 1}
    assert samples.remaining() == []
    found = stored(tmp_path)
    assert {index for index, x in found.items() if isinstance(x, str)} == {1, 4, 6}
    assert found[6] == "rejected when sampled: volume below 0.1 A^3"
    written = [0, 2, 3, 5, 7]
    assert sorted(int(path.name[:5]) for path in (tmp_path / "cif").iterdir()) == written
    frames = ase.io.read(tmp_path / "samples.extxyz", index=":")
    assert [frame.info["index"] for frame in frames] == written
    assert [int(row["index"]) for row in table(tmp_path)] == written


@pytest.mark.parametrize(("elements", "rejected"), [(("Ba", "O", "Ti"), 0), (("Ba", "O", "S"), 1)])
def test_a_crystal_with_fewer_elements_than_its_chemical_system_is_rejected(
    tmp_path, elements, rejected
):
    def few(index: int) -> Crystal:
        lattice, frac_coords, numbers = crystal(index)
        if rejected:
            numbers[1] = 8  # of the elements that may appear, barium and oxygen do
        return lattice, frac_coords, numbers

    samples = Samples(tmp_path, dataclasses.replace(REQUEST, chemical_system=elements))
    samples.add(batch([0], few))
    assert list(samples.reasons()) == rejected * ["lacks an element of the chemical system"]


def test_a_single_atom_has_no_minimum_distance(tmp_path):
    samples = Samples(tmp_path, REQUEST)
    samples.add(batch([0], lambda _: (4.0 * np.eye(3), np.zeros((1, 3)), np.array([6]))))
    samples.export()
    (row,) = table(tmp_path)
    assert row["min_distance"] == ""


def test_the_order_of_batches_does_not_matter(tmp_path):
    finish(tmp_path / "forward", sample=defective)
    backward = Samples(tmp_path / "backward", REQUEST)
    for indices in ([7, 2], [6, 0, 4], [5, 3, 1]):
        backward.add(batch(indices, defective))
    backward.export()
    assert content(tmp_path / "forward") == content(tmp_path / "backward")
    assert stored(tmp_path / "forward") == stored(tmp_path / "backward")


def test_a_kill_at_any_write_of_the_database_leaves_whole_batches(tmp_path):
    """A child process for each system call that changes the database, killed right before it."""
    finish(tmp_path / "undisturbed", sample=defective)
    undisturbed = content(tmp_path / "undisturbed")
    moments, seen = 0, set()
    while True:
        out = tmp_path / f"killed_{moments}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of jax, which the child does not use
            child = os.fork()
        if child == 0:
            kill_in_statement(out, moments)
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 1:
            break
        assert status == -9
        remaining = Samples(out, REQUEST).remaining()
        assert remaining in ([*range(8)], [*range(3, 8)], [6, 7], [])
        seen.add(len(remaining))
        finish(out, sample=defective)
        assert content(out) == undisturbed
        assert Samples(out, REQUEST).cost() == (1.5, 10)
        moments += 7
    assert seen >= {8, 5, 2}


def kill_in_statement(out: Path, moment: int) -> None:
    """Finishes the folder, but ends this process before its `moment`-th SQL statement."""
    connect = sqlite3.connect
    count = 0

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)

        def die(statement: str) -> None:
            nonlocal count
            if count == moment:
                os.kill(os.getpid(), 9)
            count += 1

        connection.set_trace_callback(die)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    finish(out, sample=defective)


def test_an_exception_within_a_batch_leaves_nothing_of_it(tmp_path):
    def interrupted(index: int) -> Crystal:
        lattice, frac_coords, _ = crystal(index)
        return lattice, frac_coords, np.array([0, 0, 0, 0, 0])  # no elements

    samples = Samples(tmp_path, REQUEST)
    good = batch([0, 1])
    bad = batch([2], interrupted)
    mixed = SampledBatch([0, 1, 2], [*good.trajectories, *bad.trajectories], 0.5, 10)
    with pytest.raises(ValueError, match="atomic number"):
        samples.add(mixed)
    assert samples.remaining() == list(range(8))
    assert samples.cost() == (0.0, 0)


def test_a_resumed_folder_asks_only_for_what_is_missing_and_adds_up_the_cost(tmp_path):
    Samples(tmp_path, REQUEST).add(batch([0, 1, 4], defective))
    resumed = Samples(tmp_path, REQUEST)
    assert resumed.remaining() == [2, 3, 5, 6, 7]
    resumed.add(batch([2, 3]))
    assert resumed.cost() == (1.0, 10)


def test_exporting_again_restores_missing_files_and_spares_the_users_own(tmp_path):
    finish(tmp_path)
    before = content(tmp_path)
    (tmp_path / "cif/00002_BaTiO3.cif").unlink()
    (tmp_path / "samples.extxyz").unlink()
    (tmp_path / "samples.csv").write_text("half a ta")
    (tmp_path / "cif/favourites.cif").write_text("mine")
    finish(tmp_path)
    assert content(tmp_path) == before | {"cif/favourites.cif": b"mine"}


def test_columns_can_be_added_replaced_and_cleared(tmp_path):
    finish(tmp_path, sample=defective)
    values = [0.5 * index for index in range(8)]
    add_columns(tmp_path, {"predicted": values, "valid": [index > 2 for index in range(8)]})
    add_columns(
        tmp_path / "samples.db",
        {"predicted": [None, *values[1:3], np.nan, *np.array(values[4:]) + 1], "why": ["x"] * 8},
    )
    rows = table(tmp_path)
    assert list(rows[0])[-4:] == ["target_formation_energy", "predicted", "valid", "why"]
    written = [0, 2, 3, 5, 7]
    assert [row["predicted"] for row in rows] == ["", "1.0", "", "3.5", "4.5"]
    assert [row["valid"] for row in rows] == [str(index > 2) for index in written]
    assert {row["why"] for row in rows} == {"x"}
    before = (tmp_path / "samples.csv").read_bytes()
    finish(tmp_path)
    assert (tmp_path / "samples.csv").read_bytes() == before


def test_a_folder_in_use_gets_no_columns_and_scoring_goes_on(tmp_path, capsys):
    finish(tmp_path)
    before = table(tmp_path)
    with exclusive(tmp_path, "--out", print):
        with pytest.raises(UserError, match="is in use by process"):
            add_columns(tmp_path, {"valid": [True] * 8})
        program.add_to_samples(tmp_path, {"valid": [True] * 8})
    assert f"note: valid not added to {tmp_path}: " in capsys.readouterr().out
    finish(tmp_path)
    assert table(tmp_path) == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW v AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
        "SELECT n FROM r",
        "CREATE TRIGGER t AFTER UPDATE ON systems BEGIN DELETE FROM systems; END",
    ],
)
def test_a_database_that_can_run_code_is_refused(tmp_path, statement):
    finish(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "samples.db")) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(UserError, match="holds views or triggers"):
        read_samples(tmp_path / "samples.db")


def test_a_database_of_a_run_killed_at_its_start_says_nothing_yet(tmp_path):
    (tmp_path / "samples.db").touch()
    assert read_request(tmp_path) is None
    finish(tmp_path)
    stored = read_request(tmp_path)
    assert stored is not None
    assert stored.request == REQUEST


def test_another_request_is_refused_with_both_values_and_the_way_out(tmp_path):
    finish(tmp_path)
    before = content(tmp_path)
    other = dataclasses.replace(REQUEST, seed=4, target={"formation_energy": (-2.0, -1.0)})
    with pytest.raises(UserError) as error:
        Samples(tmp_path, other)
    message = str(error.value)
    assert "seed (there 3, now 4)" in message
    assert (
        'target (there {"formation_energy":[-1.25,-1.25]}, now {"formation_energy":[-2.0,-1.0]})'
        in message
    )
    assert "guidance" not in message
    assert "another --out, or remove the folder" in message
    assert content(tmp_path) == before


def test_the_same_model_may_have_moved_but_another_one_is_refused(tmp_path):
    Samples(tmp_path, REQUEST)
    Samples(tmp_path, dataclasses.replace(REQUEST, model="/elsewhere/model"))
    with pytest.raises(UserError, match="model_sha256"):
        Samples(tmp_path, dataclasses.replace(REQUEST, model_sha256="cd" * 32))


@pytest.mark.parametrize("damage", ["half", "{", "other version", "a crystal", "an index twice"])
def test_a_damaged_database_is_refused_by_name(tmp_path, damage):
    finish(tmp_path)
    path = tmp_path / "samples.db"
    if damage in ("half", "{"):
        path.write_bytes(path.read_bytes()[:20_000] if damage == "half" else b"{" * 200)
    else:
        change = {
            "other version": "UPDATE information SET value = '{\"format_version\": 99}' "
            "WHERE name = 'metadata'",
            "a crystal": "UPDATE systems SET data = 'x' WHERE id = 3",
            "an index twice": "UPDATE number_key_values SET value = 1 WHERE key = 'index'",
        }[damage]
        with sqlite3.connect(path) as connection:
            connection.execute(change)
        connection.close()
    if damage == "a crystal":
        assert str(stored(tmp_path)[2]).startswith("unreadable entry")
    else:
        with pytest.raises(UserError, match=r"samples\.db is damaged, or was not written"):
            read_structures(tmp_path)
    if damage != "an index twice":
        with pytest.raises(UserError, match=r"samples\.db is damaged.*another --out, or remove"):
            Samples(tmp_path, REQUEST).export()


def test_a_database_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"other\.db is damaged, or was not written"):
        read_structures(path)
    assert path.read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "cif").mkdir()
    (tmp_path / "cif/00001_NaCl.cif").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and has no samples\.db"):
        Samples(tmp_path, REQUEST)
    with pytest.raises(UserError, match="cannot be created"):
        Samples(tmp_path / "cif/00001_NaCl.cif", REQUEST)
    assert content(tmp_path) == {"cif/00001_NaCl.cif": b"mine"}


def test_the_summary_counts_distances_compositions_and_volumes(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_text("formula,min_distance,volume,num_atoms\n")
    assert summary(path) == []
    with path.open("a") as file:
        file.write("BaTiO3,1.9,65.0,5\nBaTiO3,0.5,60.0,5\nC,,6.0,1\nLiF,0.49,20.0,2\n")
    assert summary(path) == [
        "no pair of atoms closer than 0.5 A: 3 of 4",
        "3 unique compositions; most common: BaTiO3 2, C 1, LiF 1",
        "volume per atom: median 12.0 A^3, 6.0 to 13.0",
    ]


def test_ids_that_look_like_numbers_are_exported_as_they_were_given(tmp_path):
    ids = ("007", "1e5", "mp-1", "True")
    formulas = tuple(FormulaRequest("BaTiO3", 1, own) for own in ids)
    finish(tmp_path / "out", dataclasses.replace(REQUEST, target={}, formulas=formulas))
    wanted = [own for own in ids for _ in range(2)]
    with (tmp_path / "out" / "samples.csv").open(newline="") as file:
        assert [row["material_id"] for row in csv.DictReader(file)] == wanted
    path = tmp_path / "out" / "samples.db"
    assert read_material_ids(path) == wanted
    assert [values["material_id"] for values in read_values(path).values()] == wanted
