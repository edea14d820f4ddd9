"""Values of the original CHGNet, and small crystals for its tests.

The file lies beside the repository; tests that need it, or the published weights, are skipped where
they cannot be had.
"""

import functools
import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials import chgnet, weights
from crystal_diffusion_jax.potentials.batching import AtomBatch, pad
from crystal_diffusion_jax.potentials.neighbours import (
    AtomGraph,
    Capacity,
    atom_graph,
    structure_graph,
)

Tree = TypeVar("Tree")

_GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "potential_chgnet.json"

# Of nearly all batches in the tests, so that the network is compiled once.
CAPACITY = Capacity(crystals=21, atoms=241, long_bonds=6145, short_bonds=1025, angles=8193)


@functools.cache
def parameters() -> dict[str, np.ndarray]:
    """The published weights, fetched into the user's cache when they are not there yet."""
    try:
        return dict(weights.load(progress=False))
    except UserError as error:
        pytest.skip(f"the published weights cannot be had: {error}")


@functools.cache
def golden() -> list[dict[str, Any]]:
    """40 crystals of three data sets with everything that the original says of them."""
    if not _GOLDEN.is_file():
        pytest.skip(f"no golden file {_GOLDEN}")
    content: list[dict[str, Any]] = json.loads(_GOLDEN.read_text())["crystals"]
    return content


def golden_graph(crystal: dict[str, Any]) -> AtomGraph:
    """Bonds and angles of one of `golden`."""
    return atom_graph(
        np.array(crystal["lattice"]),
        np.array(crystal["frac_coords"]),
        np.array(crystal["atomic_numbers"]),
    )


def rock_salt(num_cells: int = 1, displacement: float = 0.0) -> Structure:
    """NaCl, 2 atoms a cell, each atom of each cell displaced at random by so many Angstrom."""
    structure = Structure.from_spacegroup(
        "Fm-3m", 5.69 * np.eye(3), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
    structure.make_supercell([num_cells, 1, 1])
    moves = np.random.default_rng(0).normal(size=(len(structure), 3)) * displacement
    for index, move in enumerate(moves):
        structure.translate_sites([index], move, frac_coords=False)
    return structure


def in_float64(tree: Tree) -> Tree:
    """The same numbers in float64, by way of NumPy, which needs no compilation."""

    def widen(leaf: Any) -> Any:
        return jnp.asarray(np.float64(leaf)) if leaf.dtype == np.float32 else jnp.asarray(leaf)

    with jax.enable_x64(True):
        widened: Tree = jax.tree.map(widen, tree)
    return widened


_outputs = jax.jit(chgnet.outputs)


def outputs(graphs: list[AtomGraph], capacity: Capacity = CAPACITY) -> chgnet.Outputs:
    """What the network says in float32, with the padding."""
    return jax.tree.map(np.asarray, _outputs(parameters(), pad(graphs, capacity)))


def exact_outputs(
    graphs: list[AtomGraph],
    lattice: np.ndarray | None = None,
    frac_coords: np.ndarray | None = None,
    capacity: Capacity = CAPACITY,
) -> chgnet.Outputs:
    """What it says in float64, of exactly the lattices and coordinates of the graphs, or others."""
    batch: Any = in_float64(pad(graphs, capacity))
    if lattice is None:
        lattice = np.stack([graph.lattice for graph in graphs])
    if frac_coords is None:
        wrapped = [graph.frac_coords - np.floor(graph.frac_coords) for graph in graphs]
        frac_coords = np.concatenate(wrapped)
    with jax.enable_x64(True):
        exact: AtomBatch = batch.replace(
            lattice=_with_head(batch.lattice, lattice),
            frac_coords=_with_head(batch.frac_coords, frac_coords),
        )
        return jax.tree.map(np.asarray, _outputs(in_float64(parameters()), exact))


def _with_head(padded: Array, values: np.ndarray) -> Array:
    full = np.array(padded)
    full[: len(values)] = values
    return jnp.asarray(full)


def exact_energy(structure: Structure, skin: bool = False) -> float:
    """Energy per atom in float64."""
    return float(exact_outputs([structure_graph(structure, skin)]).energy[0]) / len(structure)
