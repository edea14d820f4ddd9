"""Several steps in one call: from a request to a shortlist, from predictions to match rates."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystal_diffusion_jax.api.arguments import (
    Asked,
    Crystals,
    as_flags,
    as_inputs,
    to_stderr,
)
from crystal_diffusion_jax.api.model import Model, load
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.potentials.relaxation import CHGNET, Relaxation, failed
from crystal_diffusion_jax.sampling.resolve import resolve, warnings

# Imported when it is asked for.
if TYPE_CHECKING:
    import pandas as pd

    from crystal_diffusion_jax.discovery.settings import Cell
    from crystal_diffusion_jax.evaluation.judging import Judgement
    from crystal_diffusion_jax.structures.reading import Inputs


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
    hull: str | Path | None = None,
    potential: str = CHGNET,
    cell: "Cell" = "as_relaxed",
    batch_size: int = 100,
    progress: bool = False,
    log: Callable[[str], None] = to_stderr,
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
    require_between("batch_size", batch_size, 1, math.inf)
    import pandas as pd

    from crystal_diffusion_jax.discovery import pipeline, shortlist
    from crystal_diffusion_jax.discovery.plan import make_plan
    from crystal_diffusion_jax.discovery.settings import Settings
    from crystal_diffusion_jax.runtime.lock import exclusive
    from crystal_diffusion_jax.structures.store import create_folder

    files = tuple(str(file) for file in known)
    phases = None if hull is None else str(hull)
    settings = Settings(top, tolerance, max_e_hull, per_formula, files, phases, potential, cell)
    loaded = model if isinstance(model, Model) else load(model)
    given = as_flags({"target": target, "num": num, **request})
    asked = resolve(loaded.trained, loaded.name, **given)
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
    relaxed: Sequence[Relaxation] | str | Path | None = None,
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
      relaxed: what `relax` returned for the crystals, or, if these are a path, the folder that
        `experiments.relax` made of them: the relaxed crystals are scored, too, those of the lowest
        energy first.
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
        inputs = as_inputs(crystals, material_ids)
        if isinstance(relaxed, str | Path):
            raise UserError("relaxed is a folder, but the crystals are not: give their path, too")
    outcomes = _outcomes(relaxed, inputs)
    splits = load_data(DataConfig(name=dataset), progress)
    if split not in splits:
        raise UserError(f"{dataset} has no split {split!r}, only {', '.join(splits)}")
    train = splits["train"] if templates else None
    place = f"{dataset} {split}"
    return judge(inputs, splits[split], train, place, num, k, progress, relaxed=outcomes)


def _outcomes(
    relaxed: Sequence[Relaxation] | str | Path | None, inputs: "Inputs"
) -> list[Relaxation] | None:
    """One for each of the crystals, of which `relax` was given those that there are."""
    if relaxed is None:
        return None
    if isinstance(relaxed, str | Path):
        from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed

        return [each.relaxation for each in read_relaxed(Path(relaxed), inputs)]
    known = sum(structure is not None for structure in inputs.structures)
    if len(relaxed) != known:
        raise UserError(f"{len(relaxed)} relaxations for {known} crystals: give one for each")
    remaining = iter(relaxed)
    return [
        failed("rejected when sampled") if structure is None else next(remaining)
        for structure in inputs.structures
    ]
