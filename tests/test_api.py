"""The Python interface: its documented examples run, and its crystals are those of the command."""

import csv
import dataclasses
import doctest
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax import api, trained_model
from crystal_diffusion_jax.cli import sample
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation import validity
from crystal_diffusion_jax.oracles import predict as oracle_predictions
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals
from crystal_diffusion_jax.structures.samples_reader import read_samples
from crystal_diffusion_jax.trained_model import TrainedModel
from tests import make_tiny_model, tiny_run
from tests.knowing_model import knowing

# The request of the documented examples, and of all tests, so that its program is compiled once.
NUM, STEPS = 4, 20


@pytest.fixture(scope="module")
def model() -> api.Model:
    return cdj.load(make_tiny_model.FOLDER)


@pytest.fixture
def crystals() -> SampledCrystals:
    """Whole crystals, whatever a network would have made of the request."""
    found = dict(enumerate(tiny_run.perovskite("Sr", "Ti", edge) for edge in (3.9, 4.0, 4.1, 4.2)))
    return tiny_run.sampled(NUM, found, {})


def sampled(model: api.Model, target: Any, **request: Any) -> SampledCrystals:
    return model.sample(
        NUM, target, guidance=1.0, num_steps=STEPS, log=lambda line: None, **request
    )


def test_a_second_target_compiles_nothing_new(sampler_traces):
    for target in (0.8, 0.9, 1.0):
        sampled(cdj.load(make_tiny_model.FOLDER), target)
    assert len(sampler_traces) == 1


def run_examples(capsys: pytest.CaptureFixture[str]) -> None:
    failed, tried = doctest.testmod(api, globs={"print": print})
    assert tried >= 5
    assert failed == 0, capsys.readouterr().out


def test_the_documented_examples_run(tiny_model, monkeypatch, capsys):
    # The small model under the names of the documented one, whose program takes longer to compile.
    named = dataclasses.replace(tiny_model.statistics, property_names=("heat_ref",))
    small = dataclasses.replace(tiny_model, statistics=named)
    documented: list[str] = []

    def load(name: str) -> TrainedModel:
        documented.append(name)
        return small

    monkeypatch.setattr(trained_model, "load", load)
    run_examples(capsys)
    assert documented == ["perov5_cds"]


@pytest.mark.slow
def test_the_documented_examples_run_with_the_shipped_model(capsys):
    run_examples(capsys)


IN_PYTHON = f"""
import sys
import numpy as np
import crystal_diffusion_jax as cdj
crystals = cdj.load("perov5_cds").sample({NUM}, "min", guidance=1.0, num_steps={STEPS})
for index, structure in zip(crystals.indices, crystals):
    np.savez(f"{{sys.argv[1]}}/{{index}}.npz", lattice=structure.lattice.matrix,
             frac_coords=structure.frac_coords, atomic_numbers=structure.atomic_numbers)
crystals.write_cifs(sys.argv[1] + "/cifs")
"""


def assert_same_crystals(cifs: Path, crystals: dict[int, dict[str, Any]], out: Path) -> None:
    """Compares arrays by index and CIF files with what the command left in `out`."""
    stored: dict[int, Any] = dict(enumerate(read_samples(out / "samples.db")))
    assert [i for i, one in stored.items() if isinstance(one, Structure)] == sorted(crystals)
    for index, arrays in crystals.items():
        np.testing.assert_array_equal(stored[index].lattice.matrix, arrays["lattice"])
        for name in ("frac_coords", "atomic_numbers"):
            np.testing.assert_array_equal(getattr(stored[index], name), arrays[name])
    names = sorted(path.name for path in cifs.iterdir())
    assert names == sorted(path.name for path in (out / "cif").iterdir())
    for name in names:
        assert (cifs / name).read_text() == (out / "cif" / name).read_text()


def command_flags(model: str | Path, out: Path) -> list[str]:
    flags = [f"--model={model}", "--target=min", "--guidance=1", f"--num={NUM}"]
    return [*flags, f"--num_steps={STEPS}", f"--out={out}"]


def test_crystals_are_those_of_the_command(model, tmp_path, monkeypatch):
    crystals = sampled(model, "min")
    assert len(crystals)  # 999 of a thousand are crystals
    crystals.write_cifs(tmp_path / "cifs")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["sample", *command_flags(make_tiny_model.FOLDER, out)])
    sample.main()
    arrays = {
        index: {
            "lattice": structure.lattice.matrix,
            "frac_coords": structure.frac_coords,
            "atomic_numbers": structure.atomic_numbers,
        }
        for index, structure in zip(crystals.indices, crystals, strict=True)
    }
    assert_same_crystals(tmp_path / "cifs", arrays, out)


