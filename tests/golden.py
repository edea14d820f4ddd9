"""Predictions and intermediate tensors of the original program, and the networks to compare.

The files lie beside the repository; tests that need them, or the published weights, are skipped
where they cannot be had.
"""

import csv
import functools
import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.oracles import weights
from crystal_diffusion_jax.oracles.batching import CrystalGraph
from crystal_diffusion_jax.oracles.weights import Weights

_SHARED = Path(__file__).parents[2] / "shared"


@functools.cache
def network(oracle: str) -> Weights:
    """A published network, fetched into the user's cache when it is not there yet."""
    try:
        return weights.load(oracle, progress=False)
    except UserError as error:
        pytest.skip(f"the published weights cannot be had: {error}")


@functools.cache
def crystals(oracle: str) -> list[dict[str, Any]]:
    """120 crystals with bonds and predictions."""
    path = _SHARED / "golden" / f"oracle_{oracle}.json"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return content


def column(oracle: str, name: str) -> np.ndarray:
    """One number of each of the 120 crystals."""
    return np.array([crystal[name] for crystal in crystals(oracle)])


def structure(crystal: dict[str, Any]) -> Structure:
    """One of `crystals` as a structure."""
    return Structure(Lattice(crystal["lattice"]), crystal["atomic_numbers"], crystal["frac_coords"])


def graph(crystal: dict[str, Any]) -> CrystalGraph:
    """One of `crystals` with the bonds of the original program."""
    bonds = [crystal["edges_j"], crystal["edges_i"], *np.transpose(crystal["edges_image"])]
    return CrystalGraph(
        lattice=np.array(crystal["lattice"]),
        frac_coords=np.array(crystal["frac_coords"]),
        atomic_numbers=np.array(crystal["atomic_numbers"]),
        bonds=np.stack(bonds, axis=1),
    )


def intermediates(oracle: str) -> dict[str, np.ndarray]:
    """Tensors of three crystals inside the original network, in float32."""
    path = _SHARED / "golden" / f"oracle_{oracle}_intermediates.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@functools.cache
def table(dataset: str, split: str) -> list[dict[str, str]]:
    """Rows of a real data set in CDVAE's csv format."""
    path = _SHARED / "data" / dataset / f"{split}.csv.gz"
    if not path.is_file():
        pytest.skip(f"no data set {path}")
    csv.field_size_limit(10**9)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reduced_structure(cif: str) -> Structure:
    """Niggli-reduced structure in canonical orientation, as the original program reads a CIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rounded coordinates in the CIF
        reduced = Structure.from_str(cif, fmt="cif").get_reduced_structure()
    lattice = Lattice.from_parameters(*reduced.lattice.parameters)
    return Structure(lattice, reduced.species, reduced.frac_coords)
