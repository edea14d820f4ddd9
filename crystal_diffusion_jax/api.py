"""The Python interface for notebooks and scripts, available from the package itself.

>>> import crystal_diffusion_jax as cdj
>>> model = cdj.load("perov5_cds")
>>> crystals = model.sample(num=4, target="min", guidance=1.0, seed=0, num_steps=20)
>>> len(crystals) + len(crystals.rejected)
4
>>> len(crystals.to_pymatgen()[0]), len(crystals.to_ase()[0])
(5, 5)
>>> crystals.values["heat_ref"].shape == (len(crystals),)
True

`cdj.oracle("perov5").predict(crystals)` gives the predicted property of each crystal, and
`cdj.success_rate(crystals, "perov5")["SR5"].value` the share that reaches the best 5 % of the data
set. `cdj.relax(crystals)` moves atoms and cells downhill in energy, and
`cdj.potential().predict(crystals)` gives energies and forces as they are. `cdj.discover(...)` does
all of it and gives a table of the best. The weights of oracles and potential are downloaded once.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import DataConfig, Solver
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.potentials.relaxation import CHGNET, Relaxation, RelaxSettings
from crystal_diffusion_jax.runtime import compilation, devices
from crystal_diffusion_jax.sampling.announcement import announcement
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.sampled_crystals import CrystalsInMemory, SampledCrystals
from crystal_diffusion_jax.trained_model import TrainedModel

# Only models are loaded with this module; the rest is imported when it is asked for.
if TYPE_CHECKING:
    import pandas as pd

    from crystal_diffusion_jax.discovery.settings import Cell
    from crystal_diffusion_jax.evaluation.intervals import Rate
    from crystal_diffusion_jax.evaluation.judging import Judgement
    from crystal_diffusion_jax.oracles.predict import Predictions
    from crystal_diffusion_jax.potentials.energies import Evaluated
    from crystal_diffusion_jax.structures.reading import Inputs


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


# Target of one property: a value, "min" or "max", (lowest, highest), or the name of a class.
Asked = float | str | tuple[float, float] | list[float]
Crystal = Structure | ase.Atoms
# One or several, or the path of files that hold them.
Crystals = Crystal | Sequence[Crystal] | str | Path


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
        log: Callable[[str], None] = _to_stderr,
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
          start: "template" or "template:300" starts at that diffusion time from training crystals
            with exchanged elements; by default from noise. Needs `formula` or `like`, or
            `chemical_system` and a model that knows formulas.
          batch_size: maximum number of crystals computed at once.
          log: receives progress lines; by default they go to stderr.

        Raises:
          UserError: a request that does not fit the model; the message names the command's flag,
            which has the same name as the argument.
        """
        asked: dict[str, Any] = {
            "num": num,
            "seed": seed,
            "guidance": guidance,
            "sampler": sampler,
            "solver": solver,
            "num_steps": num_steps,
            "renoising_steps": renoising_steps,
            "averaging_rounds": averaging_rounds,
            "elements": _joined(elements),
            "chemical_system": _joined(chemical_system),
            "num_atoms": num_atoms,
            "charge_balance": charge_balance,
            "formula": str(formula) if isinstance(formula, Path) else _joined(formula),
            "formula_units": None if formula_units is None else str(formula_units),
            "like": None if like is None else str(like),
            "start": start,
        }
        request = resolve(self.trained, self.name, _as_text(target), **asked)
        for sentence in warnings(request, self.trained):
            log(f"warning: {sentence}")
        for line in announcement(request, self.trained):
            log(line)
        memory = CrystalsInMemory(request)
        generate(self.trained, request, memory, batch_size, log)
        return memory.crystals()


def _joined(symbols: str | Sequence[str] | None) -> str | None:
    return symbols if symbols is None or isinstance(symbols, str) else ",".join(symbols)


