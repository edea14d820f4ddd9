"""A report as a strict JSON file and as a table to read.

Schema of the file, format version 1. A rate is {"k", "n", "rate", "low", "high"}: k of n, with
Wilson's 95 % interval; a statistic is {"value", "low", "high", "sizes"}: with its 95 % bootstrap
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
  distances        {"density", "num_elements", "property"} -> statistic (Wasserstein, to the test
                   split)
  predictions      {"mean": statistic, "median": statistic, "below_training_range": rate,
                   "implausibly_low": rate}, the last ones counted as failures
  oracle           {"error", "lowest_plausible"}: its mean absolute error on the test split, and
                   the training minimum minus three times that
  coverage         {"recall": rate, "precision": rate, "amsd_recall", "amsd_precision",
                   "amcd_recall", "amcd_precision"}, null unless requested
  failures         {"by_reason": {"stage: reason": count},
                   "list": [{"index", "name", "stage", "reason", "detail"}, ...]}
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
            "recall": _score(report.coverage.recall),
            "precision": _score(report.coverage.precision),
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
            definition: {name: _score(item) for name, item in rates.items()}
            for definition, rates in report.success.items()
        },
        "validity": {name: _score(item) for name, item in report.validity.items()},
        "diversity": {name: _score(item) for name, item in report.diversity.items()},
        "useful": _score(report.useful),
        "distances": {name: _score(item) for name, item in report.distances.items()},
        "predictions": {
            "mean": _score(report.property_mean),
            "median": _score(report.property_median),
            "below_training_range": _score(report.below_training_range),
            "implausibly_low": _score(report.implausibly_low),
        },
        "oracle": {
            "error": report.oracle_error,
            "lowest_plausible": report.lowest_plausible,
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
    """The report as text, one score per line with its interval and its count."""
    units = {"density": "g/cm^3", "num_elements": "", "property": spec.unit}
    property_title = f"{spec.property_name} {spec.unit}"
    scores: dict[str, Rate | SampleStatistic | None] = {
        f"{name} {definition}": item
        for definition, rates in report.success.items()
        for name, item in rates.items()
    }
    scores |= {f"valid: {name}": item for name, item in report.validity.items()}
    scores |= {name.replace("_", " "): item for name, item in report.diversity.items()}
    scores["valid, SR5, unique and novel"] = report.useful
    for name, distance in report.distances.items():
        scores[f"Wasserstein {name.replace('_', ' ')} {units[name]}".rstrip()] = distance
    scores[f"mean {property_title}"] = report.property_mean
    scores[f"median {property_title}"] = report.property_median
    scores["predicted below training range"] = report.below_training_range
    scores["predicted implausibly low"] = report.implausibly_low
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
    if report.num_test_predicted != report.num_test:
        known = f"{report.num_test_predicted} of {report.num_test} test crystals"
        lines += ["", f"{known} have a predicted property"]
    lines += ["", f"composition validity by SMACT {SMACT_VERSION}, oxidation states of 2014"]
    return "\n".join(lines)


def _score(item: Rate | SampleStatistic | None) -> dict[str, Any] | None:
    if item is None:
        return None
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
