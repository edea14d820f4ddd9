"""CrystalDataset: crystals as flat numpy arrays, and what a model must remember of them."""

import dataclasses
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class CrystalDataset:
    """M crystals with A atoms in total, in canonical form (Niggli cell, fixed orientation).

    Attributes:
      lattice: [M, 3, 3] float64, cell vectors as rows, in Angstrom.
      num_atoms: [M] int64, atoms of each crystal; crystal m owns the atoms
        sum(num_atoms[:m]) ... sum(num_atoms[:m + 1]) - 1 of the per-atom arrays.
      frac_coords: [A, 3] float64 in [0, 1).
      atomic_numbers: [A] int64.
      properties: [M, P] float64, in each property's own unit.
      property_names: P column names.
      material_ids: [M] str.
    """

    lattice: np.ndarray
    num_atoms: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray
    properties: np.ndarray
    property_names: tuple[str, ...]
    material_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.num_atoms)

    @property
    def offsets(self) -> np.ndarray:
        """[M + 1] index of each crystal's first atom; the last entry is A."""
        return np.concatenate([[0], np.cumsum(self.num_atoms)])

    def checksum(self) -> str:
        """sha256 of the crystals and their properties, 64 hexadecimal digits; ids don't count."""
        digest = hashlib.sha256(repr(self.property_names).encode())
        for array in (
            self.lattice,
            self.num_atoms,
            self.frac_coords,
            self.atomic_numbers,
            self.properties,
        ):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def take(self, rows: np.ndarray) -> "CrystalDataset":
        """The crystals of the given rows ([m] int), in that order."""
        offsets = self.offsets
        atoms = np.concatenate(
            [np.arange(offsets[row], offsets[row + 1]) for row in rows]
            or [np.zeros(0, dtype=np.int64)]
        )
        return CrystalDataset(
            lattice=self.lattice[rows],
            num_atoms=self.num_atoms[rows],
            frac_coords=self.frac_coords[atoms],
            atomic_numbers=self.atomic_numbers[atoms],
            properties=self.properties[rows],
            property_names=self.property_names,
            material_ids=self.material_ids[rows],
        )


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """What a trained model must remember of its training data.

    Attributes:
      vocabulary: sorted atomic numbers that occur; a species index points into it.
      property_names: P names.
      property_mean: P means, used with `property_std` to z-score.
      property_std: P standard deviations (1.0 for a constant property).
      property_min: P training minima.
      property_max: P training maxima.
      num_atoms_histogram: (number of atoms, count) pairs in ascending order.
      lattice_scale: mean length of the cell vectors in Angstrom, divided by N^(1/3) first when
        `scale_by_num_atoms`.
      scale_by_num_atoms: whether a crystal's lattice unit is `lattice_scale * N^(1/3)`.
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
    low, high = dataset.properties.min(axis=0), dataset.properties.max(axis=0)
    # By its range: rounding gives the standard deviation of a constant column a tiny value.
    std = np.where(low < high, dataset.properties.std(axis=0), 1.0)
    return DatasetStatistics(
        vocabulary=tuple(int(z) for z in np.unique(dataset.atomic_numbers)),
        property_names=dataset.property_names,
        property_mean=tuple(dataset.properties.mean(axis=0).tolist()),
        property_std=tuple(std.tolist()),
        property_min=tuple(low.tolist()),
        property_max=tuple(high.tolist()),
        num_atoms_histogram=tuple(zip(numbers.tolist(), counts.tolist(), strict=True)),
        lattice_scale=float(lengths.mean()),
        scale_by_num_atoms=scale_by_num_atoms,
    )