def _as_text(target: Asked | Mapping[str, Asked] | None) -> str:
    """The target as the flag `--target` takes it, so that both are checked alike."""

    def one(asked: Asked) -> str:
        if isinstance(asked, tuple | list):
            if len(asked) != 2:
                raise UserError(f"target={asked!r}: a range is (lowest, highest)")
            low, high = asked
            return f"{float(low)!r}:{float(high)!r}"
        return asked if isinstance(asked, str) else repr(float(asked))

    if target is None:
        return "none"
    if isinstance(target, Mapping):
        return ",".join(f"{name}={one(asked)}" for name, asked in target.items()) or "none"
    return one(target)


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

        return predict(_structures(crystals), self.name, progress=False)


def oracle(dataset: str) -> Oracle:
    """The oracle of "perov5", "carbon24" or "mp20".

    Raises:
      UserError: unknown name.
    """
    from crystal_diffusion_jax.oracles.predict import ORACLES

    if dataset not in ORACLES:
        raise UserError(
            f"there is no oracle {dataset!r}, only {', '.join(ORACLES)}"
            f"{did_you_mean(dataset, ORACLES)}"
        )
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

        return evaluate_all(_structures(crystals), progress=False)


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
    structures = _structures(crystals)
    settings = RelaxSettings(potential, fixed_cell, fmax, max_steps)
    found = dict(driver(settings)(structures, settings, progress, len(structures)))
    return [found[index] for index in range(len(structures))]


def _structures(crystals: Crystals) -> list[Structure]:
    if isinstance(crystals, str | Path):
        from crystal_diffusion_jax.structures.reading import read_structures

        inputs = read_structures(Path(crystals))
        for index, reason in inputs.failures.items():
            raise UserError(f"{crystals}: {inputs.names[index]} cannot be used: {reason}")
        return [structure for structure in inputs.structures if structure is not None]
    several = [crystals] if isinstance(crystals, Structure | ase.Atoms) else crystals
    from crystal_diffusion_jax.structures.conversion import from_ase

    return [from_ase(one) if isinstance(one, ase.Atoms) else one for one in several]


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

    structures = _structures(crystals)
    values = oracle(dataset).predict(structures)
    valid = [is_valid(crystal) for crystal in structures]
    rejected = len(crystals.rejected) if isinstance(crystals, SampledCrystals) else 0
    return success_rates(
        np.concatenate([values, np.full(rejected, np.nan)]),
        np.array([*valid, *[False] * rejected], bool),
        KNOWN_DATASETS[dataset].success_thresholds,
    )["single_valid"]


def discover(
    model: "Model | str | Path",
    target: Asked | Mapping[str, Asked] | None = None,
    num: int = 200,
    top: int = 20,
    *,
    out: str | Path,
    tolerance: float | None = None,
    max_e_hull: float = 0.1,
    per_formula: int = 3,
    known: Sequence[str | Path] = (),
    hull: str | None = None,
    potential: str = CHGNET,
    cell: "Cell" = "as_relaxed",
    batch_size: int = 100,
    progress: bool = False,
    log: Callable[[str], None] = _to_stderr,
    **request: Any,
) -> "pd.DataFrame":
    """From a request to a shortlist: samples, screens, relaxes, judges and ranks.

    `experiments.discover` does the same and writes a page as well. After an interruption the same
    call continues.

    Args:
      model: as for `load`, or loaded.
      target: as in `Model.sample`.
      num: crystals to sample.
      top: crystals on the shortlist at most.
      out: folder for everything, see docs/discover.md.
      tolerance: as the following, see `discovery.settings.Settings`.
      max_e_hull: eV/atom.
      per_formula: crystals of one formula at most.
      known: files or folders of crystals that are not new.
      hull: known phases.
      potential: that relaxes.
      cell: of the input files for DFT.
      batch_size: crystals sampled at once.
      progress: show progress bars on stderr.
      log: receives a line for each stage.
      **request: further arguments of `Model.sample`, such as `guidance` or `elements`.

    Returns:
      The shortlist, best first, with the columns of shortlist.csv, and each crystal as pymatgen
      structures: `generated`, and `relaxed` in the cell of the generated one.

    Raises:
      UserError: a request that does not fit the model or the folder; the message names the
        command's flag.
    """
    import pandas as pd

    from crystal_diffusion_jax.discovery import pipeline, shortlist
    from crystal_diffusion_jax.discovery.plan import make_plan
    from crystal_diffusion_jax.discovery.settings import Settings
    from crystal_diffusion_jax.runtime.lock import exclusive
    from crystal_diffusion_jax.structures.store import create_folder

    files = tuple(str(file) for file in known)
    settings = Settings(top, tolerance, max_e_hull, per_formula, files, hull, potential, cell)
    loaded = model if isinstance(model, Model) else load(model)
    given = dict(request)
    for name in given.keys() & {"elements", "chemical_system"}:
        given[name] = _joined(given[name])
    asked = resolve(loaded.trained, loaded.name, _as_text(target), num=num, **given)
    for sentence in warnings(asked, loaded.trained):
        log(f"warning: {sentence}")
    plan = make_plan(loaded.trained, asked, settings)
    for note in plan.notes:
        log(f"note: {note}")
    folder = Path(out)
    create_folder(folder)
    with exclusive(folder, "--out", log):
        pipeline.sample(loaded.trained, plan, folder, batch_size, log)
        pipeline.select(plan, folder, log=log, progress=progress)
        found = shortlist.records(plan, folder)
        generated, relaxed = shortlist.structures(folder, found)
    table = pd.DataFrame(found)
    if found:
        table["generated"] = [generated[record["index"]] for record in found]
        table["relaxed"] = [relaxed[record["index"]] for record in found]
    return table


