"""Moments: the statistics of a data set that comes in parts."""

import collections
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset, dataset_statistics
from crystal_diffusion_jax.errors import UserError


class Moments:
    """Gathers what `dataset_statistics` would measure of all parts together.

    Means and sums of squared deviations are merged by the rule of Chan, Golub and LeVeque,
    "Updating formulae and a pairwise algorithm for computing sample variances" (1979), eq. (2.1).
    """

    def __init__(self) -> None:
        self._histogram: collections.Counter[int] = collections.Counter()
        self._vocabulary: set[int] = set()
        self._names: tuple[str, ...] | None = None
        # Of the properties and, in the last two columns, of the two lattice scales.
        self._mean = self._squares = np.zeros(0)
        self._low = self._high = np.zeros(0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of atoms seen so far, ascending."""
        return tuple(sorted(self._histogram))

    def add(self, part: CrystalDataset) -> None:
        """Counts another part, which must not be empty.

        Raises:
          UserError: its properties are not those of the parts before.
        """
        plain, scaled = (dataset_statistics(part, scale) for scale in (False, True))
        mean = np.array([*plain.property_mean, plain.lattice_scale, scaled.lattice_scale])
        squares = np.sum(np.square(part.properties - part.properties.mean(axis=0)), axis=0)
        squares = np.concatenate([squares, [0.0, 0.0]])  # of the lattice only the mean is asked
        low, high = np.array(plain.property_min), np.array(plain.property_max)
        if self._names is None:
            self._names, self._mean, self._squares = part.property_names, mean, squares
            self._low, self._high = low, high
        elif self._names != part.property_names:
            raise UserError(
                f"the parts have different properties: {', '.join(part.property_names)} after "
                f"{', '.join(self._names)}"
            )
        else:
            before, new = self._histogram.total(), len(part)
            share = new / (before + new)
            self._squares = self._squares + squares + np.square(mean - self._mean) * before * share
            self._mean = self._mean + (mean - self._mean) * share
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._histogram.update(dict(plain.num_atoms_histogram))
        self._vocabulary.update(plain.vocabulary)

    def summary(self) -> dict[str, Any]:
        """The fields of `ShardedDataset` that are no files."""
        names = self._names or ()
        deviation = np.sqrt(self._squares[:-2] / max(1, self._histogram.total()))
        return {
            "sizes": self.sizes,
            "columns": tuple(range(len(names))),
            "vocabulary": tuple(sorted(self._vocabulary)),
            "property_names": names,
            "property_mean": tuple(self._mean[:-2].tolist()),
            # By its range, as in `dataset_statistics`.
            "property_std": tuple(np.where(self._low < self._high, deviation, 1.0).tolist()),
            "property_min": tuple(self._low.tolist()),
            "property_max": tuple(self._high.tolist()),
            "lattice_scales": tuple(self._mean[-2:].tolist()),
        }
