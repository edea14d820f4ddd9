"""Crystals as flat numpy arrays, and the statistics that a model keeps of its training data."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from crystal_diffusion_jax.data import profile
from crystal_diffusion_jax.data.formula_units import (
    FormulaUnits,
    check_table,
    count_formula_units,
)
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_PROPERTY


@dataclasses.dataclass(frozen=True)
class CrystalDataset:
    """M crystals with A atoms in total, in canonical form (Niggli cell, fixed orientation).

    The arrays may be read-only memory maps of more data than fit into memory.

    Attributes:
      lattice: [M, 3, 3] float64, cell vectors as rows, in Angstrom.
      num_atoms: [M] int64, atoms of each crystal; crystal m owns the atoms
        sum(num_atoms[:m]) ... sum(num_atoms[:m + 1]) - 1 of the per-atom arrays.
      frac_coords: [A, 3] float64 in [0, 1).
      atomic_numbers: [A] int64.
      properties: [M, P] float64, in each property's own unit; NaN where a crystal has no value;
        of a class its number.
      property_names: P column names.
      material_ids: [M] str.
      class_names: names of the classes 0, 1, ... of each property that is a class.
    """

    lattice: np.ndarray
    num_atoms: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray
    properties: np.ndarray
    property_names: tuple[str, ...]
    material_ids: np.ndarray
    class_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.num_atoms)

    @property
    def offsets(self) -> np.ndarray:
        """[M + 1] index of each crystal's first atom; the last entry is A."""
        return np.concatenate([[0], np.cumsum(self.num_atoms)])

    def checksum(self) -> str:
        """sha256 of the crystals and their properties, 64 hexadecimal digits; without the ids."""
        digest = hashlib.sha256(repr(self.property_names).encode())
        if self.class_names:
            digest.update(repr(sorted(self.class_names.items())).encode())
        for array in (
            self.lattice,
            self.num_atoms,
            self.frac_coords,
            self.atomic_numbers,
            self.properties,
        ):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def take(self, rows: np.ndarray) -> "CrystalDataset":
        """The crystals of the given rows ([m] int), in that order, in memory."""
        num_atoms = self.num_atoms[rows]
        ends = np.cumsum(num_atoms)
        # Position among all atoms = first atom of the crystal + position within the crystal.
        atoms = np.repeat(self.offsets[rows] - (ends - num_atoms), num_atoms)
        atoms += np.arange(len(atoms))
        return CrystalDataset(
            lattice=self.lattice[rows],
            num_atoms=num_atoms,
            frac_coords=self.frac_coords[atoms],
            atomic_numbers=self.atomic_numbers[atoms],
            properties=self.properties[rows],
            property_names=self.property_names,
            material_ids=self.material_ids[rows],
            class_names=self.class_names,
        )


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """What a trained model keeps of its training data.

    Attributes:
      vocabulary: sorted atomic numbers that occur; a species index points into it.
      property_names: P names.
      property_mean: P means of the known values, used with `property_std` to z-score; 0 for
        classes that are embedded one by one.
      property_std: P standard deviations (1.0 for a constant property, and for such classes).
      property_min: P training minima.
      property_max: P training maxima.
      num_atoms_histogram: (number of atoms, count) pairs in ascending order.
      lattice_scale: mean length of the cell vectors in Angstrom, divided by N^(1/3) first when
        `scale_by_num_atoms`.
      scale_by_num_atoms: whether a crystal's lattice unit is `lattice_scale * N^(1/3)`.
      property_quantiles: P times 101 quantiles in steps of one percent, see `profile.quantiles`.
      num_atoms_by_property: P tables of the numbers of atoms by property, see
        `profile.size_counts`.
      class_names: names of the classes 0, 1, ... of each property that is a class.
      formula_units: formula units in the cells of each anonymous formula, see
        `formula_units.count_formula_units`; empty in older models.
    """

    vocabulary: tuple[int, ...]
    property_names: tuple[str, ...]
    property_mean: tuple[float, ...]
    property_std: tuple[float, ...]
    property_min: tuple[float, ...]
    property_max: tuple[float, ...]
    num_atoms_histogram: tuple[tuple[int, int], ...]
    lattice_scale: float
    scale_by_num_atoms: bool
    property_quantiles: tuple[tuple[float, ...], ...]
    num_atoms_by_property: tuple[tuple[tuple[int, ...], ...], ...]
    class_names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    formula_units: FormulaUnits = ()

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, if values are out of range or inconsistent."""
        sizes = [size for size, _ in self.num_atoms_histogram]
        for name, ascending, largest in (
            ("vocabulary", self.vocabulary, 118),
            ("num_atoms_histogram", sizes, MAX_ATOMS),
        ):
            pairs = itertools.pairwise((0, *ascending, largest + 1))
            if not ascending or not all(one < other for one, other in pairs):
                raise ValueError(f"statistics.{name} must ascend within 1 .. {largest}")
        if min(count for _, count in self.num_atoms_histogram) < 1:
            raise ValueError("statistics.num_atoms_histogram has a count below 1")
        names = self.property_names
        if not all(names) or len(set(names)) < len(names):
            raise ValueError("statistics.property_names must be different and not empty")
        for field in ("property_mean", "property_std", "property_min", "property_max"):
            values = getattr(self, field)
            # NaN does not compare as smaller.
            if len(values) != len(names) or not all(abs(value) <= MAX_PROPERTY for value in values):
                raise ValueError(f"statistics.{field} must be {len(names)} finite numbers")
        if not all(std > 0 for std in self.property_std):
            raise ValueError("statistics.property_std must be above 0")
        if not 0 < self.lattice_scale < math.inf:
            raise ValueError("statistics.lattice_scale must be a finite number above 0")
        profile.check_tables(
            self.property_quantiles, self.num_atoms_by_property, len(names), len(sizes)
        )
        check_table(self.formula_units, sizes, self.num_crystals)
        for name, classes in self.class_names.items():
            if name not in names or not all(classes) or len(set(classes)) < len(classes):
                raise ValueError("statistics.class_names must be different names of a property")
            high = self.property_max[names.index(name)]
            if self.property_min[names.index(name)] < 0 or high >= len(classes):
                raise ValueError(f"statistics.class_names lacks classes of {name}")

    @property
    def num_known(self) -> tuple[int, ...]:
        """P numbers of crystals that have a value."""
        return tuple(int(np.sum(table)) for table in self.num_atoms_by_property)

    @property
    def one_hot_sizes(self) -> tuple[int, ...]:
        """P numbers of classes that are embedded one by one; 0 for numbers.

        Two classes are a number, 0 or 1: a linear map of it reaches any two embeddings.
        """
        return one_hot_sizes(self.property_names, self.class_names)

    @property
    def num_crystals(self) -> int:
        """Number of training crystals."""
        return sum(count for _, count in self.num_atoms_histogram)

    @property
    def z_quantiles(self) -> tuple[tuple[float, ...], ...]:
        """`property_quantiles` as z-scores."""
        return tuple(
            tuple((value - mean) / std for value in row)
            for row, mean, std in zip(
                self.property_quantiles, self.property_mean, self.property_std, strict=True
            )
        )

    def lattice_unit(self, num_atoms: np.ndarray) -> np.ndarray:
        """Length in Angstrom that the diffusion calls 1, for crystals of `num_atoms` atoms."""
        power = np.cbrt(num_atoms) if self.scale_by_num_atoms else np.ones(np.shape(num_atoms))
        return self.lattice_scale * power


def dataset_statistics(dataset: CrystalDataset, scale_by_num_atoms: bool) -> DatasetStatistics:
    """Measures the training set.

    Args:
      dataset: the training split.
      scale_by_num_atoms: measure cell lengths in units of N^(1/3).
    """
    numbers, counts = np.unique(dataset.num_atoms, return_counts=True)
    lengths = np.linalg.norm(dataset.lattice, axis=-1).mean(axis=-1)  # [M]
    if scale_by_num_atoms:
        lengths = lengths / np.cbrt(dataset.num_atoms)
    scales = [
        (0.0, 1.0) if size else _mean_and_std(values)
        for values, size in zip(
            known_values(dataset),
            one_hot_sizes(dataset.property_names, dataset.class_names),
            strict=True,
        )
    ]
    return DatasetStatistics(
        vocabulary=tuple(np.flatnonzero(np.bincount(dataset.atomic_numbers)).tolist()),
        property_names=dataset.property_names,
        property_mean=tuple(mean for mean, _ in scales),
        property_std=tuple(std for _, std in scales),
        property_min=tuple(float(values.min()) for values in known_values(dataset)),
        property_max=tuple(float(values.max()) for values in known_values(dataset)),
        num_atoms_histogram=tuple(zip(numbers.tolist(), counts.tolist(), strict=True)),
        lattice_scale=float(lengths.mean()),
        scale_by_num_atoms=scale_by_num_atoms,
        property_quantiles=profile.quantiles(dataset.properties),
        num_atoms_by_property=profile.size_counts(dataset.properties, dataset.num_atoms),
        class_names=dict(dataset.class_names),
        formula_units=count_formula_units(dataset.num_atoms, dataset.atomic_numbers),
    )


def known_values(dataset: CrystalDataset) -> list[np.ndarray]:
    """The values of each property, without the missing ones."""
    return [values[~np.isnan(values)] for values in dataset.properties.T]


def one_hot_sizes(
    property_names: Sequence[str], class_names: Mapping[str, Sequence[str]]
) -> tuple[int, ...]:
    """See `DatasetStatistics.one_hot_sizes`."""
    sizes = (len(class_names.get(name, ())) for name in property_names)
    return tuple(size if size > 2 else 0 for size in sizes)


def _mean_and_std(values: np.ndarray) -> tuple[float, float]:
    # A constant column is recognised by its range, as rounding gives it a tiny deviation; values
    # that differ by less than 1e-160 have a deviation of 0.
    std = float(values.std())
    return float(values.mean()), std if values.min() < values.max() and std > 0 else 1.0