def match(
    crystals: Crystals,
    dataset: str,
    split: str = "test",
    *,
    material_ids: Sequence[str] = (),
    k: Sequence[int] = (1,),
    num: int = 0,
    templates: bool = True,
    progress: bool = False,
) -> "Judgement":
    """Scores crystals that were predicted for the compositions of a data set.

    `experiments.match` does the same with files.

    Args:
      crystals: one or several pymatgen structures or ASE atoms, or the path of predictions, whose
        column `material_id` names the references that they answer.
      dataset: name of the data set.
      split: its split with the references.
      material_ids: reference that each of the crystals answers, if they are no path. Those of
        `Model.sample` have their own if they were sampled `like` a data set or from a csv with
        ids; rejected crystals count as failures then. Others without ids answer the references of
        their composition.
      k: numbers of predictions of which the best counts.
      num: only so many references, drawn once and for all; 0 for all.
      templates: also score the templates from the training split.
      progress: show progress bars on stderr.

    Returns:
      `outcome.predictions.scores["match"][1].value` is the match rate, for example; see
      `evaluation.prediction`.

    Raises:
      UserError: unknown data set or split, data that cannot be read, or crystals that cannot be
        assigned to references.
    """
    from crystal_diffusion_jax.data.load import load as load_data
    from crystal_diffusion_jax.evaluation.judging import judge
    from crystal_diffusion_jax.structures.reading import read_structures

    if isinstance(crystals, str | Path):
        inputs = read_structures(Path(crystals))
    else:
        inputs = _answers(crystals, material_ids)
    splits = load_data(DataConfig(name=dataset), progress)
    if split not in splits:
        raise UserError(f"{dataset} has no split {split!r}, only {', '.join(splits)}")
    train = splits["train"] if templates else None
    return judge(inputs, splits[split], train, f"{dataset} {split}", num, k, progress)


def _answers(crystals: Crystal | Sequence[Crystal], material_ids: Sequence[str]) -> "Inputs":
    """Crystals and the references that they answer."""
    from crystal_diffusion_jax.structures.reading import Inputs

    if isinstance(crystals, SampledCrystals) and crystals.request.material_ids and not material_ids:
        asked: list[Structure | None] = [None] * crystals.request.num
        for index, structure in zip(crystals.indices, crystals, strict=True):
            asked[index] = structure
        names = [f"sample {index}" for index in range(len(asked))]
        failures = {
            index: f"rejected when sampled: {reason}" for index, reason in crystals.rejected.items()
        }
        return Inputs(asked, names, failures, crystals.request.material_ids)
    structures = _structures(crystals)
    if material_ids and len(material_ids) != len(structures):
        raise UserError(
            f"{len(material_ids)} material_ids for {len(structures)} crystals: give each one"
        )
    names = [f"crystal {index}" for index in range(len(structures))]
    return Inputs([*structures], names, {}, list(material_ids))
