"""Every notebook runs from its first cell to its last, outside of the repository's folder."""

import ast
import dataclasses
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import crystal_diffusion_jax as cdj
from crystal_diffusion_jax import api
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracles import weights
from crystal_diffusion_jax.potentials import weights as potential_weights
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
# Fewer crystals and steps, so that each takes a minute.
SMALLER = {
    "quickstart.ipynb": {"STEPS": 200},
    "sampling.ipynb": {"NUM": 16},
    "own_data.ipynb": {"STEPS": 300},
    "discover.ipynb": {"NUM": 24},
    "prediction.ipynb": {"NUM": 4},
}


def text_of(outputs: list[Any]) -> str:
    texts = [output.get("text", "") for output in outputs]
    texts += [output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(texts)


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    for variable, value in SMALLER[name].items():
        found = 0
        for cell in notebook.cells:
            cell.source, times = re.subn(
                rf"^{variable} = \d+", f"{variable} = {value}", cell.source, flags=re.M
            )
            found += times
        assert found == 1, variable
    # The kernel writes its own files into the test's folder as well.
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def test_every_notebook_is_tested_and_stored_without_outputs():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALLER)
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert all(not cell.get("outputs") for cell in cells)


# Types of the notebooks' variables.
KINDS: dict[str, Any] = {"cdj": cdj, "model": api.Model}
KINDS |= dict.fromkeys(("crystals", "swept", "chosen", "light", "heavy"), SampledCrystals)
CALLS = {"quickstart.ipynb": 2, "sampling.ipynb": 8, "own_data.ipynb": 4}
CALLS |= {"discover.ipynb": 1, "prediction.ipynb": 4}


def code_of(name: str) -> ast.Module:
    cells = json.loads((NOTEBOOKS / name).read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return ast.parse("\n".join(sources))


@pytest.mark.parametrize(("name", "calls"), CALLS.items())
def test_what_a_notebook_uses_of_the_package_exists(name, calls):
    seen = 0
    for node in ast.walk(code_of(name)):
        called = node.func if isinstance(node, ast.Call) else node
        match called:
            case ast.Attribute(value=ast.Name(id=variable), attr=attribute) if variable in KINDS:
                kind = KINDS[variable]
            case _:
                continue
        fields = (
            [field.name for field in dataclasses.fields(kind)] if isinstance(kind, type) else []
        )
        assert hasattr(kind, attribute) or attribute in fields, f"{variable}.{attribute}"
        if isinstance(node, ast.Call):
            seen += 1
            function = getattr(kind, attribute)
            itself = [None] if isinstance(kind, type) else []
            given = {str(keyword.arg): None for keyword in node.keywords}
            inspect.signature(function).bind(*itself, *node.args, **given)
    assert seen >= calls


def num_pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.faults  # takes a minute
def test_quickstart(tmp_path, monkeypatch):
    notebook = executed("quickstart.ipynb", tmp_path, monkeypatch)
    said = "\n".join(text_of(cell.get("outputs", [])) for cell in notebook.cells)
    assert re.search(r"32 crystals of quickstart", said)
    assert num_pictures(notebook) == 1


@pytest.mark.slow
def test_sampling(tmp_path, monkeypatch):
    try:
        weights.prepare(progress=False)
    except UserError as error:
        pytest.skip(str(error))
    notebook = executed("sampling.ipynb", tmp_path, monkeypatch)
    said = "\n".join(text_of(cell.get("outputs", [])) for cell in notebook.cells)
    assert re.search(r"'SR5': '\d+ of 16'", said)
    assert num_pictures(notebook) == 3


@pytest.mark.slow
def test_discover(tmp_path, monkeypatch):
    try:
        weights.prepare(progress=False)
        potential_weights.prepare(progress=False)
    except UserError as error:
        pytest.skip(str(error))
    notebook = executed("discover.ipynb", tmp_path, monkeypatch)
    said = "\n".join(text_of(cell.get("outputs", [])) for cell in notebook.cells)
    assert num_pictures(notebook) == 1
    assert "ENCUT = 520" in said
    assert list((tmp_path / "discover_example" / "shortlist").glob("*/MPRelaxSet/POTCAR.spec"))


@pytest.mark.slow
def test_prediction(tmp_path, monkeypatch):
    try:
        potential_weights.prepare(progress=False)
    except UserError as error:
        pytest.skip(str(error))
    notebook = executed("prediction.ipynb", tmp_path, monkeypatch)
    said = "\n".join(text_of(cell.get("outputs", [])) for cell in notebook.cells)
    assert "4 crystals of mp20_cdi (TiO2 4)" in said
    assert re.search(r"displacement from rutile: \{.*\}", said)
    assert re.search(r"crystal \d: -\d+\.\d{3} eV/atom", said)


@pytest.mark.faults  # takes minutes; its steps are those of test_own_data.py
def test_own_data(tmp_path, monkeypatch):
    executed("own_data.ipynb", tmp_path, monkeypatch)
    folder = tmp_path / "own_data_example"
    assert (folder / "run" / "model" / "weights.npz").is_file()
    assert os.listdir(folder / "light")
