"""How a property is distributed, and with it the number of atoms: p(y) and p(N | y) in tables."""

import numpy as np

from crystal_diffusion_jax.data.limits import MAX_PROPERTY

# The quantiles of a property are stored in steps of one percent.
_PERCENT = np.linspace(0.0, 1.0, 101)
# The numbers of atoms are counted in bins of a property between every fifth of these quantiles.
_QUANTILES_PER_BIN = 5
NUM_BINS = 100 // _QUANTILES_PER_BIN


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
      P times `NUM_BINS` times S counts, S the number of different values of `num_atoms`.
    """
    sizes, size = np.unique(num_atoms, return_inverse=True)
    tables = []
    for row, values in zip(quantiles(properties), properties.T, strict=True):
        table = np.zeros((NUM_BINS, len(sizes)), np.int64)
        np.add.at(table, (bin_of(values, row), size), 1)
        tables.append(tuple(tuple(counts) for counts in table.tolist()))
    return tuple(tables)


def bin_of(values: np.ndarray, row: tuple[float, ...]) -> np.ndarray:
    """The bin of each value, 0 to NUM_BINS - 1; values beyond the data are in an end's.

    Args:
      values: of any shape.
      row: the property's 101 quantiles.
    """
    inner_edges = np.array(row)[_QUANTILES_PER_BIN:-1:_QUANTILES_PER_BIN]
    return np.searchsorted(inner_edges, values)


def require_sound(
    property_quantiles: object, num_atoms_by_property: object, num_properties: int, num_sizes: int
) -> None:
    """Checks tables that come from a file; both may be empty.

    Raises:
      ValueError: they have other shapes than P x 101 and P x `NUM_BINS` x S, or impossible numbers.
    """
    for name, table, shape, kinds in (
        ("property_quantiles", property_quantiles, (num_properties, 101), "iuf"),
        (
            "num_atoms_by_property",
            num_atoms_by_property,
            (num_properties, NUM_BINS, num_sizes),
            "iu",
        ),
    ):
        if table == ():
            continue
        array = np.array(table)  # ragged tables raise ValueError
        if array.shape != shape or array.dtype.kind not in kinds:
            raise ValueError(f"statistics.{name} are not {' x '.join(map(str, shape))} numbers")
        if array.dtype.kind == "f":
            if not (np.abs(array) <= MAX_PROPERTY).all() or (np.diff(array) < 0).any():
                raise ValueError(f"statistics.{name} do not ascend within the limits")
        elif array.min() < 0:
            raise ValueError(f"statistics.{name} are not all at least 0")
