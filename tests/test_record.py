import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
import pytest
from crystal_diffusion_jax.sampling.record import SampleFolder
from pymatgen.io.cif import CifParser

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import SampleSettings

SETTINGS = SampleSettings(
    model="runs/perov5/model",
    model_sha256="ab" * 32,
    conditions={"formation_energy": -1.25},
    num=8,
    seed=3,
    guidance=0.0,
    num_steps=1000,
    corrector_step_size=1e-6,
    elements=None,
    num_atoms=None,
    symprec=0.1,
)
PEROVSKITE = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


class Killed(BaseException):
    """Stands for SIGKILL: no handler for ordinary exceptions may see it."""


def crystal(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice, coordinates and atomic numbers that depend on the index alone, as the sampler's."""
    rng = np.random.default_rng(index)
    lattice = 4.0 * np.eye(3) + rng.normal(scale=0.3, size=(3, 3))
    if index % 2:
        lattice = lattice * [1, 1, -1]  # left-handed
    return lattice, PEROVSKITE + rng.normal(scale=0.02, size=(5, 3)), np.array([56, 22, 8, 8, 8])


def defective(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `crystal`, with numbers 1 and 4 not finite and number 6 flat."""
    lattice, frac_coords, atomic_numbers = crystal(index)
    if index in (1, 4):
        lattice[0, 0] = np.nan
    if index == 6:
        lattice[2] = lattice[0] + lattice[1]
    return lattice, frac_coords, atomic_numbers


def add(folder: SampleFolder, indices: Sequence[int], sample=crystal) -> None:
    lattices, frac_coords, atomic_numbers = zip(*map(sample, indices), strict=True)
    folder.add(indices, lattices, frac_coords, atomic_numbers, wall_seconds=0.5, network_calls=10)


def finish(out: Path, settings: SampleSettings = SETTINGS, sample=crystal) -> None:
    """The sampling command: opens the folder and adds what remains, in batches of three."""
    folder = SampleFolder(out, settings)
    while remaining := folder.remaining():
        add(folder, remaining[:3], sample)
    folder.close()


def content(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def read_record(out: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((out / "samples.json").read_text(), parse_constant=refuse)


def test_a_finished_folder_holds_one_cif_a_structure_one_extxyz_and_the_record(tmp_path):
    out = tmp_path / "new" / "samples"
    finish(out)
    names = [f"cif/{index:05d}_BaTiO3.cif" for index in range(8)]
    assert sorted(content(out)) == sorted([*names, "samples.extxyz", "samples.json"])
    record = read_record(out)
    assert [entry["index"] for entry in record["structures"]] == list(range(8))
    assert record["settings"] == dataclasses.asdict(SETTINGS)
    assert record["target"] == -1.25
    assert record["counts"] == {
        "requested": 8, "written": 8, "rejected": 0, "rejected_by_reason": {}
    }  # fmt: skip
    assert (record["seconds"], record["network_calls"]) == (1.5, 30)  # three batches


@pytest.mark.parametrize("conditions", [{}, {"gap": 1.0, "formation_energy": -1.0}])
def test_the_single_target_is_null_for_no_or_several_conditions(tmp_path, conditions):
    SampleFolder(tmp_path, dataclasses.replace(SETTINGS, conditions=conditions))
    assert read_record(tmp_path)["target"] is None


def test_written_numbers_are_the_sampled_ones_in_full_precision(tmp_path):
    finish(tmp_path)
    for entry in read_record(tmp_path)["structures"]:
        lattice, frac_coords, atomic_numbers = crystal(entry["index"])
        written = np.array(entry["lattice"])
        np.testing.assert_allclose(written @ written.T, lattice @ lattice.T, rtol=1e-12)
        np.testing.assert_array_equal(entry["frac_coords"], frac_coords % 1.0)
        assert entry["atomic_numbers"] == atomic_numbers.tolist()
        assert entry["species"] == ["Ba", "Ti", "O", "O", "O"]
        # Positive: half of the sampled cells were left-handed.
        np.testing.assert_allclose(np.linalg.det(written), entry["volume"], rtol=1e-12)


def test_pymatgen_and_ase_read_the_crystals_of_the_record(tmp_path):
    finish(tmp_path, dataclasses.replace(SETTINGS, symprec=0.0))
    frames = ase.io.read(tmp_path / "samples.extxyz", index=":")
    for entry, frame in zip(read_record(tmp_path)["structures"], frames, strict=True):
        lattice, frac_coords = np.array(entry["lattice"]), np.array(entry["frac_coords"])
        assert frame.info["index"] == entry["index"]
        assert frame.info["target_formation_energy"] == -1.25
        assert frame.get_chemical_symbols() == entry["species"]
        np.testing.assert_allclose(frame.cell.array, lattice, atol=1e-12)
        np.testing.assert_allclose(frame.positions, frac_coords @ lattice, atol=1e-7)
        distances = frame.get_all_distances(mic=True)[np.triu_indices(5, k=1)]
        np.testing.assert_allclose(entry["min_distance"], distances.min(), atol=1e-6)

        cif = tmp_path / f"cif/{entry['index']:05d}_BaTiO3.cif"
        (structure,) = CifParser(cif).parse_structures(primitive=False)
        assert [site.species_string for site in structure] == entry["species"]
        np.testing.assert_allclose(structure.lattice.matrix, lattice, atol=1e-6)
        np.testing.assert_allclose(structure.frac_coords, frac_coords, atol=1e-7)


def test_defective_crystals_are_counted_by_reason_and_never_written(tmp_path):
    finish(tmp_path, sample=defective)
    record = read_record(tmp_path)
    assert record["counts"] == {
        "requested": 8,
        "written": 5,
        "rejected": 3,
        "rejected_by_reason": {"non-finite numbers": 2, "volume below 0.1 A^3": 1},
    }
    assert record["rejected"] == [
        {"index": 1, "reason": "non-finite numbers"},
        {"index": 4, "reason": "non-finite numbers"},
        {"index": 6, "reason": "volume below 0.1 A^3"},
    ]
    written = [entry["index"] for entry in record["structures"]]
    assert written == [0, 2, 3, 5, 7]
    assert sorted(int(path.name[:5]) for path in (tmp_path / "cif").iterdir()) == written
    frames = ase.io.read(tmp_path / "samples.extxyz", index=":")
    assert [frame.info["index"] for frame in frames] == written
    assert SampleFolder(tmp_path, SETTINGS).remaining() == []


@pytest.mark.parametrize(("elements", "rejected"), [(["Ba", "O", "Ti"], 0), (["Ba", "O", "S"], 1)])
def test_a_crystal_with_fewer_elements_than_its_chemical_system_is_rejected(
    tmp_path, elements, rejected
):
    settings = dataclasses.replace(SETTINGS, elements=elements, chemical_system=True)
    folder = SampleFolder(tmp_path, settings)
    lattice, frac_coords, numbers = crystal(0)
    if rejected:
        numbers[1] = 8  # of the elements that may appear, barium and oxygen do
    folder.add([0], [lattice], [frac_coords], [numbers], 0.5, 10)
    reasons = [entry["reason"] for entry in read_record(tmp_path)["rejected"]]
    assert reasons == rejected * ["lacks an element of the chemical system"]


def test_a_single_atom_has_no_minimum_distance_in_the_record(tmp_path):
    folder = SampleFolder(tmp_path, SETTINGS)
    folder.add([0], [4.0 * np.eye(3)], [np.zeros((1, 3))], [np.array([6])], 0.5, 10)
    (entry,) = read_record(tmp_path)["structures"]
    assert entry["min_distance"] is None


def test_the_order_of_batches_does_not_matter(tmp_path):
    finish(tmp_path / "forward", sample=defective)
    backward = SampleFolder(tmp_path / "backward", SETTINGS)
    for indices in ([7, 2], [6, 0, 4], [5, 3, 1]):
        add(backward, indices, defective)
    backward.close()
    assert content(tmp_path / "forward") == content(tmp_path / "backward")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_replacement_of_a_file_leaves_no_trace_after_resuming(
    tmp_path, monkeypatch, moment
):
    finish(tmp_path / "undisturbed", sample=defective)
    undisturbed = content(tmp_path / "undisturbed")
    replace = os.replace
    # The journal, 5 CIFs, and record and frames for none, three, six and eight crystals.
    for lucky in range(14):
        calls = 0

        def replace_or_die(*args, lucky=lucky):
            nonlocal calls
            calls += 1
            if moment == "after" or calls <= lucky:
                replace(*args)
            if calls > lucky:
                raise Killed

        out = tmp_path / f"killed_{lucky}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_or_die)
            with pytest.raises(Killed):
                finish(out, sample=defective)
        finish(out, sample=defective)
        assert content(out) == undisturbed


def test_a_resumed_folder_asks_only_for_what_is_missing_and_adds_up_the_cost(tmp_path):
    add(SampleFolder(tmp_path, SETTINGS), [0, 1, 4], defective)
    resumed = SampleFolder(tmp_path, SETTINGS)
    assert resumed.remaining() == [2, 3, 5, 6, 7]
    add(resumed, [2, 3])
    resumed.close()
    record = read_record(tmp_path)
    assert (record["seconds"], record["network_calls"]) == (1.0, 20)


def test_record_and_frames_are_written_anew_only_when_the_crystals_have_doubled(
    tmp_path, monkeypatch
):
    folder = SampleFolder(tmp_path, dataclasses.replace(SETTINGS, num=40))
    sizes = []
    replace = os.replace

    def note(source, target):
        if str(target).endswith("samples.json"):
            sizes.append(folder.counts()["written"])
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    for index in range(40):
        add(folder, [index])
    folder.close()
    assert sizes == [1, 2, 4, 8, 16, 32, 40]


@pytest.mark.parametrize("kept", [3, 8])
def test_a_folder_with_nothing_but_a_record_is_gone_on_with(tmp_path, kept):
    finish(tmp_path / "undisturbed", sample=defective)
    undisturbed = content(tmp_path / "undisturbed")
    # As before there was a journal: everything in the record.
    out = tmp_path / "old"
    add(SampleFolder(out, SETTINGS), range(kept), defective)
    (out / "unfinished.jsonl").unlink()
    before = content(out)

    finish(out, sample=defective)
    if kept == 8:
        assert content(out) == before
    else:
        record = json.loads(undisturbed["samples.json"])
        assert read_record(out) == record | {"seconds": 1.5, "network_calls": 30}
        for name in undisturbed.keys() - {"samples.json"}:
            assert (out / name).read_bytes() == undisturbed[name]
    assert not (out / "unfinished.jsonl").exists()


def test_an_unfinished_folder_has_its_journal_and_a_finished_one_has_none(tmp_path):
    folder = SampleFolder(tmp_path, SETTINGS)
    add(folder, [0, 1, 4], defective)
    folder.close()
    assert (tmp_path / "unfinished.jsonl").is_file()
    assert read_record(tmp_path)["counts"]["written"] == 1
    finish(tmp_path)
    assert not (tmp_path / "unfinished.jsonl").exists()


def test_opening_mends_the_cif_folder_and_spares_the_users_own_files(tmp_path):
    finish(tmp_path)
    before = content(tmp_path)
    (tmp_path / "cif/00002_BaTiO3.cif").unlink()
    (tmp_path / "samples.extxyz").unlink()
    (tmp_path / "cif/00099_NaCl.cif").write_text("not in the record")
    (tmp_path / "cif/00098_Ca(NO3)2.cif").write_text("not in the record")
    (tmp_path / "cif/.00003_BaTiO3.cif.tmp").write_text("half a fi")
    (tmp_path / "cif/favourites.cif").write_text("mine")
    SampleFolder(tmp_path, SETTINGS).close()
    assert content(tmp_path) == before | {"cif/favourites.cif": b"mine"}


def test_other_settings_are_refused_with_both_values_and_the_way_out(tmp_path):
    finish(tmp_path)
    before = content(tmp_path)
    other = dataclasses.replace(SETTINGS, seed=4, conditions={"formation_energy": -2.0})
    with pytest.raises(UserError) as error:
        SampleFolder(tmp_path, other)
    message = str(error.value)
    assert "seed (there 3, now 4)" in message
    assert (
        'conditions (there {"formation_energy": -1.25}, now {"formation_energy": -2.0})' in message
    )
    assert "guidance" not in message
    assert "another --out, or remove the folder" in message
    assert content(tmp_path) == before


def test_a_record_without_a_solver_is_one_of_the_ancestral_solver(tmp_path):
    add(SampleFolder(tmp_path, SETTINGS), [0, 1, 2])
    (tmp_path / "unfinished.jsonl").unlink()  # nor was there one at that time
    record = read_record(tmp_path)
    del record["settings"]["solver"]
    (tmp_path / "samples.json").write_text(json.dumps(record))

    assert SampleFolder(tmp_path, SETTINGS).remaining() == [3, 4, 5, 6, 7]
    other = dataclasses.replace(SETTINGS, solver="second_order")
    with pytest.raises(UserError, match=r'solver \(there "ancestral", now "second_order"'):
        SampleFolder(tmp_path, other)


def test_the_same_model_may_have_moved_but_another_one_is_refused(tmp_path):
    SampleFolder(tmp_path, SETTINGS)
    SampleFolder(tmp_path, dataclasses.replace(SETTINGS, model="/elsewhere/model"))
    with pytest.raises(UserError, match="model_sha256"):
        SampleFolder(tmp_path, dataclasses.replace(SETTINGS, model_sha256="cd" * 32))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format_version": 99}', "half", "\xff"])
def test_a_damaged_record_is_refused_by_name_and_left_alone(tmp_path, damage):
    finish(tmp_path)
    path = tmp_path / "samples.json"
    text = path.read_text()
    path.write_bytes(text[: len(text) // 2].encode() if damage == "half" else damage.encode("l1"))
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"samples\.json is damaged.*another --out, or remove"):
        SampleFolder(tmp_path, SETTINGS)
    assert content(tmp_path) == before


def change(record: dict, spoil: str) -> None:
    (first, second, *_) = record["structures"]
    if spoil == "no lattice":
        del first["lattice"]
    elif spoil == "no number":
        first["lattice"][0][0] = "four"
    elif spoil == "nobody's index":
        first["index"] = 8
    elif spoil == "an index twice":
        first["index"] = second["index"]
    elif spoil == "settings in words":
        record["settings"] = "as last time"
    elif spoil == "no entry":
        record["structures"][0] = None
    else:
        first["formula"] = spoil


@pytest.mark.parametrize(
    "spoil",
    ["no lattice", "no number", "nobody's index", "an index twice", "settings in words", "no entry",
     "../../escaped", "a/b", ""],
)  # fmt: skip
def test_a_record_that_was_tampered_with_is_refused_and_nothing_is_written_outside(tmp_path, spoil):
    out = tmp_path / "a" / "out"
    finish(out)
    record = read_record(out)
    change(record, spoil)
    (out / "samples.json").write_text(json.dumps(record))
    before = set(content(tmp_path))
    with pytest.raises(UserError, match=r"samples\.json is damaged.*another --out, or remove"):
        SampleFolder(out, SETTINGS)
    assert set(content(tmp_path)) - before <= {"a/out/unfinished.jsonl"}


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "cif").mkdir()
    (tmp_path / "cif/00001_NaCl.cif").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and has no samples\.json"):
        SampleFolder(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="cannot be created"):
        SampleFolder(tmp_path / "cif/00001_NaCl.cif", SETTINGS)
    assert content(tmp_path) == {"cif/00001_NaCl.cif": b"mine"}
