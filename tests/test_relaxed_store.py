"""relaxed.db: what is stored is what is read, and only one set with one setting is in it."""

import dataclasses
import math
import sqlite3
from pathlib import Path

import ase.db
import numpy as np
import pytest
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import (
    Relaxation,
    RelaxedCrystal,
    RelaxSettings,
    failed,
)
from crystal_diffusion_jax.potentials.relaxed_database import RELAXED, UNFINISHED
from crystal_diffusion_jax.potentials.relaxed_store import (
    RelaxedStore,
    read_relaxed,
    read_settings,
)
from crystal_diffusion_jax.structures.reading import Inputs
from crystal_diffusion_jax.structures.store import Samples
from tests.relaxed_sets import metals
from tests.test_store import REQUEST

SETTINGS = RelaxSettings("chgnet", fmax=0.02)


def relaxed(inputs: Inputs, index: int) -> RelaxedCrystal:
    structure = inputs.structures[index]
    assert structure is not None
    smaller = structure.copy()
    smaller.scale_lattice(structure.volume * 0.9)
    outcome = Relaxation(
        structure=smaller,
        initial_energy_per_atom=-1.0 - index,
        energy_per_atom=-1.25 - index,
        steps=10 + index,
        converged=index % 2 == 0,
        magnetic_moments=np.array([0.25, np.nan, 1 / 3, index]),
        failure=None,
    )
    return RelaxedCrystal(inputs.names[index], outcome, 0.125, -0.1)


def without(inputs: Inputs, index: int) -> Inputs:
    """The same set with one crystal that cannot be read."""
    structures = [s if i != index else None for i, s in enumerate(inputs.structures)]
    return Inputs(structures, inputs.names, {index: "unparsable CIF"})


def assert_same(one: RelaxedCrystal, other: RelaxedCrystal) -> None:
    """Exactly, NaN equal to NaN."""
    for field in dataclasses.fields(Relaxation):
        values = (getattr(each.relaxation, field.name) for each in (one, other))
        np.testing.assert_equal(*values)
    for field in dataclasses.fields(RelaxedCrystal):
        if field.name != "relaxation":
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


def test_what_is_stored_is_read_in_full_precision(tmp_path: Path) -> None:
    inputs = without(metals(5), 3)
    store = RelaxedStore(tmp_path, inputs, SETTINGS)
    assert store.remaining() == [0, 1, 2, 4]
    failure = RelaxedCrystal(inputs.names[2], failed("exploded: it did", -0.5, steps=7))
    store.add([(4, relaxed(inputs, 4)), (0, relaxed(inputs, 0))])
    store.add([(2, failure)])
    assert store.remaining() == [1]
    assert read_settings(tmp_path) == SETTINGS
    found = read_relaxed(tmp_path, inputs)
    assert [one.name for one in found] == inputs.names
    assert_same(found[0], relaxed(inputs, 0))
    assert_same(found[2], failure)
    assert_same(found[4], relaxed(inputs, 4))
    assert found[1].relaxation.failure == UNFINISHED
    assert found[3].relaxation.failure == "unparsable CIF"


def test_columns_are_added_replaced_and_cleared(tmp_path: Path) -> None:
    inputs = metals(2)
    store = RelaxedStore(tmp_path, inputs, SETTINGS)
    store.add([(index, relaxed(inputs, index)) for index in range(2)])
    for energies, phases in (([0.1, 0.2], ["Cu (1.000)", ""]), ([math.nan, 0.3], ["", "NaN (1)"])):
        store.add_columns({"energy_above_hull": energies, "decomposition": phases})
        found = store.relaxed()
        np.testing.assert_equal([one.energy_above_hull for one in found], energies)
        assert [one.decomposition for one in found] == phases
        assert found[1].rmsd == 0.125


def test_ase_selects_relaxed_crystals_by_energy(tmp_path: Path) -> None:
    inputs = metals(3)
    RelaxedStore(tmp_path, inputs, SETTINGS).add([(i, relaxed(inputs, i)) for i in range(3)])
    with ase.db.connect(tmp_path / RELAXED) as db:
        (row,) = db.select("energy_per_atom<-3")
        assert row.index == 2
        assert row.converged
        structure = inputs.structures[2]
        assert structure is not None
        assert row.volume == pytest.approx(0.9 * structure.volume)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        (RelaxSettings(fmax=0.05), "fmax (there 0.02, now 0.05)"),
        (dataclasses.replace(SETTINGS, fixed_cell=True), "fixed_cell (there False, now True)"),
        (
            RelaxSettings("ase:a.B", max_steps=3, fmax=0.02),
            "potential (there chgnet, now ase:a.B), max_steps (there 500, now 3)",
        ),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, settings: RelaxSettings, difference: str
) -> None:
    RelaxedStore(tmp_path, metals(1), SETTINGS)
    with pytest.raises(UserError) as caught:
        RelaxedStore(tmp_path, metals(1), settings)
    assert str(caught.value) == (
        f"{tmp_path} holds crystals relaxed with other settings, which differ in {difference}: "
        "choose another --out, or remove the folder."
    )


