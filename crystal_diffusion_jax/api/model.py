"""A trained model: loading it, and sampling from it."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.api.arguments import Asked, as_flags, to_stderr
from crystal_diffusion_jax.config import Solver
from crystal_diffusion_jax.errors import require_between
from crystal_diffusion_jax.runtime import compilation, devices
from crystal_diffusion_jax.sampling.announcement import announcement
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.sampled_crystals import CrystalsInMemory, SampledCrystals
from crystal_diffusion_jax.trained_model import TrainedModel


def load(model: str | Path) -> "Model":
    """A trained model.

    Args:
      model: name of a shipped model, a model folder, or a training run's folder.

    Raises:
      UserError: no such model, or a damaged one.
    """
    # Before the first array is made, which fixes the devices.
    devices.use_every_core()
    compilation.keep_compiled_programs()
    return Model(trained_model.load(model), str(model))


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A trained model that can be sampled from.

    Attributes:
      trained: weights, config and statistics.
      name: name or path it was loaded from.
    """

    trained: TrainedModel
    name: str

    def __repr__(self) -> str:
        ranges = (
            f"{name} {', '.join(self.classes[name])}"
            if name in self.classes
            else f"{name} {low:.4g} .. {high:.4g}"
            for name, (low, high) in self.properties.items()
        )
        return f"Model({self.name!r}: {', '.join(ranges) or 'without a property'})"

    @property
    def properties(self) -> dict[str, tuple[float, float]]:
        """Range of each property in the training data, in its own unit; of a class its numbers."""
        statistics = self.trained.statistics
        ends = zip(statistics.property_min, statistics.property_max, strict=True)
        return dict(zip(statistics.property_names, ends, strict=True))

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes 0, 1, ... of each property that is a class."""
        return dict(self.trained.statistics.class_names)

    def sample(
        self,
        num: int = 100,
        target: Asked | Mapping[str, Asked] | None = None,
        *,
        guidance: float = 0.0,
        seed: int = 0,
        sampler: str | None = None,
        solver: Solver | None = None,
        num_steps: int | None = None,
        renoising_steps: int | None = None,
        averaging_rounds: int | None = None,
        elements: str | Sequence[str] | None = None,
        chemical_system: str | Sequence[str] | None = None,
        num_atoms: int | None = None,
        charge_balance: bool = False,
        formula: str | Path | Sequence[str] | None = None,
        formula_units: int | str | None = None,
        like: str | Path | None = None,
        start: str | None = None,
        batch_size: int = 100,
        log: Callable[[str], None] = to_stderr,
    ) -> SampledCrystals:
        """New crystals; the same arguments give the same crystals.

        Args:
          num: number of crystals, with `formula` or `like` of each formula.
          target: "min", "max", a value or (lowest, highest), drawn uniformly for each crystal, or
            the name of a class; for several properties a mapping from their names; None for no
            target.
          guidance: weight of classifier-free guidance; needs a target.
          seed: seed of all randomness.
          sampler: "paper" for the paper's 1000 steps of predictor and corrector; by default the
            model's own settings, or those for formulas. The following arguments change one each.
          solver: "ancestral", the paper's, or "second_order" for a twentieth of the steps.
          num_steps: steps of the reverse process.
          renoising_steps: renoising steps at each time that decides on the structure, instead of
            the corrector.
          averaging_rounds: rounds of averaged denoising at the end.
          elements: the allowed elements, as "Ba,Ti,O" or ["Ba", "Ti", "O"].
          chemical_system: like `elements`, as "Ba-Ti-O" or a list, and each of them must occur. A
            model that knows formulas draws neutral ones first; of another, crystals that lack an
            element are rejected. Instead of `elements`.
          num_atoms: atoms of every crystal; by default drawn as in the training data.
          charge_balance: draw species whose oxidation states can add up to zero.
          formula: the composition of the crystals, as "TiO2", "TiO2,LiMnO2", ["TiO2", "LiMnO2"] or
            the path of a csv with a column formula and perhaps num_atoms, material_id and
            properties.
          formula_units: formula units, as written, in the cell; by default "auto", drawn as in the
            training data.
          like: "perov5:test", "perov5:test:300" or the path of a csv of crystals: their
            compositions and cell sizes. Instead of `formula`.
          start: "noise", or "template" or "template:300", which starts at that diffusion time from
            training crystals with exchanged elements, after the composition was drawn if it is not
            given. By default the model's. Templates need a model that knows formulas.
          batch_size: maximum number of crystals computed at once.
          log: receives progress lines; by default they go to stderr.

        Raises:
          UserError: a request that does not fit the model; the message names the command's flag,
            which has the same name as the argument.
        """
        require_between("batch_size", batch_size, 1, math.inf)
        asked = {
            "num": num,
            "target": target,
            "seed": seed,
            "guidance": guidance,
            "sampler": sampler,
            "solver": solver,
            "num_steps": num_steps,
            "renoising_steps": renoising_steps,
            "averaging_rounds": averaging_rounds,
            "elements": elements,
            "chemical_system": chemical_system,
            "num_atoms": num_atoms,
            "charge_balance": charge_balance,
            "formula": formula,
            "formula_units": formula_units,
            "like": like,
            "start": start,
        }
        request = resolve(self.trained, self.name, **as_flags(asked))
        for sentence in warnings(request, self.trained):
            log(f"warning: {sentence}")
        for line in announcement(request, self.trained):
            log(line)
        memory = CrystalsInMemory(request)
        generate(self.trained, request, memory, batch_size, log)
        return memory.crystals()
