"""The random split of a table into train, val and test, which parts no copies of one crystal."""

from collections.abc import Mapping

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError

_ELEMENTS = 119


def random_split(
    dataset: CrystalDataset, groups: np.ndarray, fractions: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Rows of a random split, ascending; at least one crystal in each part, the rest in "train".

    The last group with an element, with a class or with any value of a property stays in train,
    the only place to learn it. A part has fewer crystals than its fraction where the next groups
    are too large for it, and more only where every group is.

    Args:
      dataset: M crystals.
      groups: [M] int, equal for crystals that must stay together (`copies.find_copies`).
      fractions: of each part but "train".
      seed: of the order.

    Raises:
      UserError: fewer groups than parts.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    remaining: dict[int, list[int]] = {}  # group -> its rows, in the order of the first of each
    for row, group in zip(order.tolist(), groups[order].tolist(), strict=True):
        remaining.setdefault(group, []).append(row)
    if len(remaining) <= len(fractions):
        raise UserError(_too_few(dataset, len(remaining), fractions))
    has = _features(dataset)
    left = has.sum(axis=0)  # crystals of train with each feature
    parts = {}
    for name, fraction in fractions.items():
        size = max(1, round(fraction * len(dataset)))
        counts = {group: has[rows].sum(axis=0) for group, rows in remaining.items()}
        chosen: list[int] = []
        for group in list(remaining):
            fits = len(chosen) + len(remaining[group]) <= size
            if fits and _leaves_some(left, counts[group]):
                chosen += remaining.pop(group)
                left -= counts[group]
        if not chosen:
            movable = [group for group in remaining if _leaves_some(left, counts[group])]
            smallest = min(movable or remaining, key=lambda group: len(remaining[group]))
            chosen = remaining.pop(smallest)
            left -= counts[smallest]
        parts[name] = np.array(chosen, np.int64)
    train = np.concatenate([np.array(rows, np.int64) for rows in remaining.values()])
    return {name: np.sort(rows) for name, rows in {"train": train, **parts}.items()}


def _leaves_some(left: np.ndarray, count: np.ndarray) -> bool:
    """Whether each feature of a group also occurs outside of it."""
    return bool((left > count)[count > 0].all())


def _features(dataset: CrystalDataset) -> np.ndarray:
    """[M, F] bool: the elements of each crystal, its classes, and which properties it has."""
    elements = np.zeros((len(dataset), _ELEMENTS), bool)
    crystal = np.repeat(np.arange(len(dataset)), dataset.num_atoms)
    elements[crystal, dataset.atomic_numbers] = True
    features = [elements, ~np.isnan(dataset.properties)]
    for name, values in zip(dataset.property_names, dataset.properties.T, strict=True):
        features.append(values[:, None] == np.arange(len(dataset.class_names.get(name, ()))))
    return np.concatenate(features, axis=1)


def _too_few(dataset: CrystalDataset, num_groups: int, fractions: Mapping[str, float]) -> str:
    shares = ", ".join(str(fraction) for fraction in fractions.values())
    held_out = f"to hold out {', '.join(fractions)} ({shares} of them)"
    if num_groups == len(dataset):
        return f"{len(dataset)} crystals are too few {held_out}."
    return (
        f"{len(dataset)} crystals are copies of {num_groups} (pymatgen's StructureMatcher), too "
        f"few {held_out} without a copy on the other side; to hold out some of them nevertheless, "
        "give a folder with your own train.csv and val.csv."
    )
