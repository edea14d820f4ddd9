"""Uniqueness and novelty of generated crystals: as structures and as mere compositions."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.evaluation.intervals import Rate, rate
from crystal_diffusion_jax.evaluation.matching import match
from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition
from crystal_diffusion_jax.structures.conversion import restore_structure


@dataclasses.dataclass(frozen=True)
class Diversity:
    """How n crystals differ from each other and from a training set.

    Attributes:
      group: [n] int, equal for crystals that are the same; -1 where there is no crystal or its
        comparison failed.
      novel: [n] bool, no training crystal is the same; False where `group` is -1.
      novel_composition: [n] bool, no training crystal has the composition; False without crystal.
      compositions: the distinct reduced compositions of the crystals.
      failures: index -> why a crystal's comparison failed.
    """

    group: np.ndarray
    novel: np.ndarray
    novel_composition: np.ndarray
    compositions: frozenset[ReducedComposition]
    failures: dict[int, str]

    @property
    def unique(self) -> Rate:
        """Distinct crystals out of all."""
        return self.distinct(np.ones(len(self.group), dtype=bool))

    @property
    def unique_compositions(self) -> Rate:
        """Distinct compositions out of all crystals."""
        return Rate(len(self.compositions), len(self.group))

    @property
    def rates(self) -> dict[str, Rate]:
        """ "unique", "novel", "unique_compositions" and "novel_compositions", out of all."""
        return {
            "unique": self.unique,
            "novel": rate(self.novel),
            "unique_compositions": self.unique_compositions,
            "novel_compositions": rate(self.novel_composition),
        }

    def distinct(self, wanted: np.ndarray) -> Rate:
        """Distinct crystals among those wanted ([n] bool), out of all n."""
        groups = self.group[wanted & (self.group >= 0)]
        return Rate(len(np.unique(groups)), len(self.group))


def diversity(
    structures: Sequence[Structure | None], train: CrystalDataset | None, progress: bool = True
) -> Diversity:
    """Compares crystals with each other and with the training set.

    Args:
      structures: n crystals, None where there is none.
      train: the crystals that the generator has seen; None compares the crystals with each other
        alone, and all count as novel.
      progress: show progress bars on stderr.
    """
    present = [i for i, structure in enumerate(structures) if structure is not None]
    crystals = [structure for structure in structures if structure is not None]
    compositions = [reduced_composition(crystal.atomic_numbers) for crystal in crystals]
    rows = {} if train is None else _rows_by_composition(train)
    known: list[Structure] = []
    if train is not None:
        alike = [row for key in sorted(set(compositions)) for row in rows.get(key, [])]
        known = dataset_structures(train.take(np.array(alike, dtype=int)))
    matches = match(crystals, known, progress)

    group = np.full(len(structures), -1)
    novel = np.zeros(len(structures), dtype=bool)
    novel_composition = np.zeros(len(structures), dtype=bool)
    for index, composition, first, is_known in zip(
        present, compositions, matches.group, matches.known, strict=True
    ):
        novel_composition[index] = composition not in rows
        if first >= 0:
            group[index] = present[first]
            novel[index] = not is_known
    failures = {present[i]: reason for i, reason in matches.failures.items()}
    return Diversity(group, novel, novel_composition, frozenset(compositions), failures)


def _rows_by_composition(dataset: CrystalDataset) -> dict[ReducedComposition, list[int]]:
    offsets = dataset.offsets
    rows: dict[ReducedComposition, list[int]] = {}
    for row in range(len(dataset)):
        numbers = dataset.atomic_numbers[offsets[row] : offsets[row + 1]]
        rows.setdefault(reduced_composition(numbers), []).append(row)
    return rows


def dataset_structures(dataset: CrystalDataset) -> list[Structure]:
    """The crystals of a data set as pymatgen structures, in the order of its rows."""
    offsets = dataset.offsets
    return [
        restore_structure(
            dataset.lattice[row],
            dataset.frac_coords[offsets[row] : offsets[row + 1]],
            dataset.atomic_numbers[offsets[row] : offsets[row + 1]],
        )
        for row in range(len(dataset))
    ]
