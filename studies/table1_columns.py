"""Columns of docs/table1.md: where each is in the files of `experiments.evaluate`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from crystal_diffusion_jax.evaluation.success_rate import NAMES


class Spread(NamedTuple):
    """Mean and range over the seeds, to six digits; None where a rate is undefined."""

    mean: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        mean, low, high = (f"{value:.3f}" for value in self)
        return mean if low == high else f"{mean} ({low}-{high})"


class Estimate(NamedTuple):
    """A score of one set with its 95 % interval, to six digits; None where it is unknown.

    Attributes:
      value: the rate or statistic.
      low: lower end of the interval.
      high: upper end.
      n: number of crystals that it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


# Column -> place of its rate in the files of `experiments.evaluate`.
RATES: Mapping[str, tuple[str, ...]] = {
    **{
        f"{name} {definition}": ("success_rate", definition, name)
        for definition in ("single", "single_valid", "best_of_10")
        for name in NAMES
    },
    "below training range": ("predictions", "below_training_range"),
    "valid": ("validity", "both"),
    "valid structure": ("validity", "structure"),
    "unique": ("diversity", "unique"),
    "novel": ("diversity", "novel"),
    "unique compositions": ("diversity", "unique_compositions"),
    "novel compositions": ("diversity", "novel_compositions"),
    "useful": ("useful",),
    "outside the oracle's training": ("predictions", "outside_training"),
    "volume / training": ("volume", "median_ratio"),
    "denser": ("volume", "denser"),
    "looser": ("volume", "looser"),
}
# The same for one set beside the controls, each within its own part of the file.
SCORES: Mapping[str, tuple[str, ...]] = {
    **{name: ("success_rate", "single", name) for name in NAMES},
    **{
        column: RATES[column]
        for column in ("below training range", "valid", "unique", "novel", "novel compositions")
    },
    "useful": RATES["useful"],
}
RELAXED: Mapping[str, tuple[str, ...]] = {
    "converged": ("relaxed", "converged"),
    "energy gain, eV/atom": ("relaxed", "energy_gain", "median"),
    "RMSD, Å": ("relaxed", "rmsd", "median"),
    "volume change": ("relaxed", "absolute_volume_change", "median"),
    "RMSD < 0.1 Å": ("relaxed", "close"),
    "SR5 after": ("relaxed", "scores", "success_rate", "single", "SR5"),
    "< 0.1 eV/atom before": ("relaxed", "stability_before", "near_hull"),
    "after": ("relaxed", "stability_after", "near_hull"),
    "S.U.N. before": ("relaxed", "stability_before", "sun"),
    "S.U.N. after": ("relaxed", "stability_after", "sun"),
}


def spreads(scores: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """The rates over several seeds, by column of `RATES`.

    Args:
      scores: content of the file of `experiments.evaluate` for each seed.
    """
    found = {}
    for column, path in RATES.items():
        values = [_number(_entry(score, path)) for score in scores]
        if None in values:
            found[column] = Spread(None, None, None)
        else:
            mean = sum(values) / len(values)
            found[column] = Spread(*(round(x, 6) for x in (mean, min(values), max(values))))
    return found


def estimates(scores: Mapping[str, Any]) -> dict[str, Estimate]:
    """The scores of one set with its relaxed crystals, by column of `SCORES` and `RELAXED`.

    Args:
      scores: content of the file of `experiments.evaluate`, or of one of its controls.
    """
    found = {}
    for column, path in {**SCORES, **RELAXED}.items():
        entry = _entry(scores, path)
        numbers = (_number(entry), entry.get("low"), entry.get("high"))
        count = entry["n"] if "n" in entry else sum(entry.get("sizes", []))
        value, low, high = (None if x is None else round(x, 6) for x in numbers)
        found[column] = Estimate(value, low, high, count)
    return found


def _entry(scores: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """The rate or statistic in a file; {} if a part of the file above it is null."""
    entry: Any = scores
    for key in path:
        entry = entry[key]
        if entry is None:
            return {}
    return entry


def _number(entry: Mapping[str, Any]) -> Any:
    return entry["rate"] if "rate" in entry else entry.get("value")
