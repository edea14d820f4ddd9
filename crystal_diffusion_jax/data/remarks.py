"""What a person should know of their data before training: sentences by name and number."""

from collections.abc import Iterator, Mapping

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import printable

# A value is an outlier if it lies this many times the width of the middle half of the values
# outside of it. Of 45,000 log-normal values (sigma 1) the largest lies 40 times outside.
_OUTLIER = 100.0
_MIN_VALUES = 5  # fewer have no middle half
_MIN_OF_A_CLASS = 10
# Copies whose volumes per atom agree within this are also equally large; if their values differ by
# more than this share of the property's standard deviation, they contradict each other.
_SAME_VOLUME = 0.01
_SAME_VALUE = 0.1
_NAMED = 3


def remarks(splits: Mapping[str, CrystalDataset], groups: np.ndarray) -> Iterator[str]:
    """Missing values, constant properties, outliers, rare classes, copies and contradictions.

    Args:
      splits: data sets with M crystals together; "train", or the only one, first.
      groups: [M] int, equal for copies of one crystal (`copies.find_copies`).
    """
    parts = list(splits.values())
    first = parts[0]
    values = np.concatenate([part.properties for part in parts])
    ids = np.concatenate([part.material_ids for part in parts])
    volumes = np.concatenate([np.abs(np.linalg.det(p.lattice)) / p.num_atoms for p in parts])
    yield from _missing(values, first.property_names)
    for p, name in enumerate(first.property_names):
        classes = first.class_names.get(name, ())
        yield from _of_training(first.properties[:, p], name, classes)
        if not classes:
            yield from _outliers(values[:, p], ids, name)
    copies = [rows for rows in _members(groups) if len(rows) > 1]
    if copies:
        num = sum(map(len, copies)) - len(copies)
        named = _several([" = ".join(_shown(ids[rows])) for rows in copies])
        yield (
            f"{num} of {len(values)} crystals are copies of others (the same to pymatgen's "
            f"StructureMatcher): {named}"
        )
    for p, name in enumerate(first.property_names):
        yield from _contradictions(copies, values[:, p], volumes, ids, name, first)
    yield from _across(splits, groups, ids)


def _missing(values: np.ndarray, names: tuple[str, ...]) -> Iterator[str]:
    missing = np.isnan(values)
    for name, count in zip(names, missing.sum(axis=0).tolist(), strict=True):
        if count:
            yield (
                f"{count} of {len(values)} crystals have no value of {name}; they are trained with "
                "it hidden"
            )
    if len(names) > 1 and (none := int(missing.all(axis=1).sum())):
        yield f"{none} of {len(values)} crystals have no value of any property"


def _of_training(values: np.ndarray, name: str, classes: tuple[str, ...]) -> Iterator[str]:
    known = values[~np.isnan(values)]
    if known.min() == known.max():
        value = classes[int(known[0])] if classes else f"{known[0]:g}"
        yield (
            f"{name} is {value} in all {len(known)} crystals that have it: a model cannot learn to "
            "follow it"
        )
        return
    counts = np.bincount(known.astype(int), minlength=len(classes)) if classes else np.array([])
    rare = [
        f"{classes[code]} ({counts[code]})" for code in np.flatnonzero(counts < _MIN_OF_A_CLASS)
    ]
    if rare:
        yield f"{name}: fewer than {_MIN_OF_A_CLASS} crystals are {_several(rare)}"


def _outliers(values: np.ndarray, ids: np.ndarray, name: str) -> Iterator[str]:
    known = np.flatnonzero(~np.isnan(values))
    spread = values[known]
    if len(spread) >= _MIN_VALUES and np.ptp(np.quantile(spread, (0.25, 0.75))) == 0:
        spread = spread[spread != np.median(spread)]  # where most are equal, the others tell
    if len(spread) < _MIN_VALUES:
        return
    low, high = np.quantile(spread, (0.25, 0.75))
    margin = _OUTLIER * (high - low)
    far = known[(values[known] < low - margin) | (values[known] > high + margin)]
    if len(far) and margin > 0:
        named = _several([f"{printable(str(ids[row]))} {values[row]:g}" for row in far])
        yield (
            f"{name} has {len(far)} value{'s'[: len(far) - 1]} far from all others (the middle "
            f"half is {low:g} .. {high:g}): {named}. Such values set the scale that the property "
            "is trained in: correct them, or leave them out"
        )


def _contradictions(
    copies: list[np.ndarray],
    values: np.ndarray,
    volumes: np.ndarray,
    ids: np.ndarray,
    name: str,
    dataset: CrystalDataset,
) -> Iterator[str]:
    classes = dataset.class_names.get(name, ())
    tolerance = 0.0 if classes else _SAME_VALUE * float(np.nanstd(values))
    found = []
    for rows in copies:
        rows = rows[~np.isnan(values[rows])]
        rows = rows[np.argsort(volumes[rows])]
        while len(rows) > 1:
            equal = rows[volumes[rows] <= (1 + _SAME_VOLUME) * volumes[rows[0]]]
            low, high = equal[np.argmin(values[equal])], equal[np.argmax(values[equal])]
            if values[high] - values[low] > tolerance:
                found.append(
                    ", ".join(
                        f"{printable(str(ids[row]))} "
                        + (classes[int(values[row])] if classes else f"{values[row]:g}")
                        for row in (low, high)
                    )
                )
            rows = rows[len(equal) :]
    if found:
        crystals = "1 crystal occurs" if len(found) == 1 else f"{len(found)} crystals occur"
        yield f"{crystals} with different {name}: {_several(found)}"


def _across(
    splits: Mapping[str, CrystalDataset], groups: np.ndarray, ids: np.ndarray
) -> Iterator[str]:
    """Copies on two sides of a split that somebody else has made."""
    end = 0
    for split, part in splits.items():
        start, end = end, end + len(part)
        here = np.arange(start, end)
        shared = here[np.isin(groups[here], groups[:start])]
        if len(shared):
            yield (
                f"{len(shared)} of {len(part)} crystals of {split} are copies of crystals of "
                f"{' or '.join(list(splits)[: list(splits).index(split)])}: "
                f"{_several(_shown(ids[shared]))}. The loss of {split} is too low by them"
            )


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """The rows of each group."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _shown(ids: np.ndarray) -> list[str]:
    shown = [printable(str(name)) for name in ids[: _NAMED + 1]]
    return shown if len(ids) <= _NAMED + 1 else [*shown[:_NAMED], f"{len(ids) - _NAMED} more"]


def _several(texts: list[str]) -> str:
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    return "; ".join(texts[:_NAMED] + more)
