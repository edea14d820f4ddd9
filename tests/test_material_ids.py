"""The reference that each crystal predicts: from the request to the match rate."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax import api
from crystal_diffusion_jax.data import load as data_load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import FormulaRequest, SampledBatch, Trajectory
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.samples_reader import read_material_ids
from crystal_diffusion_jax.structures.store import Samples
from tests.crystal_sets import dataset
from tests.knowing_model import knowing
from tests.test_formulas import write_csv
from tests.test_prediction import BARIUM, SALT
from tests.test_store import REQUEST, batch, defective, table

pytestmark = pytest.mark.usefixtures("in_this_process")

# As those of MP-20, Perov-5 and Carbon-24, and one that reads as a truth value.
IDS = ("mp-1", "2734", "C-40110-5594-17", "True")
FORMULAS = tuple(FormulaRequest("BaTiO3", 1, own) for own in IDS)
PREDICTIONS = dataclasses.replace(REQUEST, formulas=FORMULAS, like="perov5:test:4", target={})


def test_a_folder_keeps_the_ids_also_of_rejected_and_of_missing_crystals(tmp_path):
    samples = Samples(tmp_path, PREDICTIONS)
    samples.add(batch([0, 1, 2, 4, 6], defective))  # 1, 4 and 6 are rejected
    samples.export()
    wanted = [own for own in IDS for _ in range(2)]
    assert read_material_ids(tmp_path / "samples.db") == wanted
    inputs = read_structures(tmp_path)
    assert inputs.material_ids == wanted
    kept = [structure is not None for structure in inputs.structures]
    assert kept == [True, False, True, False, False, False, False, False]
    assert [row["material_id"] for row in table(tmp_path)] == ["mp-1", "2734"]
    with ase.db.connect(tmp_path / "samples.db") as database:
        assert [row.index for row in database.select("material_id=2734")] == [2]


def test_a_folder_of_other_formulas_is_another_request(tmp_path):
    Samples(tmp_path, PREDICTIONS)
    assert len(Samples(tmp_path, PREDICTIONS).remaining()) == 8
    other = dataclasses.replace(PREDICTIONS, formulas=FORMULAS[:2])
    with pytest.raises(UserError, match="another request, which differs in formulas"):
        Samples(tmp_path, other)


def test_crystals_without_a_target_have_none_in_the_table(tmp_path):
    formulas = (
        FormulaRequest("BaTiO3", 1, target={"gap": (1.5, 1.5)}),
        FormulaRequest("BaTiO3", 1, target={"kind": (1.0, 1.0)}, classes={"kind": "metal"}),
    )
    request = dataclasses.replace(REQUEST, formulas=formulas, num=4)
    samples = Samples(tmp_path, request)
    samples.add(batch(range(4)))
    samples.export()
    rows = table(tmp_path)
    assert [row["target_gap"] for row in rows] == ["1.5", "1.5", "", ""]
    assert [row["target_kind"] for row in rows] == ["", "", "metal", "metal"]
    assert [row["target_formation_energy"] for row in rows] == 4 * ["-1.25"]
    assert "material_id" not in rows[0]
    assert read_material_ids(tmp_path / "samples.db") == []


@pytest.fixture
def model(tiny_model, monkeypatch, tmp_path) -> api.Model:
    """A model of cells of 2 to 20 atoms, whose sampler is replaced."""

    def generate(trained: Any, request: Any, sink: Any, *rest: Any) -> None:
        cells = compositions(request, trained)
        assert cells is not None
        crystals: list[Sequence[np.ndarray]] = []
        for index, numbers in enumerate(cells):
            rng = np.random.default_rng(index)
            # The second one is flat, so it is rejected.
            lattice = np.diag([5.0, 5.0, 5.0 * (index != 1)])
            crystals.append((lattice, rng.random((len(numbers), 3)), numbers))
        states = [Trajectory(np.zeros(1, int), *(x[None] for x in one)) for one in crystals]
        sink.add(SampledBatch(range(len(states)), states, 1.0, 1))

    monkeypatch.setattr("crystal_diffusion_jax.api.model.generate", generate)
    return api.Model(knowing(tiny_model, folder=tmp_path), "m")


def test_python_asks_for_formulas_as_the_flags_do(model, tmp_path):
    lines: list[str] = []
    crystals = model.sample(
        2, formula=["TiO2", "LiMnO2"], formula_units=1, start="template:9", log=lines.append
    )
    assert crystals.formulas == ["TiO2", "LiMnO2", "LiMnO2"]
    assert list(crystals.rejected) == [1]
    assert crystals.material_ids == []
    assert crystals.request.start_time == 9
    assert lines.pop(0).startswith("warning: --start=template: no training crystal has")
    assert lines == ["TiO2: 3 atoms in the cell (Z = 1)", "LiMnO2: 4 atoms in the cell (Z = 1)"]
    text = model.sample(2, formula="TiO2,LiMnO2", formula_units="1", start="template:9")
    assert text.request == crystals.request
    path = write_csv(tmp_path / "t.csv", ["formula", "material_id"], ["TiO2", "1"], ["VO2", "b"])
    for given in (path, str(path)):
        found = model.sample(2, formula=given)
        assert found.material_ids == ["1", "b", "b"]
        assert found.request.formula == str(path)


def test_match_takes_the_ids_of_sampled_crystals_and_counts_rejected_ones(
    model, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        data_load,
        "load",
        lambda config, progress: {"test": dataset([BARIUM, SALT], ids=["a", "b"])},
    )
    path = write_csv(tmp_path / "t.csv", ["formula", "material_id"], ["BaTiO3", "a"], ["NaCl", "b"])
    crystals = model.sample(2, formula=Path(path), formula_units=1)
    assert len(crystals) == 3
    outcome = cdj.match(crystals, "perov5", templates=False)
    assert outcome.answers == "material_id"
    assert outcome.counts["predictions"] == 4
    assert outcome.names == [f"sample {index}" for index in range(4)]
    # Ids of one's own come first, for the crystals that there are.
    own = cdj.match(crystals, "perov5", templates=False, material_ids=["a", "b", "b"])
    assert own.counts["predictions"] == 3
