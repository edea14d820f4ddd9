"""Every notebook runs from its first cell to its last, outside of the repository's folder."""

import json
import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
# Fewer crystals and steps, so that it takes a minute.
SMALLER = {"sampling.ipynb": {"NUM": 6}, "own_data.ipynb": {"STEPS": 300}}


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
    # The kernel's own files, too, into the test's folder.
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def test_every_notebook_is_tried_here_and_kept_without_outputs():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALLER)
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert all(not cell.get("outputs") for cell in cells)


def test_sampling(tmp_path, monkeypatch):
    notebook = executed("sampling.ipynb", tmp_path, monkeypatch)
    said = "\n".join(text_of(cell.get("outputs", [])) for cell in notebook.cells)
    counts = re.search(r"'SR5': '(\d+) of 6'", said)
    assert counts is not None
    assert 0 <= int(counts[1]) <= 6
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3


@pytest.mark.faults  # takes minutes; its steps are those of test_own_data.py
def test_own_data(tmp_path, monkeypatch):
    executed("own_data.ipynb", tmp_path, monkeypatch)
    folder = tmp_path / "own_data_example"
    assert (folder / "run" / "model" / "weights.npz").is_file()
    assert os.listdir(folder / "light")