def renamed(inputs: Inputs) -> Inputs:
    return Inputs(inputs.structures, [*inputs.names[:2], "other.cif"], {})


def moved(inputs: Inputs) -> Inputs:
    crystal = inputs.structures[2]
    assert crystal is not None
    other = Structure(crystal.lattice, crystal.species, crystal.frac_coords + 1e-12)
    return Inputs([*inputs.structures[:2], other], inputs.names, {})


def fewer(inputs: Inputs) -> Inputs:
    return Inputs(inputs.structures[:2], inputs.names[:2], {})


@pytest.mark.parametrize("change", [renamed, moved, fewer, lambda inputs: without(inputs, 2)])
def test_other_crystals_are_refused_by_name(tmp_path: Path, change) -> None:
    RelaxedStore(tmp_path, metals(3), SETTINGS)
    for attempt in (
        lambda: RelaxedStore(tmp_path, change(metals(3)), SETTINGS),
        lambda: read_relaxed(tmp_path, change(metals(3))),
    ):
        with pytest.raises(UserError, match=r"other crystals \(1 differ or are missing: m2\.cif\)"):
            attempt()
    assert len(read_relaxed(tmp_path, metals(3))) == 3


def test_a_set_may_grow(tmp_path: Path) -> None:
    few, many = without(metals(2), 0), metals(4)
    store = RelaxedStore(tmp_path, few, SETTINGS)
    store.add([(1, relaxed(few, 1))])
    assert RelaxedStore(tmp_path, many, SETTINGS).remaining() == [0, 2, 3]
    found = read_relaxed(tmp_path, many)
    assert_same(found[1], relaxed(many, 1))
    assert [one.relaxation.failure for one in found] == [UNFINISHED, None, UNFINISHED, UNFINISHED]


def test_crystals_that_came_after_relaxing_are_read_as_not_relaxed(tmp_path: Path) -> None:
    RelaxedStore(tmp_path, metals(1), SETTINGS).add([(0, relaxed(metals(1), 0))])
    now = without(metals(3), 1)
    found = read_relaxed(tmp_path, now)
    assert [one.name for one in found] == now.names
    assert [one.relaxation.failure for one in found] == [None, "unparsable CIF", UNFINISHED]


def test_crystals_that_could_not_be_read_may_go(tmp_path: Path) -> None:
    before, now = without(metals(3), 2), metals(2)
    RelaxedStore(tmp_path, before, SETTINGS).add([(0, relaxed(before, 0))])
    assert len(read_relaxed(tmp_path, now)) == 2
    store = RelaxedStore(tmp_path, now, SETTINGS)
    assert store.remaining() == [1]
    assert [one.name for one in store.relaxed()] == now.names


def damage_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)


def execute(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


DAMAGE = {
    "not a database": lambda path: path.write_text("hello"),
    "a page": damage_page,
    "a missing table": lambda path: execute(path, "DROP TABLE crystals"),
    "a view": lambda path: execute(path, "CREATE VIEW x AS SELECT 1"),
    "a crystal out of place": lambda path: execute(path, "UPDATE crystals SET crystal = 7"),
    "a failure of no crystal": lambda path: execute(
        path, "INSERT INTO failures VALUES (9, 'x', NULL, 0)"
    ),
    "steps in words": lambda path: execute(
        path, "INSERT INTO failures VALUES (0, 'x', NULL, 'few')"
    ),
    "endless steps": lambda path: execute(
        path, "INSERT INTO failures VALUES (0, 'x', NULL, 1e999)"
    ),
    "an index out of range": lambda path: execute(
        path, "UPDATE number_key_values SET value = 1e999 WHERE key = 'index'"
    ),
    "coordinates": lambda path: execute(path, "UPDATE systems SET data = '{}'"),
    "elements": lambda path: execute(path, "UPDATE systems SET numbers = x'ffffff7f'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_database_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    inputs = metals(1)
    RelaxedStore(tmp_path, inputs, SETTINGS).add([(0, relaxed(inputs, 0))])
    DAMAGE[damage](tmp_path / RELAXED)
    with pytest.raises(UserError, match=r"relaxed\.db is damaged, or was not written by .*relax "):
        read_relaxed(tmp_path)


def test_a_database_of_samples_is_no_relaxed_one(tmp_path: Path) -> None:
    Samples(tmp_path, REQUEST)
    (tmp_path / "samples.db").rename(tmp_path / RELAXED)
    with pytest.raises(UserError, match="it holds no relaxed crystals"):
        read_relaxed(tmp_path)


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_relaxed(tmp_path / "nothing")
