"""A potential of bonds alone, on batches of the real one: it compiles quickly."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from pymatgen.core import Structure

from crystal_diffusion_jax.potentials.batching import AtomBatch, pad
from crystal_diffusion_jax.potentials.chgnet import Outputs, bond_vectors
from crystal_diffusion_jax.potentials.neighbours import CUTOFF, Capacity, structure_graph

# Depth in eV, stiffness in 1/A and length in A of the bonds.
PARAMETERS = {"depth": 0.4, "stiffness": 1.2, "length": 2.6}


def bond_energy(parameters: dict[str, Any], distance: jax.Array) -> jax.Array:
    """Morse, smoothly zero at the cutoff."""
    attraction = jnp.exp(-parameters["stiffness"] * (distance - parameters["length"]))
    envelope = (1 - (distance / CUTOFF) ** 2) ** 3 * (distance < CUTOFF)
    return parameters["depth"] * (attraction**2 - 2 * attraction) * envelope


def outputs(parameters: dict[str, Any], batch: AtomBatch) -> Outputs:
    """As `chgnet.outputs`; the magnetic moments are the atomic numbers."""
    num_crystals = len(batch.lattice)
    owner = batch.crystal[batch.first]

    def energies(frac_coords: jax.Array, strain: jax.Array) -> jax.Array:
        lattice = batch.lattice + batch.lattice @ strain
        moved = dataclasses.replace(batch, lattice=lattice, frac_coords=frac_coords)
        vectors = bond_vectors(moved)
        bonds = bond_energy(parameters, jnp.linalg.norm(vectors, axis=-1))
        return jax.ops.segment_sum(bonds, owner, num_crystals)

    no_strain = jnp.zeros((num_crystals, 3, 3))
    energy, back = jax.vjp(energies, batch.frac_coords, no_strain)
    by_coords, by_strain = back(jnp.ones(num_crystals))
    # dE/dx = L^-1 dE/dfrac, as frac = x L^-1.
    inverse = jnp.linalg.inv(batch.lattice)[batch.crystal]
    forces = -jnp.einsum("aij,aj->ai", inverse, by_coords)
    volume = jnp.abs(jnp.linalg.det(batch.lattice))[:, None, None]
    return Outputs(energy, forces, by_strain / volume, batch.atomic_numbers.astype(float))


class BondCalculator(Calculator):
    """The same for ASE, with lists of its own in each step."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012, ASE's own

    def calculate(self, atoms=None, properties=(), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        graph = structure_graph(Structure.from_ase_atoms(self.atoms))
        capacity = Capacity(2, len(self.atoms) + 1, 2048, 512, 8192)
        out = _outputs(PARAMETERS, pad([graph], capacity))
        self.results = {
            "energy": float(out.energy[0]),
            "forces": np.asarray(out.forces)[: len(self.atoms)],
            "stress": full_3x3_to_voigt_6_stress(np.asarray(out.stress[0])),
        }


_outputs = jax.jit(outputs)
