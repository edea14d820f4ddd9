"""Crystals of one request in memory, for Python and notebooks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystal_diffusion_jax.request import SampleSettings
from crystal_diffusion_jax.sampling.entry import rejection

# lattice [3, 3] in Angstrom, frac_coords [N, 3], atomic_numbers [N]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Memory:
    """What `generate` fills where no folder is wanted."""

    def __init__(self, settings: SampleSettings) -> None:
        """Starts without crystals.

        Args:
          settings: the request.
        """
        self._settings = settings
        self.crystals: dict[int, Arrays] = {}
        self.rejected: dict[int, str] = {}

    def remaining(self) -> list[int]:
        """Indices that are neither kept nor rejected, ascending."""
        done = self.crystals.keys() | self.rejected.keys()
        return [index for index in range(self._settings.num) if index not in done]

    def counts(self) -> dict[str, Any]:
        """Numbers of crystals: requested, written, rejected, and rejected_by_reason."""
        return {
            "requested": self._settings.num,
            "written": len(self.crystals),
            "rejected": len(self.rejected),
            "rejected_by_reason": dict(Counter(self.rejected.values())),
        }

    def add(
        self,
        indices: Sequence[int],
        lattices: Sequence[np.ndarray],
        frac_coords: Sequence[np.ndarray],
        atomic_numbers: Sequence[np.ndarray],
        wall_seconds: float,
        network_calls: int,
        trajectories: Mapping[int, str] | None = None,
    ) -> None:
        """Keeps one batch of crystals, no trajectories; arguments as in `SampleFolder.add`."""
        for index, *arrays in zip(indices, lattices, frac_coords, atomic_numbers, strict=True):
            lattice, coords, numbers = arrays
            if reason := rejection(self._settings, lattice, coords, numbers):
                self.rejected[index] = reason
            else:
                self.crystals[index] = (lattice, coords, numbers)
