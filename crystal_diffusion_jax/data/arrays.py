"""CrystalDataset: crystals as flat numpy arrays, and what a model must remember of them."""

import dataclasses
import hashlib
import itertools

import numpy as np

from crystal_diffusion_jax.data import profile
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_PROPERTY


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

    def require_whole(self) -> None:
        """Checks arrays that come from a file.

        Raises:
          ValueError: they do not fit together, or hold impossible numbers.
        """
        count = len(self.num_atoms) if self.num_atoms.ndim else 0
        # Summed by Python, whose integers do not overflow.
        countable = self.num_atoms.ndim == 1 and self.num_atoms.dtype.kind in "iu"
        atoms = sum(self.num_atoms.tolist()) if countable else 0
        shapes = {
            "lattice": (count, 3, 3),
            "num_atoms": (count,),
            "frac_coords": (atoms, 3),
            "atomic_numbers": (atoms,),
            "properties": (count, len(self.property_names)),
        }
        limits = {"num_atoms": (1, np.inf), "atomic_numbers": (1, 118), "frac_coords": (0, 1)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape} instead of {shape}")
            kinds = "iu" if name in ("num_atoms", "atomic_numbers") else "fiu"
            if array.dtype.kind not in kinds:
                raise ValueError(f"{name} holds no numbers, or not the right ones: {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
            low, high = limits.get(name, (-np.inf, np.inf))
            if np.any((array < low) | (array > high)):
                raise ValueError(f"{name} leaves the range {low} .. {high}")
        if self.material_ids.shape != (count,):
            raise ValueError(f"material_ids has shape {self.material_ids.shape}, not {(count,)}")

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
      property_quantiles: P times 101 quantiles in steps of one percent, see `profile.quantiles`;
        empty where they were not measured, as for data sets in shards.
      num_atoms_by_property: P tables of the numbers of atoms by property, see
        `profile.size_counts`; empty likewise.
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
    property_quantiles: tuple[tuple[float, ...], ...] = ()
    num_atoms_by_property: tuple[tuple[tuple[int, ...], ...], ...] = ()

    def require_sound(self) -> None:
        """Checks statistics that come from a file.

        Raises:
          ValueError: a field has not the type or the length that it should, or an impossible value;
            the message names it.
        """
        for name, value in vars(self).items():
            if isinstance(value, tuple) == (name in ("lattice_scale", "scale_by_num_atoms")):
                raise ValueError(f"statistics.{name} is a list, or should be one")
        pairs = self.num_atoms_histogram
        if not pairs or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
            raise ValueError("statistics.num_atoms_histogram holds no pairs")
        numbers, counts = zip(*pairs, strict=True)
        for name, whole in (
            ("vocabulary", self.vocabulary),
            ("num_atoms_histogram", (*numbers, *counts)),
        ):
            if not whole or any(type(value) is not int or value < 1 for value in whole):
                raise ValueError(f"statistics.{name} are not all whole numbers from 1")
        for name, ascending in (("vocabulary", self.vocabulary), ("num_atoms_histogram", numbers)):
            if any(one >= other for one, other in itertools.pairwise(ascending)):
                raise ValueError(f"statistics.{name} do not ascend")
        if self.vocabulary[-1] > 118 or numbers[-1] > MAX_ATOMS:
            raise ValueError(f"statistics name element 119 or more, or over {MAX_ATOMS} atoms")
        names = self.property_names
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(
            names
        ):
            raise ValueError("statistics.property_names are not all different names")
        for field in ("property_mean", "property_std", "property_min", "property_max"):
            values = getattr(self, field)
            if len(values) != len(names) or not all(map(_is_finite, values)):
                raise ValueError(f"statistics.{field} are not {len(names)} finite numbers")
        if min(self.property_std, default=1.0) <= 0:
            raise ValueError("statistics.property_std are not all above 0")
        profile.require_sound(
            self.property_quantiles, self.num_atoms_by_property, len(names), len(pairs)
        )
        if not _is_finite(self.lattice_scale) or self.lattice_scale <= 0:
            raise ValueError("statistics.lattice_scale is no number above 0")
        if type(self.scale_by_num_atoms) is not bool:
            raise ValueError("statistics.scale_by_num_atoms is neither true nor false")

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


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and bool(abs(value) <= MAX_PROPERTY)  # type: ignore[arg-type]


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
    # By its range: rounding gives the standard deviation of a constant column a tiny value. And
    # values that differ by less than 1e-160 have squares that vanish.
    std = dataset.properties.std(axis=0)
    std = np.where((low < high) & (std > 0), std, 1.0)
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
        property_quantiles=profile.quantiles(dataset.properties),
        num_atoms_by_property=profile.size_counts(dataset.properties, dataset.num_atoms),
    )
