"""Everything that the stages of one `discover` need, found and checked before the first of them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, DatasetSpec
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.discovery.known import KnownCrystals, digest
from crystal_diffusion_jax.discovery.settings import Settings
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.goal import Goal, goal_of
from crystal_diffusion_jax.evaluation.hulls import MATERIALS_PROJECT, columns_of, hull_columns
from crystal_diffusion_jax.evaluation.stability import training_hull
from crystal_diffusion_jax.potentials.drivers import driver
from crystal_diffusion_jax.potentials.relax_folder import HullColumns
from crystal_diffusion_jax.potentials.relaxation import CHGNET, RelaxSettings
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.reading import Inputs
from crystal_diffusion_jax.trained_model import TrainedModel

# Share of the training crystals that the default tolerance covers, as of SR5.
COVERED = 0.05


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one folder is to hold.

    Attributes:
      request: what is sampled.
      settings: how crystals are chosen.
      spec: the model's data set if it has an oracle, else None.
      tolerance: of its property around the target; None if the property is not checked.
      known: crystals that are not new.
      training_source: where the training crystals come from, "" if they are not there.
      hull: makes the columns of the hull for some crystals; None without a hull.
      hull_name: whose hull, "" without one.
      notes: a sentence for each check that is left out.
      command: that asks for all this, for the page; "" if it was no command.
    """

    request: Request
    settings: Settings
    spec: DatasetSpec | None
    tolerance: float | None
    known: KnownCrystals
    training_source: str
    hull: Callable[[Inputs], HullColumns] | None
    hull_name: str
    notes: tuple[str, ...]
    command: str = ""

    @property
    def relax_settings(self) -> RelaxSettings:
        """How crystals are relaxed."""
        return RelaxSettings(self.settings.potential)

    @functools.cached_property
    def _goals(self) -> list[Goal | None]:
        """What is asked of the property, of the crystals of each formula."""
        assert self.spec is not None
        name = self.spec.property_name
        targets = [target for target, _ in self.request.targets()]
        return [goal_of(self.spec, *t[name]) if name in t else None for t in targets]

    def miss(self, index: int, predicted: float) -> float:
        """How far a prediction is from what was asked of a crystal, in the property's unit.

        A range is reached by any value within it, and the lowest value by any below.
        """
        goal = self._goals[index // self.request.num_each]
        return 0.0 if goal is None else float(goal.differences(np.array(predicted)))

    def stages(self, sampled: tuple[int, int]) -> dict[str, dict[str, Any]]:
        """What the outcome of each stage depends on, beside that of the stages before it.

        Args:
          sampled: numbers of crystals that were written and rejected.
        """
        settings = self.settings
        return {
            "screen": {
                "sampled": list(sampled),
                "oracle": self.spec.name if self.spec else None,
                "tolerance": self.tolerance,
                "training_crystals": self.training_source,
                "known": self.known.digests(),
            },
            "relax": {
                "potential": settings.potential,
                "hull": self.hull_name,
                "hull_file": _digest_of_file(self.hull_name),
            },
            "judge": {},
            "rank": {
                "max_e_hull": settings.max_e_hull,
                "top": settings.top,
                "per_formula": settings.per_formula,
            },
            "export": {"cell": settings.cell},
        }


def make_plan(model: TrainedModel, request: Request, settings: Settings, command: str = "") -> Plan:
    """Finds oracle, training crystals and hull of a model.

    Args:
      model: that samples.
      request: of it.
      settings: how crystals are chosen.
      command: as in `Plan`.

    Raises:
      UserError: a setting that cannot be met; what is only missing becomes a note.
    """
    notes = []
    spec = KNOWN_DATASETS.get(model.config.data.name)
    tolerance = None
    targets = [target for target, _ in request.targets()]
    asked = [t[spec.property_name] for t in targets if spec and spec.property_name in t]
    if spec is not None and asked:
        column = model.statistics.property_names.index(spec.property_name)
        quantiles = model.statistics.property_quantiles[column]
        ends = sorted({end for both in asked for end in both})
        tolerance = settings.tolerance or default_tolerance(quantiles, ends)
    elif settings.tolerance is not None:
        raise UserError(
            f"--tolerance={settings.tolerance:g} needs a target of a property that an oracle "
            f"predicts, and {request.model} with this --target has none"
        )
    elif spec is None:
        notes.append("no network predicts the property of this model: it is not checked")
    else:
        notes.append(f"no target for {spec.property_name}: it is predicted but not checked")
    training, source = _training_crystals(model)
    known = KnownCrystals(training, settings.known)
    notes += known.notes
    if training is None:
        notes.append(
            "the training crystals of this model are not there: whether a crystal is one of them "
            "is not known"
        )
    driver(RelaxSettings(settings.potential))  # refuses an unknown potential
    hull, hull_name = _hull(settings, spec, training)
    if hull is None:
        notes.append(
            f"no hull of known phases{_why_no_hull(settings)}: crystals are ranked by the energy "
            "that relaxing releases"
        )
    return Plan(
        request, settings, spec, tolerance, known, source, hull, hull_name, tuple(notes), command
    )


def default_tolerance(quantiles: Sequence[float], ends: Sequence[float]) -> float:
    """The distance from a target within which `COVERED` of the training crystals are.

    So it is wide where there are few crystals, as at the minimum, and narrow where there are many.

    Args:
      quantiles: [101] of the training data.
      ends: requested values, or the ends of requested ranges, each of which covers so many.
    """
    values = np.interp(np.linspace(0, 100, 2001), np.arange(101), quantiles)
    radius = max(float(np.quantile(np.abs(values - end), COVERED)) for end in ends)
    # Three digits, as people write it; never 0, which would divide.
    return max(float(f"{radius:.3g}"), 1e-6)


def _training_crystals(model: TrainedModel) -> tuple[CrystalDataset | None, str]:
    """The crystals that a model was trained on and where they are from, if they are anywhere."""
    found = model.training_crystals()
    if found is not None:
        return found, "model"
    data: DataConfig = model.config.data
    try:
        return load(data)["train"], f"data set {data.name or data.root}"
    except UserError:
        return None, ""


def _hull(
    settings: Settings, spec: DatasetSpec | None, training: CrystalDataset | None
) -> tuple[Callable[[Inputs], HullColumns] | None, str]:
    potential, name = settings.potential, settings.hull
    if name == MATERIALS_PROJECT:
        return lambda inputs: hull_columns(MATERIALS_PROJECT, potential, inputs), name
    if name is not None:
        columns = hull_columns(name, potential, Inputs([], [], {}))
        return lambda inputs: columns, name
    if potential != CHGNET or spec is None or training is None:
        return None, ""
    if training.property_names[:1] != (spec.property_name,):
        return None, ""
    columns = columns_of(*training_hull(spec.name, training))
    return lambda inputs: columns, spec.name


def _digest_of_file(hull_name: str) -> str:
    """Identifies the content of a csv of known phases; "" for a hull with a name of its own."""
    named = hull_name in KNOWN_DATASETS or hull_name in ("", MATERIALS_PROJECT)
    return "" if named else digest(Path(hull_name))


def _why_no_hull(settings: Settings) -> str:
    return f", which takes --potential={CHGNET}" if settings.potential != CHGNET else ""
