"""Folders of samples that somebody else made, and settings that somebody else wrote."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crystal_diffusion_jax.sampling.record import SampleFolder

from crystal_diffusion_jax.cli import report
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import SampleSettings, recorded_settings
from crystal_diffusion_jax.runtime.lock import OWNER, exclusive
from tests.mutations import mutated_tree
from tests.test_record import SETTINGS, add, finish


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with three of eight crystals."""
    folder = SampleFolder(tmp_path / "out", SETTINGS)
    add(folder, [0, 1, 2])
    return tmp_path / "out"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("00007_NaCl.cif", "00007.extxyz", "letter.txt"):
        (folder / name).write_text("dear diary")
    return folder


@pytest.mark.parametrize("name", ["cif", "trajectories"])
def test_a_folder_that_is_a_link_is_refused_and_nothing_is_touched_there(out, victim, name):
    if (out / name).exists():
        (out / name).rename(out.with_name("aside"))
    (out / name).symlink_to(victim)
    with pytest.raises(UserError, match=f"{name} is a link"):
        SampleFolder(out, SETTINGS)
    assert {path.read_text() for path in victim.iterdir()} == {"dear diary"}
    assert len(list(victim.iterdir())) == 3


def test_a_journal_that_is_a_link_is_refused(out):
    (out / "unfinished.jsonl").rename(out.with_name("elsewhere"))
    (out / "unfinished.jsonl").symlink_to(out.with_name("elsewhere"))
    with pytest.raises(UserError, match=r"unfinished\.jsonl is a link"):
        SampleFolder(out, SETTINGS)


@pytest.mark.parametrize(
    "name",
    [".samples.json.tmp", ".samples.extxyz.tmp", "..unfinished.jsonl.tmp.tmp", "cif/.00003_x.tmp"],
)
def test_a_link_in_place_of_a_half_written_file_is_not_followed(out, victim, name):
    finish(out)  # so that the record alone is there, and the journal is made anew
    (out / name).symlink_to(victim / "letter.txt")
    SampleFolder(out, SETTINGS)
    assert (victim / "letter.txt").read_text() == "dear diary"


def test_the_owners_file_is_no_way_to_another_one(out, victim):
    (out / OWNER).symlink_to(victim / "letter.txt")
    with exclusive(out, "--out", print):
        assert not (out / OWNER).is_symlink()
        assert "pid" in json.loads((out / OWNER).read_text())
    assert (victim / "letter.txt").read_text() == "dear diary"


@pytest.mark.parametrize(
    "change",
    [
        lambda crystal: crystal.pop("frame"),
        lambda crystal: crystal.update(frame=5),
        lambda crystal: crystal["structure"].pop("formula"),
        lambda crystal: crystal["structure"].update(lattice="x"),
        lambda crystal: crystal["structure"].update(lattice=[[1e999]]),
        lambda crystal: crystal["structure"].update(atomic_numbers=[999]),
        lambda crystal: crystal["structure"].update(frac_coords=None),
        lambda crystal: crystal.update(structure=5),
    ],
)
def test_an_entry_of_the_journal_that_is_no_crystal_is_refused_by_name(out, change):
    journal = out / "unfinished.jsonl"
    lines = journal.read_text().splitlines()
    crystal = json.loads(lines[1])
    change(crystal)
    lines[1] = json.dumps(crystal)
    journal.write_text("\n".join(lines) + "\n")
    for cif in (out / "cif").iterdir():
        cif.unlink()  # so that they are written anew
    with pytest.raises(UserError, match=r"unfinished\.jsonl is damaged"):
        SampleFolder(out, SETTINGS)


def test_settings_come_back_from_json():
    ranged = dataclasses.replace(
        SETTINGS, conditions={"gap": [0.0, 1.5], "density": 2}, elements=["Ba", "O"], num_atoms=5
    )
    for settings in (SETTINGS, ranged):
        text = json.dumps(dataclasses.asdict(settings))
        assert recorded_settings(json.loads(text)) == settings
    early = dataclasses.asdict(SETTINGS)
    for later in ("solver", "chemical_system", "renoising_steps", "charge_balance"):
        del early[later]
    assert recorded_settings(early) == SETTINGS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", "\ud800"),
        ("conditions", []),
        ("conditions", {"gap": "a"}),
        ("conditions", {"gap": [0.0]}),
        ("conditions", {"gap": 10**400}),
        ("guidance", "x"),
        ("guidance", float("nan")),
        ("guidance", True),
        ("num_steps", "\ud800"),
        ("num", -1),
        ("seed", 1.5),
        ("elements", 5),
        ("elements", ["Ba", 8]),
        ("num_atoms", 2.0),
        ("solver", ["ancestral"]),
        ("charge_balance", 1),
        ("twist", 1),
    ],
)
def test_settings_that_are_none_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        recorded_settings(dataclasses.asdict(SETTINGS) | {field: value})
    without = {k: v for k, v in dataclasses.asdict(SETTINGS).items() if k != "guidance"}
    with pytest.raises(ValueError, match="guidance"):
        recorded_settings(without)


def test_of_mutated_settings_the_report_says_what_it_can():
    rng = np.random.default_rng(0)
    sound: dict[str, Any] = dataclasses.asdict(
        dataclasses.replace(SETTINGS, conditions={"gap": [0.0, 1.5]}, elements=["Ba", "O"])
    )
    taken = 0
    for _ in range(10_000):
        try:
            settings = recorded_settings(mutated_tree(sound, rng))
        except ValueError:
            continue
        taken += 1
        assert isinstance(settings, SampleSettings)
        report.asked_for(settings, None).encode()
        report.sample_command(settings, Path("out")).encode()
    assert 100 < taken < 10_000
