"""What relaxing a crystal takes and gives."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pymatgen.core import Structure

# Largest component of the stress at convergence, in GPa: within the noise of a potential, and below
# what 0.05 eV/A on the atoms of a plane comes to.
MAX_STRESS = 0.5


@dataclass(frozen=True)
class RelaxSettings:
    """How crystals are relaxed.

    Attributes:
      potential: "chgnet", or "ase:module.Class" for an ASE calculator.
      fixed_cell: move the atoms only.
      fmax: largest force on an atom at convergence, in eV/A.
      max_steps: steps of FIRE at most; 0 for energies only.
    """

    potential: str = "chgnet"
    fixed_cell: bool = False
    fmax: float = 0.05
    max_steps: int = 500


@dataclass(frozen=True)
class Relaxation:
    """One crystal, relaxed.

    Attributes:
      structure: relaxed; with `max_steps=0` the crystal itself; None after a failure.
      initial_energy_per_atom: in eV; NaN if unknown.
      energy_per_atom: in eV; NaN after a failure.
      steps: of FIRE.
      converged: to the forces and stress that were asked for.
      magnetic_moments: in Bohr magnetons; NaN where the potential has none.
      failure: "reason" or "reason: details"; None if there is none.
    """

    structure: Structure | None
    initial_energy_per_atom: float
    energy_per_atom: float
    steps: int
    converged: bool
    magnetic_moments: Float[np.ndarray, " atoms"]
    failure: str | None
