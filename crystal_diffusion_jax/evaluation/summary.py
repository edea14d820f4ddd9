"""A report as a strict JSON file and as a text table.

The file holds the attributes of `report.Report` that are not of each crystal, under their names,
and

  format_version   3
  structures       the path that was evaluated
  dataset          "perov5", "carbon24" or "mp20"
  property         {"name", "unit"} of the predicted property
  thresholds       {"SR5", "SR10", "SR15"}, in that unit
  versions         of crystal_diffusion_jax, pymatgen and smact; of matminer with coverage
  matcher          {"ltol", "stol", "angle_tol"} of StructureMatcher, for unique and novel
  relaxed          the attributes of `relaxed.Relaxed`, with `stability.Stability` and the scores of
                   the relaxed crystals in it; null unless they were relaxed
  controls         name -> the attributes of the control's `Report` and, like above, "relaxed"; see
                   `controls`

A rate is {"k", "n", "rate", "low", "high"}: k of n, with Wilson's 95 % interval. A statistic is
{"value", "low", "high", "sizes"}: with its 95 % bootstrap interval, and the number of crystals in
each sample. Coverage is {"recall": rate, "precision": rate, "amsd_recall", "amsd_precision",
"amcd_recall", "amcd_precision"}. Failures are {"by_reason": {"stage: reason": count},
"list": [{"index", "name", "stage", "reason", "detail"}, ...]}. Unknown values are null.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.checks import Failure
from crystal_diffusion_jax.evaluation.coverage import Coverage
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic
from crystal_diffusion_jax.evaluation.relaxed import CLOSE, Relaxed
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.set_table import set_table
from crystal_diffusion_jax.evaluation.sets import Scored
from crystal_diffusion_jax.evaluation.stability import Stability
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.evaluation.validity import SMACT_VERSION
from crystal_diffusion_jax.oracles.domain import OUTSIDE
from crystal_diffusion_jax.potentials.hull import NEAR_HULL
from crystal_diffusion_jax.structures.comparing import ANGLE_TOL, LTOL, STOL

FORMAT_VERSION = 3
_MAX_REASONS = 10  # reasons for failures in the table; the file has all
_OF_EACH = ("valid", "compared", "values")


def to_json(
    report: Report,
    structures: str,
    spec: DatasetSpec,
    relaxed: Relaxed | None = None,
    controls: Mapping[str, Scored] | None = None,
) -> dict[str, Any]:
    """The scores in the schema above, free of NaN and infinity.

    Args:
      report: the scores.
      structures: the path that was evaluated.
      spec: the data set.
      relaxed: scores of the relaxed crystals.
      controls: scores of the controls by name.
    """
    versions = {
        "crystal_diffusion_jax": __version__,
        "pymatgen": version("pymatgen"),
        "smact": SMACT_VERSION,
    }
    if report.coverage is not None:
        versions["matminer"] = version("matminer")
    return {
        "format_version": FORMAT_VERSION,
        "structures": structures,
        "dataset": spec.name,
        "property": {"name": spec.property_name, "unit": spec.unit},
        "thresholds": dict(zip(NAMES, spec.success_thresholds, strict=True)),
        "versions": versions,
        "matcher": {"ltol": LTOL, "stol": STOL, "angle_tol": ANGLE_TOL},
        **_plain_set(Scored(report, relaxed)),
        "controls": {name: _plain_set(each) for name, each in (controls or {}).items()},
    }


def failures_by_reason(failures: Sequence[Failure]) -> dict[str, int]:
    """ "stage: reason" -> how many crystals, the most frequent first."""
    reasons = Counter(f"{failure.stage}: {failure.reason}" for failure in failures)
    return dict(reasons.most_common())


def to_table(
    report: Report,
    spec: DatasetSpec,
    relaxed: Relaxed | None = None,
    controls: Mapping[str, Scored] | None = None,
) -> str:
    """The scores as text, one per line with its interval and its count; arguments as in `to_json`.

    With relaxed crystals or controls a table of all sets follows.
    """
    units = {"density": " g/cm^3", "num_elements": "", "property": f" {spec.unit}"}
    scores: dict[str, Rate | SampleStatistic | None] = {
        f"{name} {definition}": item
        for definition, rates in report.success_rate.items()
        for name, item in rates.items()
    }
    # Beside the success rates, since crystals beyond all data may have fooled the oracle.
    for title, name in (
        ("predicted below training range", "below_training_range"),
        (OUTSIDE, "outside_training"),
    ):
        scores[title] = report.predictions.get(name)
    scores |= {f"valid: {name}": item for name, item in report.validity.items()}
    scores |= {name.replace("_", " "): item for name, item in report.diversity.items()}
    scores["valid, SR5, unique and novel"] = report.useful
    for name, distance in report.distances.items():
        scores[f"Wasserstein {name.replace('_', ' ')}{units[name]}"] = distance
    for name in ("mean", "median"):
        scores[f"{name} {spec.property_name} {spec.unit}"] = report.predictions.get(name)
    for name, item in report.volume.items():
        scores[f"volume, training = 1: {name.replace('_', ' ')}"] = item
    if report.coverage is not None:
        scores |= {"COV-R": report.coverage.recall, "COV-P": report.coverage.precision}
    if relaxed is not None:
        scores |= _of_relaxed(relaxed)

    lines = [f"{'':<34}{'value':>9}   {'95 % interval':<19} count"]
    lines += [_line(title, item) for title, item in scores.items() if item is not None]
    failures = failures_by_reason(report.failures)
    if failures:
        lines += ["", "failures"]
        most_frequent = list(failures.items())[:_MAX_REASONS]
        lines += [f"{count:>6}  {reason}" for reason, count in most_frequent]
        if len(failures) > _MAX_REASONS:
            lines.append(
                f"        and {len(failures) - _MAX_REASONS} rarer reasons in the JSON file"
            )
    if outside := report.counts["outside_training"]:
        lines += ["", f"{outside} {OUTSIDE}: in no mean, and failures in every success rate"]
    if report.counts["test_predicted"] != report.counts["test"]:
        known = "{test_predicted} of {test} test crystals".format(**report.counts)
        lines += ["", f"{known} have a predicted property"]
    lines += ["", f"composition validity by SMACT {SMACT_VERSION}, oxidation states of 2014"]
    if relaxed is not None or controls:
        lines += ["", set_table(Scored(report, relaxed), controls or {})]
    return "\n".join(lines)


def _of_relaxed(relaxed: Relaxed) -> dict[str, Rate | SampleStatistic | None]:
    scores: dict[str, Rate | SampleStatistic | None] = {"relaxed: converged": relaxed.converged}
    for title, average in (
        ("energy gain, eV/atom", relaxed.energy_gain),
        ("RMSD, A", relaxed.rmsd),
        ("volume change", relaxed.volume_change),
        ("|volume change|", relaxed.absolute_volume_change),
    ):
        scores |= {f"{name} {title}": item for name, item in average.items()}
    scores[f"RMSD below {CLOSE} A"] = relaxed.close
    for when, found in (("before", relaxed.stability_before), ("after", relaxed.stability_after)):
        if found is not None:
            scores[f"{when}: < {NEAR_HULL} eV/atom above hull"] = found.near_hull
            scores[f"{when}: stable"] = found.stable
            scores[f"{when}: stable, unique, novel"] = found.sun
    success = relaxed.scores.success_rate.get("single", {})
    return scores | {f"after: {name} single": item for name, item in success.items()}


def _plain_set(scored: Scored) -> dict[str, Any]:
    return {**plain(scored.report), "relaxed": plain(scored.relaxed)}


def plain(item: Any) -> Any:
    """Scores at any depth as dictionaries for JSON, in the schema above."""
    match item:
        case Mapping():
            return {name: plain(value) for name, value in item.items()}
        case Report() | Relaxed() | Stability():
            fields = [field.name for field in dataclasses.fields(item)]
            return {name: plain(getattr(item, name)) for name in fields if name not in _OF_EACH}
        case Rate():
            low, high = item.interval or (None, None)
            return {"k": item.k, "n": item.n, "rate": item.value, "low": low, "high": high}
        case SampleStatistic():
            low, high = item.interval or (None, None)
            return {"value": item.value, "low": low, "high": high, "sizes": list(item.sizes)}
        case Coverage():
            rates = {"recall": item.recall, "precision": item.precision}
            return {**plain(rates), **item.mean_distances}
        case list() | tuple():  # failures
            return {
                "by_reason": failures_by_reason(item),
                "list": [dataclasses.asdict(failure) for failure in item],
            }
    return item


def _line(title: str, item: Rate | SampleStatistic) -> str:
    if isinstance(item, Rate):
        count = f"{item.k} of {item.n}"
    else:
        count = " and ".join(map(str, item.sizes))
    number = "-" if item.value is None else f"{item.value:.4f}"
    limits = "" if item.interval is None else f"{item.interval[0]:.4f} .. {item.interval[1]:.4f}"
    return f"{title:<34}{number:>9}   {limits:<19} {count}"
