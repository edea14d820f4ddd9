"""Shares and counts of crystals for the pictures."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from pymatgen.core import Element

# Odd, so that equal labels fall into the middle of a bin.
_NUM_BINS = 61
# An outlier is this many times the median distance away from the median.
_OUTLIER = 10.0


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A property of the generated crystals next to that of the training set.

    Attributes:
      edges: [B + 1] bin edges, in the property's unit.
      generated: [B] percent of the crystals with a prediction; the first and the last bin include
        those beyond the edges.
      training: [B] percent of the training set; None if unknown.
      thresholds: name -> value.
      target: lowest and highest requested value, equal for a single value; None without a request.
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
    """Histograms of the predictions and of the training set, over the training range.

    Args:
      values: [n] predictions; NaN and infinite ones are left out.
      training: [Q] ascending, quantiles of the training set in equal steps from its minimum to its
        maximum; the sorted labels themselves are such quantiles. None if unknown.
      thresholds: name -> value.
      target: lowest and highest requested value.
      title: name and unit of the property.
    """
    found = values[np.isfinite(values)]
    # The oracle's outliers, up to millions of eV, would hide all others: they go to the end bins.
    inside = [*thresholds.values(), *_bulk(found)] if training is None else training
    inside = np.array([*inside, *(target or ())])
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)
    margin = 0.1 * max(high - low, 1e-6)
    edges = np.linspace(low - margin, high + margin, _NUM_BINS + 1)
    found = np.clip(found, edges[0], np.nextafter(edges[-1], edges[0]))
    generated = 100.0 * np.histogram(found, edges)[0] / max(len(found), 1)
    shares = None
    if training is not None:
        percent = np.linspace(0.0, 100.0, len(training))
        shares = np.diff(np.interp(edges, training, percent, left=0.0, right=100.0))
    return Distribution(edges, generated, shares, thresholds, target, title)


def _bulk(values: np.ndarray) -> np.ndarray:
    """The values without outliers."""
    if len(values) == 0:
        return values
    distance = np.abs(values - np.median(values))
    return values[distance <= _OUTLIER * np.median(distance)]


def periodic_table(counts: Mapping[str, int], num: int) -> tuple[np.ndarray, np.ndarray]:
    """The periodic table with lanthanides and actinides below the other elements.

    Args:
      counts: symbol -> crystals.
      num: number of crystals.

    Returns:
      [9, 18] percent of the crystals that contain the element, NaN for none; [9, 18] symbols, ""
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
    """Row and column in that table, from 0."""
    if element.is_lanthanoid or element.is_actinoid:
        first = 57 if element.is_lanthanoid else 89
        return (7 if element.is_lanthanoid else 8), 2 + element.Z - first
    return int(element.row) - 1, int(element.group) - 1
