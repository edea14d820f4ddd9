"""Readability and validity of each crystal, and the reasons for failures.

A failure is a text, "reason: details" or "reason". Equal causes have equal reasons, by which
failures are counted; numbers, formulas and messages of other packages are details.
"""

import dataclasses
from collections.abc import Mapping, Sequence

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
    crystals = {i: crystal for i, crystal in enumerate(inputs.structures) if crystal is not None}
    structure: dict[int, str] = {}
    composition: dict[int, str] = {}
    for i, crystal in crystals.items():
        if defect := structural_defect(crystal):
            structure[i] = defect
        if defect := composition_defect(reduced_composition(crystal.atomic_numbers)):
            composition[i] = defect
    indices = range(len(inputs.structures))
    return Checked(
        present=list(crystals),
        crystals=list(crystals.values()),
        structure_valid=np.array([i in crystals and i not in structure for i in indices], bool),
        composition_valid=np.array([i in crystals and i not in composition for i in indices], bool),
        failures={
            "reading": dict(inputs.failures),
            "structure": structure,
            "composition": composition,
        },
    )


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

    @property
    def text(self) -> str:
        """Reason and detail, as `split_reason` takes them."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


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
