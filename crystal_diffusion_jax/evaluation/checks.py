"""First stage of every evaluation: which crystals could be read, which are valid, and why not.

A failure is one text, "reason: details" or just "reason". The same cause has the same reason, so
that failures can be counted by it; numbers, formulas and messages of other packages are details.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.evaluation.intervals import Rate, rate
from crystal_diffusion_jax.evaluation.validity import composition_defect, structural_defect
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.reading import Inputs


@dataclasses.dataclass(frozen=True)
class Checked:
    """n crystals, checked one by one.

    Attributes:
      present: indices of those that could be read.
      crystals: the structures at these indices.
      structure_valid: [n] bool.
      composition_valid: [n] bool.
      failures: "reading", "structure" or "composition" -> index -> text.
    """

    present: Sequence[int]
    crystals: Sequence[Structure]
    structure_valid: np.ndarray
    composition_valid: np.ndarray
    failures: Mapping[str, dict[int, str]]

    @property
    def valid(self) -> np.ndarray:
        """[n] bool, structure and composition are valid."""
        return self.structure_valid & self.composition_valid

    @property
    def rates(self) -> dict[str, Rate]:
        """Validity in "structure", "composition" and "both"."""
        return {
            "structure": rate(self.structure_valid),
            "composition": rate(self.composition_valid),
            "both": rate(self.valid),
        }

    def scatter(self, values: np.ndarray) -> np.ndarray:
        """[n] from one value per crystal that could be read, NaN for the others."""
        scattered = np.full(len(self.structure_valid), np.nan)
        scattered[list(self.present)] = values
        return scattered


def check(inputs: Inputs) -> Checked:
    """Checks structure and composition of every crystal that could be read."""
    num = len(inputs.structures)
    present = [i for i, structure in enumerate(inputs.structures) if structure is not None]
    crystals = [structure for structure in inputs.structures if structure is not None]
    structural = _defects(present, map(structural_defect, crystals))
    compositional = _defects(
        present,
        (composition_defect(reduced_composition(crystal.atomic_numbers)) for crystal in crystals),
    )
    is_read = _mask(num, present)
    return Checked(
        present=present,
        crystals=crystals,
        structure_valid=is_read & ~_mask(num, structural),
        composition_valid=is_read & ~_mask(num, compositional),
        failures={
            "reading": dict(inputs.failures),
            "structure": structural,
            "composition": compositional,
        },
    )


def _defects(indices: Sequence[int], defects: Iterable[str | None]) -> dict[int, str]:
    pairs = zip(indices, defects, strict=True)
    return {index: defect for index, defect in pairs if defect is not None}


def _mask(num: int, indices: Iterable[int]) -> np.ndarray:
    mask = np.zeros(num, dtype=bool)
    mask[list(indices)] = True
    return mask


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why one crystal failed at one stage.

    Attributes:
      index: of the crystal, from 0.
      name: of the crystal.
      stage: "reading", "structure", "composition", "property", "comparison" or "fingerprint".
      reason: a few words, equal for equal causes.
      detail: of this crystal, often "".
    """

    index: int
    name: str
    stage: str
    reason: str
    detail: str


def split_reason(text: str) -> tuple[str, str]:
    """Reason and detail of a failure's text."""
    reason, _, detail = text.partition(": ")
    return reason, detail


def list_failures(names: Sequence[str], stages: Mapping[str, Mapping[int, str]]) -> list[Failure]:
    """All failures by index, those of one crystal in the order of the stages.

    Args:
      names: of all crystals.
      stages: stage -> index -> text.
    """
    return [
        Failure(index, name, stage, *split_reason(texts[index]))
        for index, name in enumerate(names)
        for stage, texts in stages.items()
        if index in texts
    ]
