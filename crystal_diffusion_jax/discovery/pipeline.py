"""The stages of `discover`, each of which knows what it has done already.

  sample    the request's crystals, into samples.db
  screen    valid, predicted near the target, unique, not in the training set
  relax     those that passed, into relaxed/
  judge     the same questions about the relaxed crystals
  rank      the score, and who is on the shortlist
  export    shortlist.csv and shortlist/

samples.db has the outcome of each stage as columns; stages.json has what each outcome depends on,
so that a changed setting computes anew what depends on it and nothing else.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crystal_diffusion_jax.discovery import funnel, shortlist
from crystal_diffusion_jax.discovery.folder import (
    RELAXED_FOLDER,
    relaxed_structures,
    values,
)
from crystal_diffusion_jax.discovery.plan import Plan
from crystal_diffusion_jax.discovery.rank import rank
from crystal_diffusion_jax.discovery.screen import judge, screen
from crystal_diffusion_jax.potentials.relax_folder import HullColumns, relax_into
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal, failed
from crystal_diffusion_jax.potentials.relaxed_database import NOT_CHOSEN
from crystal_diffusion_jax.potentials.relaxed_samples import sample_columns, sample_data
from crystal_diffusion_jax.request import Part
from crystal_diffusion_jax.runtime.files import MAX_DESCRIPTION_BYTES, read_json, replace_text
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.database import DATABASE
from crystal_diffusion_jax.structures.reading import Inputs, read_structures
from crystal_diffusion_jax.structures.store import Samples, write_columns
from crystal_diffusion_jax.trained_model import TrainedModel

STAGES_FILE = "stages.json"
PAGE = "report.html"  # which the command writes when all stages are finished

Log = Callable[[str], None]


class _Progress:
    """stages.json: what the outcome of each finished stage depends on."""

    def __init__(self, out: Path) -> None:
        self._path = out / STAGES_FILE
        self._finished: dict[str, Any] = {}
        if self._path.exists():
            try:
                self._finished = read_json(self._path, MAX_DESCRIPTION_BYTES, dict[str, Any])
            except ValueError:  # damaged: every stage looks again
                self._finished = {}

    def is_finished(self, stage: str, key: Any) -> bool:
        return stage in self._finished and self._finished[stage] == key

    def begin(self, stage: str, later: list[str]) -> None:
        """Forgets the stage and the later ones, whose columns are about to change."""
        for name in (stage, *later):
            self._finished.pop(name, None)
        self._write()

    def finish(self, stage: str, key: Any) -> None:
        self._finished[stage] = key
        self._write()

    def _write(self) -> None:
        replace_text(self._path, json.dumps(self._finished, indent=1) + "\n")


def sample(
    model: TrainedModel,
    plan: Plan,
    out: Path,
    batch_size: int,
    log: Log = print,
    part: Part | None = None,
    export: Callable[[], bool] = lambda: True,
) -> None:
    """The first stage: samples what the folder does not have yet.

    Args:
      model: that samples.
      plan: what is asked.
      out: the folder, which the caller holds (`lock.exclusive`).
      batch_size: crystals computed at once.
      log: takes progress lines.
      part: only these crystals of the request.
      export: whether files are exported at the end, also that of an interruption.

    Raises:
      UserError: the folder holds another request, or cannot be written.
    """
    samples = Samples(out, plan.request, part)
    try:
        generate(model, plan.request, samples, batch_size, log)
    finally:
        if export():  # always, as a kill may have come before it
            samples.export()


def select(
    plan: Plan,
    out: Path,
    part: Part | None = None,
    log: Log = print,
    after_each: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> bool:
    """The other stages: chooses among the sampled crystals.

    Args:
      plan: what is asked.
      out: the folder, which the caller holds (`lock.exclusive`).
      part: the share of the request that was sampled; the choice among all crystals is left out.
      log: takes a line for each stage.
      after_each: called after each relaxed crystal; what it raises ends the command.
      progress: show progress bars on stderr.

    Returns:
      Whether anything was computed.

    Raises:
      UserError: something cannot be downloaded, read or written.
    """
    work: dict[str, Callable[[], None]] = {
        "screen": lambda: _screen(plan, out, progress),
        "relax": lambda: _relax(plan, out, log, after_each, progress),
        "judge": lambda: _judge(plan, out, progress),
        "rank": lambda: _rank(plan, out),
        "export": lambda: shortlist.export(plan, out),
    }
    if part is not None:
        work = {stage: work[stage] for stage in ("screen", "relax")}
    finished, changed = _Progress(out), False
    key: dict[str, Any] = {}
    log(funnel.write(out, plan, values(out), "sample", part))
    samples = Samples(out, plan.request, part)
    for reason, count in samples.reasons().items():
        log(f"rejected: {count}, {reason}")
    depends_on = plan.stages(samples.counts())
    stages = list(depends_on)
    for place, stage in enumerate(stages):
        key = key | {stage: depends_on[stage]}
        if stage not in work:
            continue
        if not finished.is_finished(stage, key) or not _is_there(stage, out):
            finished.begin(stage, stages[place + 1 :])
            (out / PAGE).unlink(missing_ok=True)  # else a kill would leave that of other choices
            work[stage]()
            finished.finish(stage, key)
            changed = True
        if stage != "export":
            log(funnel.write(out, plan, values(out), stage, part))
    if changed:
        samples.export()  # once more, with what is known now
    return changed


def _is_there(stage: str, out: Path) -> bool:
    """Whether the files of a stage, outside of samples.db, have not been removed."""
    if stage == "relax":
        return (out / RELAXED_FOLDER).is_dir()
    return stage != "export" or shortlist.is_there(out)


def _passing(plan: Plan, out: Path, stage: str) -> list[int]:
    """Indices of the crystals that passed all checks up to the end of a stage."""
    return funnel.passing(values(out), funnel.up_to(funnel.checks(plan), stage))


def _screen(plan: Plan, out: Path, progress: bool) -> None:
    write_columns(out / DATABASE, screen(read_structures(out), plan, progress))


def _relax(plan: Plan, out: Path, log: Log, after_each: Callable[[], None], progress: bool) -> None:
    chosen = set(_passing(plan, out, "screen"))
    inputs = read_structures(out)
    others = {
        i: NOT_CHOSEN
        for i, structure in enumerate(inputs.structures)
        if structure is not None and i not in chosen
    }
    # All crystals are listed, so that a later screen may choose others in the same folder.
    listed = Inputs(inputs.structures, inputs.names, inputs.failures | others)
    settings = plan.relax_settings
    folder = out / RELAXED_FOLDER
    hull = None if plan.hull is None else _of_chosen(plan.hull(_only(inputs, chosen)), chosen)
    relaxed = relax_into(folder, listed, settings, hull, progress, log, after_each)
    columns = {
        name: [value if i in chosen else None for i, value in enumerate(column)]
        for name, column in sample_columns(relaxed, settings).items()
    }
    data = {i: arrays for i, arrays in sample_data(relaxed).items() if i in chosen}
    write_columns(out / DATABASE, columns, data)


def _of_chosen(columns: HullColumns, chosen: set[int]) -> HullColumns:
    """Without those relaxed for an earlier choice: the hull may lack their chemical systems."""
    return lambda relaxed: columns(
        [
            one if i in chosen else RelaxedCrystal(one.name, failed(NOT_CHOSEN))
            for i, one in enumerate(relaxed)
        ]
    )


def _only(inputs: Inputs, chosen: set[int]) -> Inputs:
    """The same set with the structures of some crystals alone."""
    structures = [s if i in chosen else None for i, s in enumerate(inputs.structures)]
    return Inputs(structures, inputs.names, inputs.failures)


def _judge(plan: Plan, out: Path, progress: bool) -> None:
    crystals = relaxed_structures(out, _passing(plan, out, "relax"))
    write_columns(out / DATABASE, judge(crystals, plan.request.num, plan, progress))


def _rank(plan: Plan, out: Path) -> None:
    candidates = _passing(plan, out, "judge")
    crystals = relaxed_structures(out, candidates)
    formulas = {i: reduced_formula(crystal.atomic_numbers) for i, crystal in crystals.items()}
    num = plan.request.num
    write_columns(out / DATABASE, rank(values(out), candidates, formulas, num, plan))
    failed = funnel.failed_checks(values(out), funnel.checks(plan))
    write_columns(out / DATABASE, {"failed_check": [failed.get(index) for index in range(num)]})
