"""Crystals with a known defect: a stretched cell, or atoms pushed out of their places."""

from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.structures.conversion import from_ase, to_ase


def strained(structure: Structure, percent: float) -> Structure:
    """The crystal with all cell vectors longer by some per cent; fractional coordinates stay."""
    return structure.apply_strain(percent / 100, inplace=False)


def rattled(structure: Structure, sigma: float, seed: Sequence[int]) -> Structure:
    """The crystal with a Gaussian displacement of each atom.

    The same seed gives the same directions at every `sigma`, so that a curve over sigma follows
    each crystal along one line.

    Args:
      structure: the crystal.
      sigma: standard deviation along each Cartesian axis, in Angstrom.
      seed: of the displacements.
    """
    atoms = to_ase(structure)
    atoms.rattle(sigma, rng=np.random.default_rng(seed))
    return from_ase(atoms)


def perturbed(
    structures: Sequence[Structure], perturbation: str, amounts: Sequence[float], seed: int
) -> dict[float, list[Structure]]:
    """Amount -> the perturbed crystals.

    Args:
      structures: the crystals.
      perturbation: "strain" in per cent, or "rattle" in Angstrom.
      amounts: how much.
      seed: of the displacements, which differ from crystal to crystal.
    """
    if perturbation == "strain":
        return {amount: [strained(each, amount) for each in structures] for amount in amounts}
    return {
        amount: [rattled(each, amount, (seed, i)) for i, each in enumerate(structures)]
        for amount in amounts
    }
