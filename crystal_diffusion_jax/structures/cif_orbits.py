"""The images of listed atoms under a space group; those at one place are one atom."""

from collections.abc import Iterator

import numpy as np
from pymatgen.core import Lattice

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.cif_atoms import ListedAtoms
from crystal_diffusion_jax.structures.conversion import wrap_array
from crystal_diffusion_jax.structures.limits import MAX_IMAGES, MIN_VALID_DISTANCE
from crystal_diffusion_jax.structures.space_groups import TRIVIAL, Group, as_arrays

# Fractional. Below this two images are one, apart from the error of arithmetic.
_EXACT = 1e-6
# Fractional. A coordinate may lie this far from a special position although it has more digits:
# programs write many digits of less precise numbers.
_NOISE = 5e-4
# 0.5 and 0 are meant exactly, while 0.33 is a third.
_FEWEST_DECIMALS = 2
# Angstrom. Images of two listed atoms closer than this are one atom listed twice.
_SAME_ATOM = 0.1


def images_of(atoms: ListedAtoms, group: Group, lattice: Lattice) -> list[np.ndarray]:
    """For each of N listed atoms, the [M, 3] fractional coordinates of all its images.

    An atom that lies on a special position within the precision of its digits is moved onto it.
    Without symmetry every coordinate stays as it is listed.

    Raises:
      ValueError: there are too many images, or two of them overlap; the message is the reason.
    """
    images = len(atoms.labels) * len(group)
    if images > MAX_IMAGES:
        raise ValueError(f"too many atoms: {images} images of those listed, at most {MAX_IMAGES}")
    if group == TRIVIAL:
        return list(atoms.positions[:, None])
    orbits = list(_orbits(atoms, group, lattice))
    _refuse_atoms_listed_twice(atoms, orbits, lattice)
    return orbits


def _orbits(atoms: ListedAtoms, group: Group, lattice: Lattice) -> Iterator[np.ndarray]:
    rotations, translations = as_arrays(group)
    for label, position, units in zip(atoms.labels, atoms.positions, atoms.units, strict=True):
        units = np.where(units > 10.0**-_FEWEST_DECIMALS, 0.0, units)
        position = _on_special_position(position, units, rotations, translations)
        images = rotations @ position + translations
        orbit = _distinct(images)
        distances = lattice.get_all_distances(orbit[:1], orbit[1:])
        if distances.min(initial=np.inf) < MIN_VALID_DISTANCE:
            raise ValueError(
                f"images of atom '{printable(label)}' are only {distances.min():.2g} A apart: "
                "its coordinates lie near a special position, but farther than their digits allow"
            )
        yield wrap_array(orbit)


def _on_special_position(
    position: np.ndarray, units: np.ndarray, rotations: np.ndarray, translations: np.ndarray
) -> np.ndarray:
    """The mean of the images that coincide within the precision, if it is a fixed point of these.

    Args:
      position: [3] as listed.
      units: [3] how far each coordinate may be off.
      rotations: [n, 3, 3] of the space group.
      translations: [n, 3] of the space group.
    """
    tolerance = np.maximum(units * (1 - 1e-6), _NOISE)
    moves = _difference(rotations @ position + translations, position)  # [n, 3]
    # What an error of the position does to x -> R x + t - x.
    reach = np.abs(rotations - np.eye(3)) @ tolerance  # [n, 3]
    coinciding = (np.abs(moves) <= reach + _EXACT).all(axis=-1)
    special = position + moves[coinciding].mean(axis=0)
    moves = _difference(rotations @ special + translations, special)
    fixed = (np.abs(moves) < _EXACT).all(axis=-1)
    if (fixed == coinciding).all() and (np.abs(special - position) <= tolerance).all():
        return special
    return position


def _distinct(images: np.ndarray) -> np.ndarray:
    """The first of the images at each place; equally many coincide at every place."""
    apart = (np.abs(_difference(images, images[0])) > _EXACT).any(axis=-1)
    if apart.sum() == len(images) - 1:
        return images
    distinct = []
    while len(images):
        distinct.append(images[0])
        images = images[(np.abs(_difference(images, images[0])) > _EXACT).any(axis=-1)]
    return np.array(distinct)


def _difference(positions: np.ndarray, origin: np.ndarray) -> np.ndarray:
    difference = positions - origin
    return difference - np.round(difference)


def _refuse_atoms_listed_twice(
    atoms: ListedAtoms, orbits: list[np.ndarray], lattice: Lattice
) -> None:
    """Refuses images of one listed atom at the place of another of the same element."""
    for second, element in enumerate(atoms.elements):
        same = [first for first in range(second) if atoms.elements[first] == element]
        if not same:
            continue
        others = np.concatenate([orbits[first] for first in same])
        if lattice.get_all_distances(orbits[second][:1], others).min() < _SAME_ATOM:
            raise ValueError(
                f"duplicate atoms at one site: '{printable(atoms.labels[second])}' is a symmetry "
                "image of another atom that is listed"
            )
