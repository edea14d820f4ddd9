"""load: from a name or a path to checked data sets by split, through the cache."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import cache, locate
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.prepared import Prepared, settle_bad_rows
from crystal_diffusion_jax.data.tables import Source
from crystal_diffusion_jax.errors import UserError, did_you_mean

# Made by the library's own code instead of read from files.
BUILT_IN = "abx3"
_BUILT_IN_HELD_OUT = 0.1  # fraction of the built-in data in each of val and test


def load(config: DataConfig, progress: bool = True) -> dict[str, CrystalDataset]:
    """Loads a data set, from the cache when the same files have been prepared before.

    Args:
      config: which data.
      progress: show a progress bar on stderr while files are parsed.

    Returns:
      "train", "val" and, when there is one, "test".

    Raises:
      UserError: data not found, a column missing, a bad row (unless `skip_bad_rows`), or a
        setting out of range.
    """
    _check(config)
    if config.name == BUILT_IN:
        return _load_built_in(config)
    if config.name:
        properties = config.properties or (KNOWN_DATASETS[config.name].property_name,)
        sources = locate.known_sources(config.name, config.root)
    else:
        properties = config.properties
        sources = locate.own_sources(config.root)
    tables = _prepare_all(sources, properties, config.max_num_atoms, progress)
    first = next(iter(sources.values())).table
    place = str(first if locate.UNSPLIT in sources else first.parent)
    settle_bad_rows(tables.values(), place, config.skip_bad_rows)
    for split, table in tables.items():
        if len(table.dataset) == 0:
            raise UserError(f"{sources[split].table} holds no usable crystal.")
    if locate.UNSPLIT in tables:
        dataset = tables[locate.UNSPLIT].dataset
        return _split(dataset, {"val": config.val_fraction}, config.seed)
    return {split: table.dataset for split, table in tables.items()}


def _check(config: DataConfig) -> None:
    names = [*KNOWN_DATASETS, BUILT_IN]
    if config.name and config.name not in names:
        raise UserError(
            f"Unknown data set '{config.name}': choose one of {', '.join(names)}, or leave the "
            "name empty and give root and properties of your own data"
            f"{did_you_mean(config.name, names)}"
        )
    if not config.name and not (config.root and config.properties):
        raise UserError(
            "Your own data need both root (a csv file or a folder) and properties (column names); "
            f"for known data give the name, one of {', '.join(names)}."
        )
    if twice := sorted({n for n in config.properties if config.properties.count(n) > 1}):
        raise UserError(f"properties names {', '.join(twice)} more than once.")
    if config.max_num_atoms < 0:
        raise UserError(f"max_num_atoms={config.max_num_atoms} is negative; 0 means no limit.")
    if not 0.0 < config.val_fraction < 1.0:
        raise UserError(f"val_fraction={config.val_fraction} is not between 0 and 1.")


def _load_built_in(config: DataConfig) -> dict[str, CrystalDataset]:
    # Imported here because it needs pymatgen, which cached data go without.
    from crystal_diffusion_jax.data.perovskites import abx3_dataset

    if config.root:
        raise UserError(f"{BUILT_IN} is built in and takes no root.")
    dataset = abx3_dataset()
    missing = set(config.properties) - set(dataset.property_names)
    if missing:
        raise UserError(
            f"{BUILT_IN} has no property {', '.join(sorted(missing))}; "
            f"it has {', '.join(dataset.property_names)}."
        )
    if 0 < config.max_num_atoms < dataset.num_atoms.max():
        raise UserError(
            f"The crystals of {BUILT_IN} have up to {dataset.num_atoms.max()} atoms, more than "
            f"max_num_atoms={config.max_num_atoms}."
        )
    names = config.properties or dataset.property_names
    columns = [dataset.property_names.index(name) for name in names]
    dataset = dataclasses.replace(
        dataset, properties=dataset.properties[:, columns], property_names=names
    )
    held_out = {"val": _BUILT_IN_HELD_OUT, "test": _BUILT_IN_HELD_OUT}
    return _split(dataset, held_out, config.seed)


def _prepare_all(
    sources: dict[str, Source], properties: Sequence[str], max_num_atoms: int, progress: bool
) -> dict[str, Prepared]:
    tables = {}
    not_cached: OSError | None = None
    for split, source in sources.items():
        try:
            key = cache.content_key(source, properties, max_num_atoms)
        except OSError as error:
            raise UserError(f"{source.table} or a CIF beside it is unreadable: {error}.") from error
        table = cache.fetch(key)
        if table is None:
            # Imported here because pymatgen takes longer to import than cached data to load.
            from crystal_diffusion_jax.data.read import read

            table = read(source, properties, max_num_atoms, progress)
            try:
                cache.store(key, table)
            except OSError as error:
                not_cached = error
        tables[split] = table
    if not_cached is not None:
        warnings.warn(
            f"Prepared data are not cached and will be prepared again next time ({not_cached}): "
            "set CRYSTAL_DIFFUSION_CACHE to a folder that can be written.",
            stacklevel=3,
        )
    return tables


def _split(
    dataset: CrystalDataset, fractions: dict[str, float], seed: int
) -> dict[str, CrystalDataset]:
    """A random split; at least one crystal in each part, the crystals in their old order.

    The last crystal with an element stays in train: nothing could be learnt of that element
    elsewhere.
    """
    remaining = np.random.default_rng(seed).permutation(len(dataset))
    has = np.zeros((len(dataset), 119), bool)
    has[np.repeat(np.arange(len(dataset)), dataset.num_atoms), dataset.atomic_numbers] = True
    left = has.sum(axis=0)  # crystals of train with each element
    parts = {}
    for name, fraction in fractions.items():
        size = max(1, round(fraction * len(dataset)))
        chosen: list[int] = []
        for row in remaining.tolist():
            if len(chosen) < size and (left[has[row]] > 1).all():
                chosen.append(row)
                left -= has[row]
        parts[name] = np.array(chosen or remaining[:1], np.int64)
        remaining = remaining[~np.isin(remaining, parts[name])]
    if len(remaining) == 0:
        raise UserError(
            f"{len(dataset)} crystals are too few to hold out {', '.join(fractions)} "
            f"({', '.join(str(fraction) for fraction in fractions.values())} of them)."
        )
    parts = {"train": remaining, **parts}
    return {name: dataset.take(np.sort(rows)) for name, rows in parts.items()}
