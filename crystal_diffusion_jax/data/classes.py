"""The same numbers for the same classes in all splits."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError, did_you_mean


def number_as_train(splits: Mapping[str, CrystalDataset]) -> dict[str, CrystalDataset]:
    """Numbers the classes of each split as "train", or the only split, does.

    Raises:
      UserError: a split has a class that train lacks, or names where train has numbers; or train
        has no value of a property.
    """
    first, *others = splits
    train = splits[first]
    for name, values in zip(train.property_names, train.properties.T, strict=True):
        if np.isnan(values).all():
            raise UserError(f"no crystal to train on has a value of {name}.")
    return {first: train} | {split: _renumbered(splits[split], split, train) for split in others}


def _renumbered(dataset: CrystalDataset, split: str, train: CrystalDataset) -> CrystalDataset:
    if not (dataset.class_names or train.class_names):
        return dataset
    properties = np.array(dataset.properties)
    for p, name in enumerate(train.property_names):
        known = ~np.isnan(properties[:, p])
        ours, theirs = train.class_names.get(name, ()), dataset.class_names.get(name, ())
        if not known.any():
            continue
        if bool(ours) != bool(theirs):
            kinds = [", ".join(names) or "numbers" for names in (theirs, ours)]
            raise UserError(f"{name} holds {kinds[0]} in {split}, but {kinds[1]} in train.")
        if not ours:
            continue
        used = {ours[int(code)] for code in train.properties[:, p] if not np.isnan(code)}
        for code in np.unique(properties[known, p]).astype(int):
            if theirs[code] not in used:
                raise UserError(
                    f"{split} holds the {name} '{theirs[code]}', which train never has: move such "
                    f"crystals into train or drop them{did_you_mean(theirs[code], used)}"
                )
        codes = np.array([ours.index(text) if text in ours else -1 for text in theirs], float)
        properties[known, p] = codes[properties[known, p].astype(int)]
    return dataclasses.replace(dataset, properties=properties, class_names=train.class_names)
