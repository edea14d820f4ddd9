"""Reference energies of the elements: from a potential's energies to formation energies.

E_f = E - sum_i mu(Z_i) / N per atom. The mu were fitted on each known data set, so that CHGNet's
formation energies are as close as possible to its labels (`studies/references.py`). They belong to
the data set, as each has its own reference state:

  mp20      formation energy from the elements, as in the Materials Project. Also the one to take
            for crystals of any other origin.
  perov5    heat of formation (Castelli et al., Energy Environ. Sci. 5, 5814 (2012); functional
            RPBE) from the phases that compete with a perovskite, not from the elements: 0 means as
            stable as those. It follows the composition less simply, see docs/hull.md.
  carbon24  energy above the lowest crystal of the training set. The labels are total energies, and
            with one element a reference can only shift them: 0 is the best carbon of the data.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, read_json

FOLDER = Path(__file__).parent / "reference_energies"


@dataclasses.dataclass(frozen=True)
class References:
    """Reference energies fitted on one data set; the file also says how well they do.

    Attributes:
      dataset: name of the data set.
      label: what its label is and how it becomes a formation energy.
      label_is_per_cell: the label is divided by the number of atoms.
      label_zero: is subtracted from the label per atom, in eV.
      energies: eV per atom by atomic number.
    """

    dataset: str
    label: str
    label_is_per_cell: bool
    label_zero: float
    energies: Mapping[int, float]

    def formation_energy(self, atomic_numbers: Iterable[int], energy_per_atom: float) -> float:
        """Formation energy in eV/atom; NaN if an element has no reference.

        Args:
          atomic_numbers: [N] of the crystal.
          energy_per_atom: of the potential, in eV.
        """
        return formation_energy(self.energies, atomic_numbers, energy_per_atom)

    def of_labels(self, labels: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
        """[M] labels of the data set -> [M] formation energies in eV/atom, as for its hull.

        Args:
          labels: [M] in the data set's own unit.
          num_atoms: [M] atoms of each crystal.
        """
        return np.asarray(labels) / (num_atoms if self.label_is_per_cell else 1) - self.label_zero


def formation_energy(
    energies: Mapping[int, float], atomic_numbers: Iterable[int], energy_per_atom: float
) -> float:
    """`References.formation_energy` for any reference energies in eV by atomic number."""
    references = [energies.get(int(number), math.nan) for number in atomic_numbers]
    return float(energy_per_atom - np.mean(references))


@functools.cache
def load(dataset: str) -> References:
    """The reference energies of a known data set.

    Raises:
      UserError: there are none for this data set.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.json"))
    if dataset not in known:
        raise UserError(
            f"There are no reference energies for '{dataset}': choose one of {', '.join(known)}"
            f"{did_you_mean(dataset, known)}"
        )
    return read_json(FOLDER / f"{dataset}.json", MAX_RECORD_BYTES, References)
