"""The work of `evaluate`, after its flags have been read."""

import argparse
import dataclasses
import functools
import json

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.control_cache import relax_in_cache
from crystal_diffusion_jax.evaluation.controls import control_sets
from crystal_diffusion_jax.evaluation.fingerprints import (
    fingerprints,
    load_scaler,
    require_matminer,
)
from crystal_diffusion_jax.evaluation.hulls import columns_of
from crystal_diffusion_jax.evaluation.predictions import prediction_columns
from crystal_diffusion_jax.evaluation.relaxed import relaxed_scores
from crystal_diffusion_jax.evaluation.report import evaluate
from crystal_diffusion_jax.evaluation.sets import score_controls
from crystal_diffusion_jax.evaluation.stability import AboveHullOf, above, training_hull
from crystal_diffusion_jax.evaluation.summary import to_json, to_table
from crystal_diffusion_jax.oracles.predict import predict
from crystal_diffusion_jax.potentials.relax_folder import relax_into
from crystal_diffusion_jax.potentials.relaxation import CHGNET, RelaxedCrystal, RelaxSettings
from crystal_diffusion_jax.potentials.relaxed_samples import sample_columns, sample_data
from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed, read_settings
from crystal_diffusion_jax.runtime.devices import keep_freed_memory
from crystal_diffusion_jax.structures.reading import Inputs, read_structures


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Relaxed crystals.

    Attributes:
      crystals: outcome of every crystal that was asked for.
      settings: how they were relaxed.
      above_hull: energies above the hull of the training split; None for a potential whose
        reference energies are not known.
    """

    crystals: list[RelaxedCrystal]
    settings: RelaxSettings
    above_hull: AboveHullOf | None


def relaxed_crystals(
    flags: argparse.Namespace, dataset: str, train: CrystalDataset, inputs: Inputs
) -> Outcome | None:
    """Relaxes the crystals or reads them from a folder of `relax`; None if neither is requested.

    Raises:
      UserError: they cannot be relaxed or read.
    """
    if not flags.relax and flags.relaxed is None:
        return None
    settings = RelaxSettings() if flags.relax else read_settings(flags.relaxed)
    hull = training_hull(dataset, train) if settings.potential == CHGNET else None
    if flags.relax:
        folder = flags.out.with_name(f"{flags.out.stem}_relaxed")
        crystals = relax_into(folder, inputs, settings, columns_of(*hull) if hull else None)
        columns, arrays = sample_columns(crystals, settings), sample_data(crystals)
        program.add_to_samples(flags.structures, columns, arrays)
    else:
        crystals = read_relaxed(flags.relaxed, inputs)
    return Outcome(crystals, settings, above(*hull) if hull else None)


def score(flags: argparse.Namespace) -> None:
    """Reads crystals and data set, relaxes if requested, scores, writes and prints.

    Args:
      flags: of the command.

    Raises:
      UserError: something that the flags name cannot be used.
    """
    keep_freed_memory()
    spec = KNOWN_DATASETS[flags.dataset]
    make_fingerprints = None
    if flags.coverage:
        require_matminer()
        means, stds = load_scaler()
        make_fingerprints = functools.partial(fingerprints, means=means, stds=stds)
    inputs = read_structures(flags.structures)
    config = DataConfig(name=spec.name, root=flags.root, skip_bad_rows=flags.skip_bad_rows)
    splits = load(config)
    if "test" not in splits:
        raise UserError(f"{spec.name} has no test.csv next to train and val, which scoring needs")
    train, test = splits["train"], splits["test"]
    outcome = relaxed_crystals(flags, spec.name, train, inputs)
    ask = functools.partial(predict, oracle=spec.name)
    judge = functools.partial(evaluate, spec=spec, train=train, predict=ask)
    report = judge(inputs, test=test, make_fingerprints=make_fingerprints)
    sets = control_sets(spec, train, test, flags.controls) if flags.controls else {}
    relax, hull, relaxed = None, None, None
    if outcome is not None:
        relax = functools.partial(relax_in_cache, settings=outcome.settings)
        hull = outcome.above_hull
        relaxed = relaxed_scores(inputs.structures, report, outcome.crystals, judge, hull)
    controls = score_controls(sets, judge, relax, hull)
    content = to_json(report, str(flags.structures), spec, relaxed, controls)
    program.write_output(flags.out, json.dumps(content, indent=1, allow_nan=False) + "\n")
    not_predicted = {f.index: f.text for f in report.failures if f.stage == "property"}
    columns = {
        **prediction_columns(spec, report.values, not_predicted),
        "valid": report.valid.tolist(),
        "unique": report.compared.is_first.tolist(),
    }
    if report.compared.novel is not None:
        columns["novel"] = report.compared.novel.tolist()
    print(to_table(report, spec, relaxed, controls))
    print(f"scores in {flags.out}")
    program.add_to_samples(flags.structures, columns)
