"""What judges crystals of any origin: oracles, a potential, relaxation, success rates."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from crystal_diffusion_jax.api.arguments import Crystals, as_structures
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.potentials.relaxation import CHGNET, Relaxation, RelaxSettings
from crystal_diffusion_jax.runtime import compilation, devices
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals

# Imported when it is asked for.
if TYPE_CHECKING:
    from crystal_diffusion_jax.evaluation.intervals import Rate
    from crystal_diffusion_jax.oracles.predict import Predictions
    from crystal_diffusion_jax.potentials.energies import Evaluated


@dataclasses.dataclass(frozen=True)
class Oracle:
    """One of CDVAE's property networks.

    Attributes:
      name: name of its data set.
    """

    name: str

    def predict(self, crystals: Crystals) -> np.ndarray:
        """[len(crystals)] predicted property in the data set's unit, NaN for failures.

        Args:
          crystals: one or several pymatgen structures or ASE atoms, or the path of a file or folder
            of any kind that `experiments.predict` reads.
        """
        return self.predictions(crystals).values

    def predictions(self, crystals: Crystals) -> "Predictions":
        """The `values` of `predict`, and `failures`: index -> why there is no value.

        A crystal that the network was never trained on is a failure: its elements, number of atoms,
        volume per atom, distances, or the prediction itself are far from the training data.

        Args:
          crystals: one or several pymatgen structures or ASE atoms.
        """
        from crystal_diffusion_jax.oracles.predict import predict

        return predict(as_structures(crystals), self.name, progress=False)


def oracle(dataset: str) -> Oracle:
    """The oracle of "perov5", "carbon24" or "mp20".

    Raises:
      UserError: unknown name.
    """
    from crystal_diffusion_jax.oracles.weights import require_known

    require_known(dataset)
    return Oracle(dataset)


class Potential:
    """The interatomic potential CHGNet 0.3.0."""

    def predict(self, crystals: Crystals) -> "list[Evaluated | str]":
        """Energy, forces, stress and magnetic moments of each crystal, or the reason for none.

        Args:
          crystals: one or several pymatgen structures or ASE atoms, or the path of a file or folder
            of any kind that `experiments.predict` reads.

        Raises:
          UserError: the weights cannot be downloaded.
        """
        from crystal_diffusion_jax.potentials.energies import evaluate_all

        return evaluate_all(as_structures(crystals), progress=False)


def potential() -> Potential:
    """The potential that `relax` follows by default."""
    devices.use_every_core()
    compilation.keep_compiled_programs()
    return Potential()


def relax(
    crystals: Crystals,
    fixed_cell: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
    potential: str = CHGNET,
    progress: bool = False,
) -> list[Relaxation]:
    """Moves atoms and cells downhill in energy, many crystals at a time.

    `experiments.relax` does the same into a folder, and goes on after an interruption.

    Args:
      crystals: one or several pymatgen structures or ASE atoms, or the path of a file or folder
            of any kind that `experiments.predict` reads.
      fixed_cell: move the atoms only.
      fmax: largest force on an atom at convergence, in eV/A.
      max_steps: steps at most; 0 for energies only.
      potential: "chgnet", or "ase:module.Class" for an ASE calculator, one crystal per core.
      progress: show a progress bar on stderr.

    Returns:
      One relaxation per crystal, in order; those that could not be relaxed have a `failure`.

    Raises:
      UserError: an unknown potential, a setting out of range, or weights that cannot be downloaded.
    """
    from crystal_diffusion_jax.potentials.drivers import driver

    devices.use_every_core()
    compilation.keep_compiled_programs()
    structures = as_structures(crystals)
    settings = RelaxSettings(potential, fixed_cell, fmax, max_steps)
    found = dict(driver(settings)(structures, settings, progress, len(structures)))
    return [found[index] for index in range(len(structures))]


def success_rate(crystals: Crystals, dataset: str) -> "dict[str, Rate]":
    """SR5, SR10 and SR15 of single crystals.

    Crystals that are invalid, rejected or outside the oracle's training count as failures.
    `experiments.evaluate` also computes the other common definitions.

    Args:
      crystals: result of `Model.sample`, or as in `Oracle.predict`.
      dataset: name of the data set, which defines oracle and thresholds.

    Raises:
      UserError: unknown data set, or its oracle's weights cannot be downloaded.
    """
    from crystal_diffusion_jax.evaluation.success_rate import success_rates
    from crystal_diffusion_jax.evaluation.validity import is_valid

    structures = as_structures(crystals)
    values = oracle(dataset).predict(structures)
    valid = [is_valid(crystal) for crystal in structures]
    rejected = len(crystals.rejected) if isinstance(crystals, SampledCrystals) else 0
    return success_rates(
        np.concatenate([values, np.full(rejected, np.nan)]),
        np.array([*valid, *[False] * rejected], bool),
        KNOWN_DATASETS[dataset].success_thresholds,
    )["single_valid"]
