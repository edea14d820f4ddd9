"""Noise in the order of a property, so that no single crystal answers for an end of its range."""

import numpy as np


class RankNoise:
    """Shows each crystal with the property of one that is near it in the order of that property.

    A conditional model learns p(crystal | value). Inside the range many crystals share the
    neighbourhood of a value; at its ends, where most requests are made, there may be one, which a
    network memorises or learns badly. Here the crystal of rank r takes the value of rank r + k, k
    uniform on -reach..reach and reflected at both ends. The lowest value so comes with each of the
    `reach` lowest crystals equally often, and every value is seen as often as before.

    Reference: the vicinal estimate of Ding et al., arXiv:2011.07466, with neighbourhoods in rank.
    """

    def __init__(self, properties: np.ndarray, is_number: np.ndarray, reach: int) -> None:
        """Sorts the values.

        Args:
          properties: [M, P], NaN where missing, which stays.
          is_number: [P] bool; the others, which are numbers of classes, stay.
          reach: how many places a value may come from, at most; less where values are fewer.
        """
        order = np.argsort(properties, axis=0, kind="stable")  # NaN come last
        self._rank = np.argsort(order, axis=0)
        self._sorted = np.take_along_axis(properties, order, axis=0)
        self._known = np.sum(~np.isnan(properties), axis=0)
        self._reach = np.where(is_number, np.minimum(reach, self._known // 2), 0)

    def draw(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """[..., P] values to show with the crystals `rows` [...]."""
        rank, last = self._rank[rows], self._known - 1
        place = rank + rng.integers(-self._reach, self._reach + 1, size=rank.shape)
        place = np.where(place < 0, -1 - place, place)
        place = np.where(place > last, 2 * last + 1 - place, place)
        place = np.where(rank > last, rank, place)
        return self._sorted[place, np.arange(rank.shape[-1])]
