"""What relaxing a crystal takes and gives, and what is measured on it afterwards."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHGNET = "chgnet"

# Largest component of the stress at convergence, in GPa: within the noise of a potential, and below
# what 0.05 eV/A on the atoms of a plane comes to.
MAX_STRESS = 0.5
# A cell whose volume changes by a larger factor was never a crystal of its potential.
LARGEST_VOLUME_RATIO = 8.0


@dataclass(frozen=True)
class RelaxSettings:
    """How crystals are relaxed.

    Attributes:
      potential: "chgnet", or "ase:module.Class" for an ASE calculator.
      fixed_cell: move the atoms only.
      fmax: largest force on an atom at convergence, in eV/A.
      max_steps: steps of FIRE at most; 0 for energies only.
    """

    potential: str = CHGNET
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
      magnetic_moments: in Bohr magnetons; NaN where the potential has none; empty after a failure.
      failure: "reason" or "reason: details"; None if there is none.
    """

    structure: "Structure | None"
    initial_energy_per_atom: float
    energy_per_atom: float
    steps: int
    converged: bool
    magnetic_moments: Float[np.ndarray, " atoms"]
    failure: str | None


def failed(reason: str, initial_energy_per_atom: float = math.nan, steps: int = 0) -> Relaxation:
    """The outcome of a crystal that has no relaxed structure.

    Args:
      reason: "reason" or "reason: details".
      initial_energy_per_atom: in eV, if it came so far.
      steps: taken until then.
    """
    return Relaxation(
        structure=None,
        initial_energy_per_atom=initial_energy_per_atom,
        energy_per_atom=math.nan,
        steps=steps,
        converged=False,
        magnetic_moments=np.empty(0),
        failure=reason,
    )


@dataclass(frozen=True)
class RelaxedCrystal:
    """One of the crystals that were requested; numbers are NaN where they are unknown.

    Attributes:
      name: of the crystal: file, row, frame or index.
      relaxation: outcome; unreadable and unfinished crystals have a failure.
      rmsd: root mean square displacement in Angstrom; NaN too where the structure is another one.
      volume_change: relative, e.g. 0.02 for a crystal that grew by 2 %.
      formation_energy_per_atom: in eV.
      energy_above_hull: in eV per atom.
      decomposition: the phases on the hull with their shares of the atoms; "" if unknown.
    """

    name: str
    relaxation: Relaxation
    rmsd: float = math.nan
    volume_change: float = math.nan
    formation_energy_per_atom: float = math.nan
    energy_above_hull: float = math.nan
    decomposition: str = ""

    @property
    def energy_gain(self) -> float:
        """Energy that relaxing released, in eV per atom."""
        return self.relaxation.initial_energy_per_atom - self.relaxation.energy_per_atom
