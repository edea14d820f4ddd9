"""Crystals that are not new: those that a model was trained on, and those of the user's files."""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.evaluation.diversity import dataset_structures, rows_by_composition
from crystal_diffusion_jax.evaluation.matching import match
from crystal_diffusion_jax.runtime.files import file_sha256
from crystal_diffusion_jax.structures.compositions import ReducedComposition, reduced_composition
from crystal_diffusion_jax.structures.reading import read_structures

TRAINING_SET = "training set"
_MAX_LABEL = 100


class KnownCrystals:
    """Any number of known crystals, those of a training set made structures as they are needed.

    Attributes:
      notes: a sentence for each file of which not all crystals could be read.
    """

    def __init__(self, training: CrystalDataset | None, files: Sequence[str]) -> None:
        """Takes the crystals.

        Args:
          training: those that the model was trained on, None if they are not there.
          files: of the user, of any kind that `read_structures` takes.

        Raises:
          UserError: one does not exist, or is none of these.
        """
        self._training, self._files = training, files
        self._of_files: list[tuple[str, Structure]] = []
        self.notes: list[str] = []
        for file in files:
            if not Path(file).exists():
                raise UserError(f"--known={file} does not exist: give a file or folder of crystals")
            self._read(file)

    def __bool__(self) -> bool:
        return self._training is not None or bool(self._files)

    def digests(self) -> dict[str, str]:
        """Identifies the content of each file or folder of the user."""
        return {file: digest(Path(file)) for file in self._files}

    def alike(self, structures: Iterable[Structure]) -> tuple[list[Structure], list[str]]:
        """The known crystals that share a composition with any of these, and what they are."""
        wanted = {reduced_composition(structure.atomic_numbers) for structure in structures}
        found: list[Structure] = []
        labels: list[str] = []
        if self._training is not None:
            rows = [row for key in sorted(wanted) for row in self._rows.get(key, [])]
            taken = self._training.take(np.array(rows, dtype=int))
            found += dataset_structures(taken)
            labels += [f"{TRAINING_SET}: {name}" for name in taken.material_ids]
        for label, structure in self._of_files:
            if reduced_composition(structure.atomic_numbers) in wanted:
                found.append(structure)
                labels.append(label)
        return found, [printable(label, _MAX_LABEL) for label in labels]

    @functools.cached_property
    def _rows(self) -> Mapping[ReducedComposition, list[int]]:
        assert self._training is not None
        return rows_by_composition(self._training)

    def _read(self, file: str) -> None:
        inputs = read_structures(Path(file))
        for name, structure in zip(inputs.names, inputs.structures, strict=True):
            if structure is not None:
                self._of_files.append((f"{Path(file).name}: {name}", structure))
        if inputs.failures:
            first, reason = next(iter(inputs.failures.items()))
            self.notes.append(
                f"{len(inputs.failures)} of {len(inputs.names)} crystals of --known={file} cannot "
                f"be read and are not compared; the first, {inputs.names[first]}: {reason}"
            )


def digest(path: Path) -> str:
    """Identifies the content of a file, or of all files of a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    parts = (f"{file.relative_to(path)} {file_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


class Comparison(NamedTuple):
    """Crystals beside each other and beside known ones, by index.

    Attributes:
      group: index of the first crystal that is the same; those whose comparison failed are missing.
      known_as: what the nearest known crystal is that is the same; "" for a new one; no entries
        where nothing is known.
      failures: why a comparison failed.
    """

    group: dict[int, int]
    known_as: dict[int, str]
    failures: dict[int, str]


def compare(
    crystals: Mapping[int, Structure], known: KnownCrystals, progress: bool = True
) -> Comparison:
    """Compares crystals with each other and with known ones, as `evaluate` does.

    Args:
      crystals: index -> crystal, ascending.
      known: the known ones.
      progress: show progress bars on stderr.
    """
    indices, structures = list(crystals), list(crystals.values())
    alike, labels = known.alike(structures) if known else ([], [])
    matches = match(structures, alike, progress)
    group, known_as = {}, {}
    for index, first, is_known, nearest in zip(
        indices, matches.group, matches.known, matches.nearest, strict=True
    ):
        if first >= 0:
            group[index] = indices[first]
            if known:
                far = "a known crystal, with its atoms displaced"
                known_as[index] = (labels[nearest] if nearest >= 0 else far) if is_known else ""
    return Comparison(group, known_as, {indices[i]: why for i, why in matches.failures.items()})
