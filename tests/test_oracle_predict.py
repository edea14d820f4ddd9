"""oracles/predict.py and cli/predict.py: from structures to numbers."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.cli import predict as program
from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.oracles import batching, bonds
from crystal_diffusion_jax.oracles.batching import BatchShape
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.oracles.weights import NETWORKS
from tests import golden
from tests.child import on_devices

# Of a prediction in eV, per cell or per atom: at most 2e-5 of rounding here, as much again in the
# original, which was in float32 (test_oracle_dimenet), and the last digit of -154 eV.
ATOL = 1e-4


@pytest.fixture(autouse=True)
def _bonds_are_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(bonds, "cache_folder", lambda: tmp_path / "cache")
    if not request.node.get_closest_marker("slow"):
        # In batches of one shape, so that the network is compiled once.
        shape = BatchShape(crystals=16, atoms=128, bonds=512, triplets=4096)
        monkeypatch.setattr(batching, "_common_shape", lambda *_: shape)


def assert_as_the_original(oracle: str, crystals: list[dict[str, Any]]) -> None:
    golden.network(oracle)
    found = predict([golden.structure(crystal) for crystal in crystals], oracle, progress=False)
    assert found.failures == {}
    expected = [crystal["prediction"] for crystal in crystals]
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("oracle", NETWORKS)
def test_from_lattice_and_coordinates_predictions_are_those_of_the_original(oracle: str) -> None:
    # The first one of mp20 has bonds of atoms to their own images.
    assert_as_the_original(oracle, golden.crystals(oracle)[:5])


@pytest.mark.slow
@pytest.mark.parametrize("oracle", NETWORKS)
def test_all_predictions_are_those_of_the_original(oracle: str) -> None:
    assert_as_the_original(oracle, golden.crystals(oracle))


def test_origin_orientation_and_order_of_the_atoms_do_not_matter() -> None:
    golden.network("mp20")
    structure = golden.structure(golden.crystals("mp20")[7])
    shifted = structure.copy()
    shifted.translate_sites(range(len(shifted)), [0.3, -0.2, 0.7], to_unit_cell=False)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = Structure(
        Lattice(structure.lattice.matrix @ rotation), structure.species, structure.frac_coords
    )
    reversed_order = Structure.from_sites(list(structure)[::-1])
    found = predict([structure, shifted, rotated, reversed_order], "mp20", progress=False)
    np.testing.assert_allclose(found.values, found.values[0], rtol=0, atol=ATOL)


def test_failures_are_named_and_leave_the_others_in_place() -> None:
    golden.network("perov5")
    good = golden.structure(golden.crystals("perov5")[0])
    dense = Structure(Lattice.cubic(0.5), ["Cu"], [[0, 0, 0]])
    tiny = Structure(Lattice.cubic(0.2), ["H"], [[0, 0, 0]])
    heavy = Structure(Lattice.cubic(4), ["Cm"], [[0, 0, 0]])
    found = predict([dense, good, tiny, heavy], "perov5", progress=False)
    assert np.isnan(found.values).tolist() == [True, False, True, True]
    assert list(found.failures) == [0, 2, 3]
    assert found.failures[0] == f"{OUTSIDE} (number of atoms): 1 in the cell, trained on 5 to 5"
    assert found.failures[2].startswith("volume below")
    assert found.failures[3].endswith(": Cm")


def test_no_structures_give_no_predictions() -> None:
    golden.network("perov5")
    found = predict([], "perov5", progress=False)
    assert found.values.shape == (0,)
    assert found.failures == {}


_ON_THREE_DEVICES = """
import jax
import numpy as np
from crystal_diffusion_jax.oracles import predict
from crystal_diffusion_jax.oracles.batching import CrystalGraph, pack

traces = []

def count_bonds(parameters, batch):
    traces.append(batch)
    each = parameters["each"] * (batch.image[:, 0] == 0)
    return jax.ops.segment_sum(each, batch.crystal[batch.target], len(batch.num_atoms))

predict.forward = count_bonds
assert len(jax.devices()) == 3
# Each fills more than half a batch, so that three devices take four batches.
sizes = [300, 400, 310, 290]
bonds = [np.zeros((size, 5), dtype=np.int32) for size in sizes]
graphs = [CrystalGraph(np.eye(3), np.zeros((1, 3)), np.array([6]), each) for each in bonds]
found = list(predict._outputs({"each": np.float32(2.0)}, pack(graphs, 512)))
assert [members for members, _ in found] == [[0], [1], [2], [3]], found
assert [outputs.tolist() for _, outputs in found] == [[2.0 * size] for size in sizes], found
assert len(traces) == 1
"""


def test_each_device_takes_a_batch_and_all_share_one_program() -> None:
    on_devices(3, _ON_THREE_DEVICES)


def run(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", *flags])
    cli.run(program.main)


def test_the_program_writes_one_row_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden.network("perov5")
    crystal = golden.crystals("perov5")[0]
    folder = tmp_path / "crystals"
    folder.mkdir()
    golden.structure(crystal).to(str(folder / "b.cif"))
    (folder / "a.cif").write_text("no crystal")
    Structure(Lattice.cubic(4), ["Am"], [[0, 0, 0]]).to(str(folder / "c.cif"))
    out = tmp_path / "new" / "predictions.csv"
    run(monkeypatch, "--oracle=perov5", f"--structures={folder}", f"--out={out}")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a.cif", "b.cif", "c.cif"]
    assert [bool(row["failure"]) for row in rows] == [True, False, True]
    assert [row["prediction (eV/cell)"] == "" for row in rows] == [True, False, True]
    assert float(rows[1]["prediction (eV/cell)"]) == pytest.approx(crystal["prediction"], abs=ATOL)
    assert "1 of 3 crystals predicted" in capsys.readouterr().out


def test_a_missing_input_ends_the_program_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--oracle=mp20", f"--structures={tmp_path / 'none'}", "--out=out.csv")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
