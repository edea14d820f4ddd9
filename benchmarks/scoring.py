"""Rates of what scores crystals: bonds, the oracle, energies with forces and stress.

The crystals are those of the built-in data set, and supercells of them.
"""

import os
import tempfile
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
from pymatgen.core import Lattice, Structure

from benchmarks.timing import rate, repeated, spread
from crystal_diffusion_jax.data.perovskites import abx3_dataset
from crystal_diffusion_jax.oracles import bonds
from crystal_diffusion_jax.oracles.predict import answers
from crystal_diffusion_jax.potentials import packing, weights
from crystal_diffusion_jax.potentials.batching import pad
from crystal_diffusion_jax.potentials.chgnet import outputs
from crystal_diffusion_jax.potentials.neighbours import structure_graph

# Runs of the search for bonds, which takes seconds, and how often the oracle gets each crystal.
_REPEATS, _COPIES = 3, 5


def perovskites(num: int, cells: tuple[int, int, int] = (1, 1, 1)) -> list[Structure]:
    """Crystals spread over the built-in data set, their atoms moved at random by about 0.05 A."""
    data = abx3_dataset()
    rng = np.random.default_rng(0)
    found = []
    for index in np.linspace(0, len(data.num_atoms) - 1, num).astype(int):
        atoms = slice(5 * index, 5 * index + 5)
        lattice = Lattice(data.lattice[index])
        numbers, coords = data.atomic_numbers[atoms], data.frac_coords[atoms]
        structure = Structure(lattice, numbers.tolist(), coords).make_supercell(cells)
        moves = rng.normal(0.0, 0.05, (len(structure), 3))
        coords = structure.frac_coords + structure.lattice.get_fractional_coords(moves)
        found.append(Structure(structure.lattice, structure.species, coords))
    return found


def bonds_speed(num: int, cells: tuple[int, int, int]) -> dict[str, Any]:
    """Crystals per second on all cores, with the start of the workers, without the cache."""
    structures = perovskites(num, cells)

    def build() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.dict(os.environ, CRYSTAL_DIFFUSION_CACHE=folder),
        ):
            found = bonds.build(structures, progress=False)
        if len(found.found) < num / 2:
            raise RuntimeError(f"bonds of most crystals failed: {found.failures}")

    return {"crystals_per_second": rate(num, repeated(build, _REPEATS))}


def oracle_speed(num: int) -> dict[str, Any]:
    """Crystals per second of the oracle of Perov-5, on crystals whose bonds are in the cache."""
    structures = perovskites(num) * _COPIES

    def predict() -> None:
        if np.isnan(answers(structures, "perov5", progress=False).values).mean() > 0.5:
            raise RuntimeError("the oracle has no value for most crystals")

    return {"crystals_per_second": rate(len(structures), repeated(predict))}


def potential_speed() -> dict[str, Any]:
    """Core-milliseconds per atom of energy, forces and stress: a full batch on each core."""
    graphs = [structure_graph(structure) for structure in perovskites(200, (1, 1, 2))]
    sizes = [graph.size for graph in graphs]
    capacities, common = packing.capacities(sizes), packing.common(sizes, packing.least_rows())
    chosen, capacity = packing.choose(sizes, capacities[: common + 1], common, 1)
    batch = pad([graphs[index] for index in chosen], capacity)
    num_atoms = sum(sizes[index].atoms for index in chosen)
    evaluate, parameters = jax.jit(outputs), weights.load(progress=False)
    placed = [jax.device_put((parameters, batch), device) for device in jax.devices()]
    seconds = repeated(lambda: [evaluate(*arguments) for arguments in placed])
    return {
        "core_ms_per_atom": spread([1e3 * one / num_atoms for one in seconds]),
        "atoms": num_atoms,
    }
