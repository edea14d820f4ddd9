"""A report as a strict JSON file and as a text table.

The file holds the attributes of `report.Report` that are not arrays, under their names, and

  format_version   1
  structures       the path that was evaluated
  dataset          "perov5", "carbon24" or "mp20"
  property         {"name", "unit"} of the predicted property
  thresholds       {"SR5", "SR10", "SR15"}, in that unit
  versions         of crystal_diffusion_jax, pymatgen and smact; of matminer with coverage
  matcher          {"ltol", "stol", "angle_tol"} of StructureMatcher, for unique and novel

A rate is {"k", "n", "rate", "low", "high"}: k of n, with Wilson's 95 % interval. A statistic is
{"value", "low", "high", "sizes"}: with its 95 % bootstrap interval, and the number of crystals in
each sample. Coverage is {"recall": rate, "precision": rate, "amsd_recall", "amsd_precision",
"amcd_recall", "amcd_precision"}. Failures are {"by_reason": {"stage: reason": count},
"list": [{"index", "name", "stage", "reason", "detail"}, ...]}. Unknown values are null.
"""

import dataclasses
from collections import Counter
from importlib.metadata import version
from typing import Any

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic
from crystal_diffusion_jax.evaluation.matching import ANGLE_TOL, LTOL, STOL
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.evaluation.validity import SMACT_VERSION

FORMAT_VERSION = 1
_MAX_REASONS = 10  # reasons for failures in the table; the file has all
_ARRAYS = ("valid", "unique", "novel", "values")


def to_json(report: Report, structures: str, spec: DatasetSpec) -> dict[str, Any]:
    """The report in the schema above, free of NaN and infinity.

    Args:
      report: the scores.
      structures: the path that was evaluated.
      spec: the data set.
    """
    versions = {
        "crystal_diffusion_jax": __version__,
        "pymatgen": version("pymatgen"),
        "smact": SMACT_VERSION,
    }
    covered = None
    if report.coverage is not None:
        versions["matminer"] = version("matminer")
        covered = {
            "recall": _plain(report.coverage.recall),
            "precision": _plain(report.coverage.precision),
            **report.coverage.mean_distances,
        }
    scores = {
        field.name: _plain(getattr(report, field.name))
        for field in dataclasses.fields(report)
        if field.name not in _ARRAYS
    }
    return {
        "format_version": FORMAT_VERSION,
        "structures": structures,
        "dataset": spec.name,
        "property": {"name": spec.property_name, "unit": spec.unit},
        "thresholds": dict(zip(NAMES, spec.success_thresholds, strict=True)),
        "versions": versions,
        "matcher": {"ltol": LTOL, "stol": STOL, "angle_tol": ANGLE_TOL},
        **scores,
        "coverage": covered,
        "failures": {
            "by_reason": failures_by_reason(report),
            "list": [dataclasses.asdict(failure) for failure in report.failures],
        },
    }


def failures_by_reason(report: Report) -> dict[str, int]:
    """ "stage: reason" -> how many crystals, the most frequent first."""
    reasons = Counter(f"{failure.stage}: {failure.reason}" for failure in report.failures)
    return dict(reasons.most_common())


def to_table(report: Report, spec: DatasetSpec) -> str:
    """The report as text, one score per line with its interval and its count."""
    units = {"density": " g/cm^3", "num_elements": "", "property": f" {spec.unit}"}
    scores: dict[str, Rate | SampleStatistic | None] = {
        f"{name} {definition}": item
        for definition, rates in report.success_rate.items()
        for name, item in rates.items()
    }
    scores |= {f"valid: {name}": item for name, item in report.validity.items()}
    scores |= {name.replace("_", " "): item for name, item in report.diversity.items()}
    scores["valid, SR5, unique and novel"] = report.useful
    for name, distance in report.distances.items():
        scores[f"Wasserstein {name.replace('_', ' ')}{units[name]}"] = distance
    for name, item in report.predictions.items():
        if name in ("mean", "median"):
            scores[f"{name} {spec.property_name} {spec.unit}"] = item
        else:
            scores[f"predicted {name.replace('_', ' ')}"] = item
    if report.coverage is not None:
        scores |= {"COV-R": report.coverage.recall, "COV-P": report.coverage.precision}

    lines = [f"{'':<34}{'value':>9}   {'95 % interval':<19} count"]
    lines += [_line(title, item) for title, item in scores.items() if item is not None]
    failures = failures_by_reason(report)
    if failures:
        lines += ["", "failures"]
        most_frequent = list(failures.items())[:_MAX_REASONS]
        lines += [f"{count:>6}  {reason}" for reason, count in most_frequent]
        if len(failures) > _MAX_REASONS:
            lines.append(
                f"        and {len(failures) - _MAX_REASONS} rarer reasons in the JSON file"
            )
    if report.counts["test_predicted"] != report.counts["test"]:
        known = "{test_predicted} of {test} test crystals".format(**report.counts)
        lines += ["", f"{known} have a predicted property"]
    lines += ["", f"composition validity by SMACT {SMACT_VERSION}, oxidation states of 2014"]
    return "\n".join(lines)


def _plain(item: Any) -> Any:
    """Rates and statistics, at any depth of mappings, as dictionaries for JSON."""
    if isinstance(item, dict):
        return {name: _plain(value) for name, value in item.items()}
    if not isinstance(item, Rate | SampleStatistic):
        return item
    low, high = item.interval or (None, None)
    if isinstance(item, Rate):
        return {"k": item.k, "n": item.n, "rate": item.value, "low": low, "high": high}
    return {"value": item.value, "low": low, "high": high, "sizes": list(item.sizes)}


def _line(title: str, item: Rate | SampleStatistic) -> str:
    if isinstance(item, Rate):
        count = f"{item.k} of {item.n}"
    else:
        count = " and ".join(map(str, item.sizes))
    number = "-" if item.value is None else f"{item.value:.4f}"
    limits = "" if item.interval is None else f"{item.interval[0]:.4f} .. {item.interval[1]:.4f}"
    return f"{title:<34}{number:>9}   {limits:<19} {count}"
