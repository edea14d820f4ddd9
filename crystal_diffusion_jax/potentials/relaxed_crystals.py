"""A crystal of a set that was relaxed, with what is measured on it afterwards."""

import dataclasses
import math

import numpy as np

from crystal_diffusion_jax.potentials.relaxation import Relaxation


@dataclasses.dataclass(frozen=True)
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
