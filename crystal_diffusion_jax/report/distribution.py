"""What the pictures show, whichever package draws them: shares and counts of crystals."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Element

# Odd, so that equal labels are in the middle of a bin.
_NUM_BINS = 61
_MOST_COMPOSITIONS = 30
# An outlier is so many times as far from the median as half of the values are.
_OUTLIER = 10.0


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A property of the generated crystals beside that of the training set.

    Attributes:
      edges: [B + 1] of the bins, in the property's unit.
      generated: [B] percent of the crystals with a prediction; those beyond the edges are in the
        first and the last bin.
      training: [B] percent of the training set; None where it is not known.
      thresholds: name -> value.
      target: lowest and highest requested value, equal for a single one; None if nothing was asked.
      title: name and unit of the property.
    """

    edges: np.ndarray
    generated: np.ndarray
    training: np.ndarray | None
    thresholds: Mapping[str, float]
    target: tuple[float, float] | None
    title: str


def distribution(
    values: np.ndarray,
    training: np.ndarray | None,
    thresholds: Mapping[str, float],
    target: tuple[float, float] | None,
    title: str,
) -> Distribution:
    """Counts the predictions, and the training set, in bins over the training range.

    Args:
      values: [n] predictions; those that are not finite are left out.
      training: [Q] ascending, quantiles of the training set in equal steps from its minimum to its
        maximum; the sorted labels themselves are such quantiles. None where neither is known.
      thresholds: name -> value.
      target: lowest and highest requested value.
      title: name and unit of the property.
    """
    shown = values[np.isfinite(values)]
    # Outliers of the judge, up to millions of eV, would hide all others: to the end bins.
    inside = [*thresholds.values(), *_bulk(shown)] if training is None else training
    inside = np.array([*inside, *(target or ())])
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)
    margin = 0.1 * max(high - low, 1e-6)
    edges = np.linspace(low - margin, high + margin, _NUM_BINS + 1)
    shown = np.clip(shown, edges[0], np.nextafter(edges[-1], edges[0]))
    generated = 100.0 * np.histogram(shown, edges)[0] / max(len(shown), 1)
    shares = None
    if training is not None:
        percent = np.linspace(0.0, 100.0, len(training))
        shares = np.diff(np.interp(edges, training, percent, left=0.0, right=100.0))
    return Distribution(edges, generated, shares, thresholds, target, title)


def _bulk(values: np.ndarray) -> np.ndarray:
    """The values but for outliers."""
    if len(values) == 0:
        return values
    distance = np.abs(values - np.median(values))
    return values[distance <= _OUTLIER * np.median(distance)]


def common_compositions(formulas: Sequence[str]) -> list[tuple[str, int]]:
    """The most frequent formulas with their counts."""
    return Counter(formulas).most_common(_MOST_COMPOSITIONS)


def periodic_table(counts: Mapping[str, int], num: int) -> tuple[np.ndarray, np.ndarray]:
    """The elements at their places, lanthanides and actinides below the others.

    Args:
      counts: symbol -> crystals.
      num: crystals in all.

    Returns:
      [9, 18] percent of the crystals that hold the element, NaN for none; [9, 18] symbols, ""
      where there is no element.
    """
    share = np.full((9, 18), np.nan)
    symbols = np.full((9, 18), "", dtype=object)
    for number in range(1, 119):
        element = Element.from_Z(number)
        symbols[place(element)] = element.symbol
        if element.symbol in counts:
            share[place(element)] = 100.0 * counts[element.symbol] / max(num, 1)
    return share, symbols


def place(element: Element) -> tuple[int, int]:
    """Row and column in the table, from 0."""
    if element.is_lanthanoid or element.is_actinoid:
        first = 57 if element.is_lanthanoid else 89
        return (7 if element.is_lanthanoid else 8), 2 + element.Z - first
    return int(element.row) - 1, int(element.group) - 1
