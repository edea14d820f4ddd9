"""Pages of a few crystals, for the tests of the report."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal, RelaxSettings
from crystal_diffusion_jax.report import build
from crystal_diffusion_jax.report.document import Page
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.database import StoredRequest
from crystal_diffusion_jax.structures.reading import Inputs
from tests.crystal_sets import dataset

SITES = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
PEROV5 = KNOWN_DATASETS["perov5"]
REQUEST = Request(
    model="perov5_cds", model_sha256=trained_model.load("perov5_cds").weights_sha256,
    target={"heat_ref": (0.5, 0.5)},
    num=4, seed=3, guidance=1.0, solver="second_order", num_steps=50, corrector_step_size=1e-6,
    renoising_steps=0, elements=("Ba", "O"), num_atoms=5, symprec=0.1,
)  # fmt: skip


def perovskite(a: str, b: str, edge: float) -> Structure:
    return Structure(Lattice.cubic(edge), [a, b, "O", "O", "O"], SITES)


def training_set() -> CrystalDataset:
    structures = [perovskite("Ba", "Ti", 4.0), perovskite("Ba", "Ti", 4.4)]
    structures.append(perovskite("Sr", "Zr", 4.1))
    ids = ["first", "second", "third"]
    return dataset(structures, ("heat_ref",), ids, [[0.1], [0.2], [0.3]])


def volume_oracle(structures: Sequence[Structure], oracle: str) -> Predictions:
    """Predicts (a - 4.2 Angstrom) of a cube of edge a, in eV per Angstrom."""
    return Predictions(np.array([s.volume ** (1 / 3) - 4.2 for s in structures]), {})


def no_oracle(structures: Sequence[Structure], oracle: str) -> Predictions:
    raise UserError("no weights")


def page_of(
    monkeypatch: pytest.MonkeyPatch,
    structures: Sequence[Structure | None],
    train: CrystalDataset | None = None,
    oracle: Callable[..., Predictions] = volume_oracle,
    outcomes: Sequence[RelaxedCrystal] = (),
    **changes: Any,
) -> Page:
    """The page of some samples of Perov-5.

    Args:
      monkeypatch: replaces what reads files.
      structures: the crystals.
      train: their training crystals; None without the data.
      oracle: predicts.
      outcomes: what relaxing the crystals gave.
      changes: to `REQUEST`.
    """
    num = len(structures)
    failures = {i: "empty file" for i, structure in enumerate(structures) if structure is None}
    inputs = Inputs(list(structures), [f"sample {i}" for i in range(num)], failures)

    def training(data: object, root: str) -> CrystalDataset:
        if train is None:
            raise UserError("no data")
        return train

    monkeypatch.setattr(build, "read_structures", lambda path: inputs)
    monkeypatch.setattr(build, "predict", oracle)
    monkeypatch.setattr(build, "training_crystals", training)
    relaxed = (list(outcomes), RelaxSettings() if outcomes else None)
    monkeypatch.setattr(build, "read_relaxed_samples", lambda path: relaxed)
    request = dataclasses.replace(REQUEST, num=num, **changes)
    stored = StoredRequest(request, {"jax": "0.9", "spglib": "2.6"})
    return build.build(Path("samples"), stored, PEROV5, None, "", 0.1, "crystal-diffusion report")


def values_of(page: Page, key: str) -> list[Any]:
    """The values of one column, in the order of the crystals."""
    (column,) = [column for column in page.columns if column.key == key]
    return column.values


def data_of(html: str) -> dict[str, Any]:
    """The data that the script of a page reads."""
    start = html.index('<script type="application/json" id="data">')
    found: dict[str, Any] = json.loads(
        html[html.index("{", start) : html.index("</script>", start)]
    )
    return found