@pytest.mark.slow
def test_crystals_of_a_script_are_those_of_the_command(tmp_path):
    # Both in a process of their own, which both divide their work among the cores.
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    run([sys.executable, "-c", IN_PYTHON, str(tmp_path)])
    out = tmp_path / "out"
    run([sys.executable, "-m", "experiments.sample", *command_flags("perov5_cds", out)])
    found = {
        int(path.stem): dict(np.load(path, allow_pickle=False)) for path in tmp_path.glob("*.npz")
    }
    assert_same_crystals(tmp_path / "cifs", found, out)


def test_a_sequence_of_structures_converts_to_ase_with_the_same_distances(crystals):
    assert isinstance(crystals[0], Structure)
    assert crystals.to_pymatgen() == list(crystals)
    assert len(crystals[1:]) == NUM - 1
    for structure, atoms in zip(crystals, crystals.to_ase(), strict=True):
        assert atoms.get_chemical_symbols() == [site.specie.symbol for site in structure]
        np.testing.assert_allclose(
            atoms.get_all_distances(mic=True), structure.distance_matrix, atol=1e-6
        )
        assert structure.composition.reduced_formula in crystals.formulas


def test_a_range_is_drawn_for_each_crystal_and_told(model):
    (low, high) = model.properties["tolerance_factor"]
    assert sampled(model, "min").values["tolerance_factor"][0] == low
    found = sampled(model, {"tolerance_factor": (low, high)})
    values = found.values["tolerance_factor"]
    assert len(values) == len(found)
    assert len(set(values)) == len(found)
    assert ((values >= low) & (values <= high)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "num=0"),
        ({"target": "lowest"}, "lowest"),
        ({"target": {"band_gap": 1.0}}, "no property 'band_gap', only heat_ref"),
        ({"target": (2.0, 1.0)}, "LOWEST:HIGHEST"),
        ({"guidance": 1.0}, "target"),
        ({"elements": "Xx"}, "not an element symbol"),
        ({"elements": ["Ba", "Xx"]}, "not an element symbol"),
        ({"elements": "Ba", "chemical_system": "Ba-O"}, "exclude each other"),
        ({"chemical_system": "Ba-Pu-O"}, "--chemical_system=Ba-Pu-O: the model never saw Pu"),
        ({"target": [0.5, 1.0, 1.5]}, r"a range is \(lowest, highest\)"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_atoms": 7}, "trained on 5 atoms"),
    ],
)
def test_what_the_model_cannot_do_is_said_before_anything_is_computed(arguments, message):
    with pytest.raises(UserError, match=message):
        cdj.load("perov5_cds").sample(**arguments)


def test_an_unknown_model_or_oracle_is_named_with_what_there_is():
    with pytest.raises(UserError, match="did you mean perov5_cds"):
        cdj.load("perov5_cd")
    with pytest.raises(UserError, match=r"perov5, carbon24, mp20; did you mean perov5\?"):
        cdj.oracle("perov_5")


def test_the_ends_of_a_range_may_be_words(model):
    asked = model.sample(1, target=("min", 1.0), log=lambda line: None).request
    assert asked == model.sample(1, target="min:1.0", log=lambda line: None).request


def test_lists_do_for_elements_and_ranges_and_a_chemical_system_is_held(model):
    listed = sampled(model, [0.8, 1.0], elements=["Ba", "Ti", "O"])
    assert list(listed) == list(sampled(model, (0.8, 1.0), elements="Ba,Ti,O"))
    assert listed.request.elements == ("Ba", "O", "Ti")
    system = sampled(model, [0.8, 1.0], chemical_system=["Ba", "Ti", "O"])
    assert system.request.chemical_system == ("Ba", "O", "Ti")
    assert len(system) + len(system.rejected) == NUM
    assert all(len(crystal.composition) == 3 for crystal in system)


