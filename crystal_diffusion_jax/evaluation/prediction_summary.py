"""Scores of structure prediction as a strict JSON file and as a text table.

  format_version   1
  structures       path of the predictions, null for the templates alone
  references       what was to be predicted, e.g. "perov5 test"
  answers          "material_id" or "composition": how predictions were assigned to references
  versions         of crystal_diffusion_jax, pymatgen and smact
  matcher          {"ltol", "stol", "angle_tol"} of StructureMatcher, and "tight"
  counts           {"references": judged, "unanswered": left out because no prediction answers them,
                   "polymorphs": others of their compositions, "predictions", "left_out": {why:
                   count}}
  predictions      {"predictions": {"min", "max"} for one reference, "composition": rate, "scores":
                   {name: {k: score}}, "volume_error": statistic, "failures": {"count", "list":
                   [{"index", "name", "reason"}]}}; null for the templates alone. See `prediction`
  relaxed          the same of the relaxed predictions, those of the lowest energy first; null if
                   there are none
  templates        the same of the templates, the best first; null without training crystals
  leakage          {"composition", "anonymous", "template"}, see `baseline`; null likewise

Rates and statistics are as in `summary`. Unknown values are null.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.judging import Judgement
from crystal_diffusion_jax.evaluation.prediction import TIGHT, PredictionScores, Score
from crystal_diffusion_jax.evaluation.summary import plain
from crystal_diffusion_jax.evaluation.validity import SMACT_VERSION
from crystal_diffusion_jax.structures.comparing import ANGLE_TOL, LTOL, STOL

FORMAT_VERSION = 1
_MAX_FAILURES = 10  # in the table; the file has all
_TITLES = {
    "match": "match",
    "match_valid": "match, both valid (DiffCSP)",
    "match_polymorph": "match, any polymorph",
    "tight": f"match, rms < {TIGHT}",
    "rmse": "RMSE of the matches",
    "crmse": "cRMSE",
    "metre": "METRe",
    "metre_rmse": "METRe: RMSE",
    "metre_crmse": "METRe: cRMSE",
}
_LEAKAGE = {
    "composition": "the composition",
    "anonymous": "the anonymous formula",
    "template": "the anonymous formula of the cell",
}


def to_json(outcome: Judgement, structures: str | None) -> dict[str, Any]:
    """The scores in the schema above, free of NaN and infinity.

    Args:
      outcome: the scores.
      structures: path of the predictions, None for the templates alone.
    """
    return {
        "format_version": FORMAT_VERSION,
        "structures": structures,
        "references": outcome.references,
        "answers": outcome.answers or None,
        "versions": {
            "crystal_diffusion_jax": __version__,
            "pymatgen": version("pymatgen"),
            "smact": SMACT_VERSION,
        },
        "matcher": {"ltol": LTOL, "stol": STOL, "angle_tol": ANGLE_TOL, "tight": TIGHT},
        "counts": dict(outcome.counts),
        "predictions": _of(outcome.predictions, outcome.names),
        "relaxed": _of(outcome.relaxed, outcome.names),
        "templates": _of(outcome.templates, []),
        "leakage": None
        if outcome.leakage is None
        else {name: plain(getattr(outcome.leakage, name)) for name in _LEAKAGE},
    }


def _of(scored: PredictionScores | None, names: Sequence[str]) -> dict[str, Any] | None:
    if scored is None:
        return None
    failures = [
        {"index": index, "name": names[index] if names else "", "reason": reason}
        for index, reason in scored.failures.items()
    ]
    low, high = scored.predictions
    return {
        "predictions": {"min": low, "max": high},
        "composition": plain(scored.composition),
        "scores": {
            name: {str(k): plain(item) for k, item in by_k.items()}
            for name, by_k in scored.scores.items()
        },
        "volume_error": plain(scored.volume_error),
        "failures": {"count": len(failures), "list": failures},
    }


def to_table(outcome: Judgement) -> str:
    """The scores as text, one a line, the sets side by side."""
    sets = {
        "predictions": outcome.predictions,
        "relaxed, lowest energy first": outcome.relaxed,
        "templates": outcome.templates,
    }
    present = {title: scored for title, scored in sets.items() if scored is not None}
    lines = [f"{'':<34}" + "".join(f"{title:<38}" for title in present)]
    rows: dict[str, list[Score | None]] = {}
    for place, scored in enumerate(present.values()):
        for name, by_k in scored.scores.items():
            for k, item in by_k.items():
                rows.setdefault(f"{_TITLES[name]} @{k}", [None] * len(present))[place] = item
        for title, each in (
            ("volume error of the matches", scored.volume_error),
            ("composition as requested", scored.composition),
        ):
            rows.setdefault(title, [None] * len(present))[place] = each
    lines += [
        f"{title:<34}" + "".join(f"{_cell(item):<38}" for item in items)
        for title, items in rows.items()
    ]
    if outcome.leakage is not None:
        lines += ["", "of the references, training crystals have"]
        lines += [
            f"  {title:<35}{_cell(getattr(outcome.leakage, name))}"
            for name, title in _LEAKAGE.items()
        ]
    lines += ["", f"{outcome.counts['references']} references of {outcome.references}"]
    if unanswered := outcome.counts["unanswered"]:
        lines.append(f"{unanswered} more have no prediction and are left out")
    lines += [f"{count} predictions {why}" for why, count in outcome.counts["left_out"].items()]
    for title, scored in present.items():
        if scored.failures:
            which = "relaxed predictions" if scored is outcome.relaxed else title
            lines.append(f"{len(scored.failures)} {which} count as no match:")
            names = [] if scored is outcome.templates else outcome.names
            some = list(scored.failures.items())[:_MAX_FAILURES]
            lines += [
                f"  {names[index] if names else f'template {index}'}: {reason}"
                for index, reason in some
            ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(item: Score | None) -> str:
    if item is None or item.value is None:
        return "-"
    count = f"{item.k} of {item.n}" if isinstance(item, Rate) else f"n {item.sizes[0]}"
    limits = "" if item.interval is None else "{:.4f}..{:.4f}".format(*item.interval)
    return f"{item.value:.4f} {limits:<15} {count}"
