"""How a property is distributed, and with it the number of atoms: p(y) and p(N | y) in tables."""

import numpy as np

from crystal_diffusion_jax.structures.limits import MAX_PROPERTY

# The quantiles of a property are stored in steps of one percent.
_PERCENT = np.linspace(0.0, 1.0, 101)
# The numbers of atoms are counted in bins of a property between these quantiles, or between every
# fifth where bins of one percent would hold fewer crystals than this: the sizes of few are noise.
_MIN_CRYSTALS = 100
_FINE, _COARSE = 100, 20


def quantiles(properties: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """[M, P] values -> P times 101 quantiles, from the minimum to the maximum."""
    return tuple(tuple(row) for row in np.quantile(properties, _PERCENT, axis=0).T.tolist())


def size_counts(
    properties: np.ndarray, num_atoms: np.ndarray
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Crystals of each size in each bin of each property.

    Args:
      properties: [M, P].
      num_atoms: [M].

    Returns:
      P times bins times S counts, S the number of different values of `num_atoms`. The bins are
      100, of one percent of the crystals each, where these are 100 or more, else 20.
    """
    sizes, size = np.unique(num_atoms, return_inverse=True)
    num_bins = _FINE if len(num_atoms) >= _FINE * _MIN_CRYSTALS else _COARSE
    tables = []
    for row, values in zip(quantiles(properties), properties.T, strict=True):
        table = np.zeros((num_bins, len(sizes)), np.int64)
        np.add.at(table, (bin_of(values, row, num_bins), size), 1)
        tables.append(tuple(tuple(counts) for counts in table.tolist()))
    return tuple(tables)


def bin_of(values: np.ndarray, row: tuple[float, ...], num_bins: int) -> np.ndarray:
    """The bin of each value, 0 to num_bins - 1; values beyond the data are in an end's.

    Args:
      values: of any shape.
      row: the property's 101 quantiles.
      num_bins: bins of as many crystals each, a divisor of 100.
    """
    width = 100 // num_bins
    inner_edges = np.array(row)[width:-1:width]
    return np.searchsorted(inner_edges, values)


def require_sound(
    property_quantiles: object, num_atoms_by_property: object, num_properties: int, num_sizes: int
) -> None:
    """Checks tables that come from a file; both may be empty.

    Raises:
      ValueError: they have other shapes than P x 101 and P x 20 or 100 x S, or impossible numbers.
    """
    for name, table, columns, sizes, kinds in (
        ("property_quantiles", property_quantiles, (len(_PERCENT),), (), "iuf"),
        ("num_atoms_by_property", num_atoms_by_property, (_COARSE, _FINE), (num_sizes,), "iu"),
    ):
        if table == ():
            continue
        array = np.array(table)  # ragged tables raise ValueError
        shapes = [(num_properties, count, *sizes) for count in columns]
        if array.shape not in shapes or array.dtype.kind not in kinds:
            stated = " or ".join(" x ".join(map(str, shape)) for shape in shapes)
            raise ValueError(f"statistics.{name} are not {stated} numbers")
        if array.dtype.kind == "f":
            if not (np.abs(array) <= MAX_PROPERTY).all() or (np.diff(array) < 0).any():
                raise ValueError(f"statistics.{name} do not ascend within the limits")
        elif array.min() < 0:
            raise ValueError(f"statistics.{name} are not all at least 0")
