"""Distribution of a property, p(y), and of the number of atoms given it, p(N | y), as tables."""

from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.structures.limits import MAX_PROPERTY

# The quantiles of a property are stored in steps of one percent.
_PERCENT = np.linspace(0.0, 1.0, 101)
# The numbers of atoms are counted in bins of a property between some of these quantiles: as many
# bins as have the crystals that a histogram needs, many for one percent, else a few.
_MIN_CRYSTALS = {100: 100, 20: 5, 10: 5, 5: 5, 2: 5, 1: 0}


def quantiles(properties: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """[M, P] values -> P times 101 quantiles of the known ones, from the minimum to the maximum."""
    return tuple(
        tuple(np.quantile(values[~np.isnan(values)], _PERCENT).tolist()) for values in properties.T
    )


def size_counts(
    properties: np.ndarray, num_atoms: np.ndarray
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Crystals of each size in each bin of each property.

    Args:
      properties: [M, P]; a crystal without a value is not counted.
      num_atoms: [M].

    Returns:
      P times bins times S counts, S the number of different values of `num_atoms`. The bins are
      100, of one percent of the crystals each, where these are 100 or more; else 20, or fewer of 5
      crystals at least.
    """
    sizes, size = np.unique(num_atoms, return_inverse=True)
    num_bins = next(n for n, least in _MIN_CRYSTALS.items() if len(num_atoms) >= n * least)
    tables = []
    for row, values in zip(quantiles(properties), properties.T, strict=True):
        table = np.zeros((num_bins, len(sizes)), np.int64)
        known = ~np.isnan(values)
        np.add.at(table, (bin_of(values[known], row, num_bins), size[known]), 1)
        tables.append(tuple(tuple(counts) for counts in table.tolist()))
    return tuple(tables)


def bin_of(values: np.ndarray, row: tuple[float, ...], num_bins: int) -> np.ndarray:
    """The bin of each value, 0 to num_bins - 1; values beyond the data are in the outermost bins.

    Args:
      values: of any shape.
      row: the property's 101 quantiles.
      num_bins: bins of as many crystals each, a divisor of 100.
    """
    width = 100 // num_bins
    inner_edges = np.array(row)[width:-1:width]
    return np.searchsorted(inner_edges, values)


def check_tables(
    property_quantiles: Sequence[Sequence[float]],
    num_atoms_by_property: Sequence[Sequence[Sequence[int]]],
    num_properties: int,
    num_sizes: int,
) -> None:
    """Checks tables that come from a file.

    Raises:
      ValueError: they are not P x 101 ascending numbers, or not P x bins x S counts.
    """
    if len(property_quantiles) != num_properties:
        raise ValueError(f"property_quantiles must have {num_properties} tables")
    if len(num_atoms_by_property) != num_properties:
        raise ValueError(f"num_atoms_by_property must have {num_properties} tables")
    if num_properties == 0:
        return
    array = np.array(property_quantiles)  # ragged tables raise ValueError
    if array.shape != (num_properties, len(_PERCENT)):
        raise ValueError(f"property_quantiles must be {num_properties} x 101 numbers")
    if not (np.abs(array) <= MAX_PROPERTY).all() or (np.diff(array) < 0).any():
        raise ValueError(f"property_quantiles must ascend within {MAX_PROPERTY:g}")
    counts = np.array(num_atoms_by_property)
    if counts.shape not in [(num_properties, bins, num_sizes) for bins in _MIN_CRYSTALS]:
        raise ValueError(
            f"num_atoms_by_property must be {num_properties} x bins x {num_sizes} counts, bins one "
            f"of {', '.join(map(str, _MIN_CRYSTALS))}"
        )
    if counts.min(initial=0) < 0:
        raise ValueError("num_atoms_by_property has a negative count")
