"""A report as one strict JSON file and as one table to read.

Schema of the file, format version 1. A rate is {"k", "n", "rate", "low", "high"}: k of n, with
Wilson's 95 % interval; an estimate is {"value", "low", "high", "sizes"}: with its 95 % bootstrap
interval, and the number of crystals in each sample. What cannot be computed is null.

  format_version   1
  structures       the path that was evaluated
  dataset          "perov5", "carbon24" or "mp20"
  property         {"name", "unit"} of the predicted property
  thresholds       {"SR5", "SR10", "SR15"}, in that unit
  versions         of crystal_diffusion_jax, pymatgen and smact; of matminer with coverage
  matcher          {"ltol", "stol", "angle_tol"} of StructureMatcher, for unique and novel
  counts           {"asked_for", "read", "predicted", "train", "test", "test_predicted",
                   "test_fingerprinted"}, the last one null without coverage
  success_rate     {"single", "single_valid", "best_of_10"} -> {"SR5", "SR10", "SR15"} -> rate
  validity         {"structure", "composition", "both"} -> rate
  diversity        {"unique", "novel", "unique_compositions", "novel_compositions"} -> rate
  useful           rate of distinct crystals that are valid, reach SR5 and are novel
  distances        {"density", "num_elements", "property"} -> estimate (Wasserstein, to test split)
  predictions      {"mean": estimate, "median": estimate, "below_training_range": rate,
                   "implausibly_low": rate}, the last ones counted as failures
  judge            {"error", "lowest_plausible"}: its mean absolute error on the test split, and
                   the training minimum less three times that
  coverage         {"recall": rate, "precision": rate, "amsd_recall", "amsd_precision",
                   "amcd_recall", "amcd_precision"}, null unless asked for
  failures         {"by_reason": {"stage: reason": count},
                   "list": [{"index", "name", "stage", "reason", "detail"}, ...]}
                   equal reasons for equal causes; the detail, often "", is a crystal's own
"""

import dataclasses
import math
from collections import Counter
from importlib.metadata import version
from typing import Any

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.intervals import Estimate, Rate
from crystal_diffusion_jax.evaluation.matching import ANGLE_TOL, LTOL, STOL
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.evaluation.validity import SMACT_VERSION

FORMAT_VERSION = 1
_MAX_LISTED = 10  # reasons for failures in the table; the file has all


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
            "recall": _rate(report.coverage.recall),
            "precision": _rate(report.coverage.precision),
            **report.coverage.mean_distances,
        }
    return {
        "format_version": FORMAT_VERSION,
        "structures": structures,
        "dataset": spec.name,
        "property": {"name": spec.property_name, "unit": spec.unit},
        "thresholds": dict(zip(NAMES, spec.success_thresholds, strict=True)),
        "versions": versions,
        "matcher": {"ltol": LTOL, "stol": STOL, "angle_tol": ANGLE_TOL},
        "counts": {
            "asked_for": report.num,
            "read": report.num_read,
            "predicted": report.num_predicted,
            "train": report.num_train,
            "test": report.num_test,
            "test_predicted": report.num_test_predicted,
            "test_fingerprinted": report.num_test_fingerprinted,
        },
        "success_rate": {
            reading: {name: _rate(item) for name, item in rates.items()}
            for reading, rates in report.success.items()
        },
        "validity": {name: _rate(item) for name, item in report.validity.items()},
        "diversity": {name: _rate(item) for name, item in report.diversity.items()},
        "useful": _rate(report.useful),
        "distances": {name: _estimate(item) for name, item in report.distances.items()},
        "predictions": {
            "mean": _estimate(report.property_mean),
            "median": _estimate(report.property_median),
            "below_training_range": _rate(report.below_training_range),
            "implausibly_low": _rate(report.implausibly_low),
        },
        "judge": {
            "error": _number(report.judge_error),
            "lowest_plausible": _number(report.lowest_plausible),
        },
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
    """The report for the eye, one number a line with its interval and its count."""
    units = {"density": "g/cm^3", "num_elements": "", "property": spec.unit}
    lines = [f"{'':<34}{'value':>9}   {'95 % interval':<19} count"]
    for reading, rates in report.success.items():
        lines += [_rate_line(f"{name} {reading}", item) for name, item in rates.items()]
    lines += [_rate_line(f"valid: {name}", item) for name, item in report.validity.items()]
    lines += [_rate_line(name.replace("_", " "), item) for name, item in report.diversity.items()]
    lines.append(_rate_line("valid, SR5, unique and novel", report.useful))
    for name, item in report.distances.items():
        title = f"Wasserstein {name.replace('_', ' ')} {units[name]}".rstrip()
        lines.append(_estimate_line(title, item))
    property_title = f"{spec.property_name} {spec.unit}"
    lines.append(_estimate_line(f"mean {property_title}", report.property_mean))
    lines.append(_estimate_line(f"median {property_title}", report.property_median))
    lines.append(_rate_line("predicted below training range", report.below_training_range))
    lines.append(_rate_line("predicted implausibly low", report.implausibly_low))
    if report.coverage is not None:
        lines.append(_rate_line("COV-R", report.coverage.recall))
        lines.append(_rate_line("COV-P", report.coverage.precision))
    failures = failures_by_reason(report)
    if failures:
        lines += ["", "failures"]
        listed = list(failures.items())[:_MAX_LISTED]
        lines += [f"{count:>6}  {reason}" for reason, count in listed]
        if len(failures) > _MAX_LISTED:
            lines.append(
                f"        and {len(failures) - _MAX_LISTED} rarer reasons in the JSON file"
            )
    if report.num_test_predicted < report.num_test:
        known = f"{report.num_test_predicted} of {report.num_test} test crystals"
        lines += ["", f"{known} have a predicted property"]
    lines += ["", f"composition validity by SMACT {SMACT_VERSION}, oxidation states of 2014"]
    return "\n".join(lines)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rate(item: Rate) -> dict[str, Any]:
    low, high = item.interval or (None, None)
    return {"k": item.k, "n": item.n, "rate": item.value, "low": low, "high": high}


def _estimate(item: Estimate) -> dict[str, Any]:
    low, high = item.interval or (None, None)
    return {"value": item.value, "low": low, "high": high, "sizes": list(item.sizes)}


def _rate_line(title: str, item: Rate) -> str:
    return _line(title, item.value, item.interval, f"{item.k} of {item.n}")


def _estimate_line(title: str, item: Estimate) -> str:
    return _line(title, item.value, item.interval, " and ".join(map(str, item.sizes)))


def _line(title: str, value: float | None, interval: tuple[float, float] | None, count: str) -> str:
    number = "-" if value is None else f"{value:.4f}"
    limits = "" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"
    return f"{title:<34}{number:>9}   {limits:<19} {count}"
