"""Crystals of one request as Python has them: a sequence of structures, and what they turn into."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ase
import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.request import SampleSettings, draw_values
from crystal_diffusion_jax.sampling.entry import cif_name
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.conversion import to_ase


@dataclasses.dataclass(frozen=True, repr=False)
class SampledCrystals(Sequence[Structure]):
    """Crystals of one request, a sequence of pymatgen structures.

    Attributes:
      structures: those that were not rejected.
      indices: place of each in the request.
      rejected: index -> why.
      settings: the request.
    """

    structures: tuple[Structure, ...]
    indices: tuple[int, ...]
    rejected: Mapping[int, str]
    settings: SampleSettings

    def __repr__(self) -> str:
        common = Counter(self.formulas).most_common(5)
        formulas = ", ".join(f"{formula} {count}" for formula, count in common)
        more = ", ..." if len(set(self.formulas)) > len(common) else ""
        return f"{len(self)} crystals of {self.settings.model} ({formulas}{more})"

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # as the tuple's
        return self.structures[index]

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """[len(self)] requested value of each property asked for."""
        drawn = draw_values(self.settings.target, self.settings.num, self.settings.seed)
        return {name: asked[list(self.indices)] for name, asked in drawn.items()}

    @property
    def formulas(self) -> list[str]:
        """Reduced formulas."""
        return [reduced_formula(np.array(crystal.atomic_numbers)) for crystal in self]

    def to_pymatgen(self) -> list[Structure]:
        """The crystals as pymatgen has them."""
        return list(self.structures)

    def to_ase(self) -> list[ase.Atoms]:
        """The crystals as ASE has them."""
        return [to_ase(structure) for structure in self.structures]

    def write_cifs(self, folder: str | Path, symprec: float = 0.1) -> list[Path]:
        """One CIF a crystal, named as by `experiments.sample`.

        Args:
          folder: made where it is missing.
          symprec: tolerance of the symmetry in Angstrom; 0 writes P1.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for index, structure, formula in zip(self.indices, self, self.formulas, strict=True):
            paths.append(folder / cif_name({"index": index, "formula": formula}))
            paths[-1].write_text(to_cif(structure, symprec), encoding="utf-8")
        return paths
