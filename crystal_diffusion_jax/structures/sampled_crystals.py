"""Crystals of one request in memory: a sequence of structures with its conversions."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import ase
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.request import Request, SampledBatch
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.conversion import cell_defect, to_ase, to_structure


@dataclasses.dataclass(frozen=True, repr=False)
class SampledCrystals(Sequence[Structure]):
    """Crystals of one request, a sequence of pymatgen structures.

    Attributes:
      structures: the kept crystals.
      indices: index of each in the request.
      rejected: index -> reason.
      request: the request.
    """

    structures: tuple[Structure, ...]
    indices: tuple[int, ...]
    rejected: Mapping[int, str]
    request: Request

    def __repr__(self) -> str:
        common = Counter(self.formulas).most_common(5)
        formulas = ", ".join(f"{formula} {count}" for formula, count in common)
        more = ", ..." if len(set(self.formulas)) > len(common) else ""
        return f"{len(self)} crystals of {self.request.model} ({formulas}{more})"

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # as the tuple's
        return self.structures[index]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """[len(self)] requested value of each property."""
        return {name: asked[list(self.indices)] for name, asked in self.request.values().items()}

    @property
    def material_ids(self) -> list[str]:
        """Reference crystal that each one predicts, "" for none; [] if none has any."""
        ids = self.request.material_ids
        return [ids[index] for index in self.indices] if ids else []

    @property
    def formulas(self) -> list[str]:
        """Reduced formulas."""
        return [reduced_formula(crystal.atomic_numbers) for crystal in self]

    def to_pymatgen(self) -> list[Structure]:
        """The crystals as pymatgen structures."""
        return list(self.structures)

    def to_ase(self) -> list[ase.Atoms]:
        """The crystals as ASE atoms."""
        return [to_ase(structure) for structure in self.structures]

    def write_cifs(self, folder: str | Path, symprec: float = 0.1) -> list[Path]:
        """Writes one CIF per crystal, with the file names of `experiments.sample`.

        Args:
          folder: created if missing.
          symprec: tolerance of the symmetry in Angstrom; 0 writes P1.
        """
        # Their search for symmetry takes a third of a second to import.
        from crystal_diffusion_jax.structures.cif_writer import to_cif
        from crystal_diffusion_jax.structures.export import cif_name

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for index, structure in zip(self.indices, self, strict=True):
            paths.append(folder / cif_name(index, structure))
            paths[-1].write_text(to_cif(structure, symprec), encoding="utf-8")
        return paths


def rejection(
    request: Request, lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> str | None:
    """Why a sampled crystal is rejected, None if it is kept; arrays as in `to_structure`."""
    if defect := cell_defect(lattice, frac_coords):
        return defect
    if request.chemical_system and len(set(atomic_numbers.tolist())) < len(request.chemical_system):
        return "lacks an element of the chemical system"
    return None


class CrystalsInMemory:
    """Collects the batches of one request without a folder."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._structures: dict[int, Structure] = {}
        self._rejected: dict[int, str] = {}

    def remaining(self) -> list[int]:
        """All indices: every request starts without crystals."""
        return list(range(self._request.num))

    def counts(self) -> tuple[int, int]:
        """Number of kept and of rejected crystals."""
        return len(self._structures), len(self._rejected)

    def add(self, batch: SampledBatch) -> None:
        """Keeps the crystals of one batch."""
        for index, states in zip(batch.indices, batch.trajectories, strict=True):
            crystal = states.lattice[-1], states.frac_coords[-1], states.atomic_numbers[-1]
            if reason := rejection(self._request, *crystal):
                self._rejected[index] = reason
            else:
                self._structures[index] = to_structure(*crystal)

    def crystals(self) -> SampledCrystals:
        """The kept crystals, by index."""
        indices = tuple(sorted(self._structures))
        structures = tuple(self._structures[index] for index in indices)
        return SampledCrystals(structures, indices, self._rejected, self._request)