def test_formulas_are_a_list_a_text_or_the_path_of_a_table(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("crystal_diffusion_jax.api.model.generate", lambda *_: None)
    model = api.Model(knowing(tiny_model), "m")

    def asked(**request: Any) -> Any:
        short: dict[str, Any] = {"num_steps": STEPS, "renoising_steps": 0, "log": lambda line: None}
        return model.sample(1, **short, **request).request

    table = tmp_path / "wanted.csv"
    table.write_text("formula,material_id\nBaO,a\nSrO,b\n")
    listed = asked(formula=["BaO", "SrO"], formula_units=1)
    assert listed == asked(formula="BaO,SrO", formula_units="1")
    assert [each.formula for each in listed.formulas] == ["BaO", "SrO"]
    assert [each.material_id for each in asked(formula=table).formulas] == ["a", "b"]
    crystal, own = tiny_run.perovskite("Sr", "Ti", 4.0), tmp_path / "own.csv"
    with own.open("w", newline="") as file:
        csv.writer(file).writerows([["material_id", "cif"], ["7", crystal.to(fmt="cif")]])
    like = asked(like=own)
    assert [each.formula for each in like.formulas] == ["SrTiO3"]
    assert like == asked(like=str(own))


def test_a_discovery_takes_the_arguments_of_sample_in_all_their_forms(
    tiny_model, tmp_path, monkeypatch
):
    class AskedError(Exception):
        """In place of a plan."""

    def plan(trained: Any, request: Any, settings: Any) -> None:
        raise AskedError(request)

    monkeypatch.setattr("crystal_diffusion_jax.discovery.plan.make_plan", plan)
    monkeypatch.setattr("crystal_diffusion_jax.api.model.generate", lambda *_: None)
    model = api.Model(knowing(tiny_model), "m")
    table = tmp_path / "wanted.csv"
    table.write_text("material_id,cif\n")
    with table.open("a", newline="") as file:
        csv.writer(file).writerow(["7", tiny_run.perovskite("Sr", "Ti", 4.0).to(fmt="cif")])
    for request in (
        {"formula": ["BaO", "SrO"], "formula_units": 2},
        {"like": table},
        {"chemical_system": ["Ba", "Ti", "O"], "target": (0.8, 1.0)},
    ):
        with pytest.raises(AskedError) as found:
            cdj.discover(model, num=2, out=tmp_path / "out", log=lambda line: None, **request)
        (asked,) = found.value.args
        assert asked == model.sample(2, log=lambda line: None, **request).request


def test_crystals_and_models_show_themselves_in_a_line(crystals):
    assert repr(cdj.load("perov5_cds")) == "Model('perov5_cds': heat_ref -0.3285 .. 4.376)"
    shown = repr(crystals)
    assert shown.startswith(f"{NUM} crystals of m (")
    assert len(shown) < 200


def test_the_oracle_takes_what_pymatgen_and_ase_have(crystals, monkeypatch):
    seen: list[list[Structure]] = []

    def predicted(structures: list[Structure], oracle: str, progress: bool) -> Predictions:
        seen.append(structures)
        return Predictions(np.zeros(len(structures)), {})

    monkeypatch.setattr(oracle_predictions, "predict", predicted)
    oracle = cdj.oracle("perov5")
    for several in (crystals, crystals.to_ase(), crystals[0], crystals.to_ase()[0]):
        oracle.predict(several)
    assert [len(structures) for structures in seen] == [NUM, NUM, 1, 1]
    for structures in seen:
        for ours, theirs in zip(structures, crystals, strict=False):
            np.testing.assert_allclose(ours.distance_matrix, theirs.distance_matrix, atol=1e-6)
            assert ours.atomic_numbers == theirs.atomic_numbers
    molecule = crystals.to_ase()[0]
    molecule.pbc = False
    mixed = crystals.to_ase()[0]
    mixed.info["occupancy"] = {"0": {"Ba": 0.5, "Sr": 0.5}}
    flat = crystals.to_ase()[0]
    flat.set_cell(np.zeros((3, 3)))
    shared = crystals[0].copy()
    shared[0] = {"Ba": 0.5, "Sr": 0.5}
    for crystal, message in (
        (molecule, "not a crystal: no periodic cell"),
        (mixed, "not a crystal: disorder"),
        (flat, "not a crystal: volume below"),
        (shared, "crystal 0 has sites shared by several elements"),
    ):
        with pytest.raises(UserError, match=message):
            oracle.predict(crystal)


def test_success_counts_invalid_and_rejected_crystals_as_failures(crystals, monkeypatch):
    low, high = (KNOWN_DATASETS["perov5"].success_thresholds[i] for i in (0, 2))
    values = np.array([low, high, high + 1e-6, np.nan])

    def predicted(structures: list[Structure], oracle: str, progress: bool) -> Predictions:
        assert (len(structures), oracle) == (4, "perov5")
        return Predictions(values, {3: "no bonds"})

    monkeypatch.setattr(oracle_predictions, "predict", predicted)
    monkeypatch.setattr(validity, "is_valid", lambda structure: True)
    rates = cdj.success_rate(crystals, "perov5")
    assert [(rates[name].k, rates[name].n) for name in ("SR5", "SR10", "SR15")] == [
        (1, 4),
        (1, 4),
        (2, 4),
    ]
    monkeypatch.setattr(validity, "is_valid", lambda structure: False)
    assert cdj.success_rate(crystals, "perov5")["SR15"].k == 0
    one_less = SampledCrystals(crystals.structures, crystals.indices, {9: "flat"}, crystals.request)
    assert cdj.success_rate(one_less, "perov5")["SR5"].n == 5


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = cdj.train


@pytest.mark.parametrize(("before", "after"), [({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0")])
def test_the_remarks_of_the_compiler_are_silenced_unless_asked_for(before, after):
    level = "os.environ['TF_CPP_MIN_LOG_LEVEL']"
    command = f"import os, sys, crystal_diffusion_jax; print({level}, 'jax' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | before
    run = [sys.executable, "-c", command]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [after, "False"]
