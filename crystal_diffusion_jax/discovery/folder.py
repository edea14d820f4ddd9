"""What the folder of a `discover` holds of its crystals."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from crystal_diffusion_jax.potentials.relaxed_store import read_relaxed
from crystal_diffusion_jax.structures.database import DATABASE
from crystal_diffusion_jax.structures.samples_reader import read_samples, read_values

RELAXED_FOLDER = "relaxed"


def values(out: Path) -> dict[int, dict[str, Any]]:
    """Index of each written crystal -> what is known of it by name."""
    return read_values(out / DATABASE)


def generated_structures(out: Path, indices: Iterable[int]) -> dict[int, Structure]:
    """Index -> crystal as it was sampled."""
    samples = read_samples(out / DATABASE)
    found = ((index, samples[index]) for index in indices)
    return {index: structure for index, structure in found if isinstance(structure, Structure)}


def relaxed_structures(out: Path, indices: Iterable[int]) -> dict[int, Structure]:
    """Index -> relaxed crystal."""
    relaxed = read_relaxed(out / RELAXED_FOLDER)
    found = ((index, relaxed[index].relaxation.structure) for index in indices)
    return {index: structure for index, structure in found if structure is not None}
