"""Crystals of each setting in spglib's database, and their CIFs with the symmetry said in a way."""

import functools
import re
import warnings
from typing import NamedTuple

import numpy as np
import spglib
from pymatgen.core import Lattice

CLOSE = 0.7  # Angstrom; crystals whose atoms are closer are not made
_HEAD = """data_{hall_number}
_cell_length_a {a:.8f}
_cell_length_b {b:.8f}
_cell_length_c {c:.8f}
_cell_angle_alpha {alpha:.8f}
_cell_angle_beta {beta:.8f}
_cell_angle_gamma {gamma:.8f}
"""
_ATOMS = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


class Operations(NamedTuple):
    rotations: np.ndarray
    translations: np.ndarray


class Kind(NamedTuple):
    """What spglib calls a setting."""

    number: int
    short: str
    full: str
    hall: str
    choice: str


class Crystal(NamedTuple):
    """A cell, the atoms to list, and all images of each."""

    lattice: Lattice
    listed: np.ndarray
    images: list[np.ndarray]


@functools.cache
def kind_of(hall_number: int) -> Kind:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        kind = spglib.get_spacegroup_type(hall_number)
    assert kind is not None
    full = kind.international_full.replace("_", "")
    # spglib's short symbol is that of the standard axes: P 21/c for P 1 21/n 1 too.
    monoclinic = 3 <= kind.number <= 15
    short = re.sub(r" 1(?= |$)", "", full) if monoclinic else kind.international
    return Kind(
        kind.number,
        short.replace("_", "").split("=")[0].strip(),
        full,
        kind.hall_symbol,
        kind.choice,
    )


@functools.cache
def operations_of(hall_number: int) -> Operations:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        found = spglib.get_symmetry_from_database(hall_number)
    assert found is not None
    return Operations(found["rotations"], found["translations"])


def keeps(lattice: Lattice, hall_number: int) -> bool:
    """Whether the operations of a setting leave the cell's metric as it is."""
    rotations, _ = operations_of(hall_number)
    metric = lattice.matrix @ lattice.matrix.T
    return np.allclose(rotations.transpose(0, 2, 1) @ metric @ rotations, metric, atol=1e-4)


@functools.cache
def crystal_of(hall_number: int) -> Crystal:
    """A general and a special position, in a random cell that the setting allows."""
    rng = np.random.default_rng(hall_number)
    operations = operations_of(hall_number)
    while True:
        lattice = _random_lattice(operations.rotations, rng)
        listed = [rng.random(3).round(4)]
        if (special := _special_position(operations, rng)) is not None:
            listed.append(special)
        images = [_all_images(position, operations) for position in listed]
        # From one atom of each orbit; from the others it is the same.
        distances = lattice.get_all_distances([one[0] for one in images], np.concatenate(images))
        if distances[distances > 1e-6].min(initial=np.inf) > CLOSE:
            return Crystal(lattice, np.array(listed), images)


def cif_of(crystal: Crystal, symmetry: str, digits: int = 8) -> str:
    """A CIF of the listed atoms and these lines about the symmetry."""
    a, b, c, alpha, beta, gamma = crystal.lattice.parameters
    head = _HEAD.format(hall_number="x", a=a, b=b, c=c, alpha=alpha, beta=beta, gamma=gamma)
    lines = [
        f"{element}1 {element} " + " ".join(f"{x:.{digits}f}" for x in position)
        for element, position in zip(("Si", "O"), crystal.listed, strict=False)
    ]
    return head + symmetry + _ATOMS + "\n".join(lines) + "\n"


@functools.cache
def operations_loop(hall_number: int) -> str:
    rows = []
    for rotation, translation in zip(*operations_of(hall_number), strict=True):
        parts = []
        for row, shift in zip(rotation, translation, strict=True):
            terms = "".join(
                f"{'+' if factor > 0 else '-'}{axis}"
                for factor, axis in zip(row, "xyz", strict=True)
                if factor
            )
            parts.append(terms.removeprefix("+") + (f"+{round(12 * shift)}/12" if shift else ""))
        rows.append("'" + ", ".join(parts) + "'")
    return "loop_\n_space_group_symop_operation_xyz\n" + "\n".join(rows) + "\n"


def _random_lattice(rotations: np.ndarray, rng: np.random.Generator) -> Lattice:
    vectors = np.diag(rng.uniform(7.0, 11.0, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
    vectors *= max(1.0, np.cbrt(len(rotations) / 12))
    metric = vectors @ vectors.T
    metric = np.mean(rotations.transpose(0, 2, 1) @ metric @ rotations, axis=0)
    lengths = np.sqrt(np.diag(metric))
    cosines = metric / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
    return Lattice.from_parameters(*lengths, *angles)


def _special_position(operations: Operations, rng: np.random.Generator) -> np.ndarray | None:
    """A fixed point of a random operation; None if none has one."""
    order = rng.permutation(len(operations.rotations))
    start = rng.random(3)
    for index in order:
        rotation, translation = operations.rotations[index], operations.translations[index]
        if (rotation == np.eye(3)).all():
            continue
        for shift in np.ndindex(3, 3, 3):
            # (R - 1) x = -t - n has a solution or not.
            right = -(translation + np.array(shift) - 1)
            correction = np.linalg.pinv(rotation - np.eye(3)) @ (
                right - (rotation - np.eye(3)) @ start
            )
            fixed = start + correction
            if np.allclose((rotation - np.eye(3)) @ fixed, right, atol=1e-9):
                return fixed % 1.0
    return None


def _all_images(position: np.ndarray, operations: Operations) -> np.ndarray:
    images: list[np.ndarray] = []
    for rotation, translation in zip(*operations, strict=True):
        image = (rotation @ position + translation) % 1.0
        if not any((np.abs((image - one + 0.5) % 1 - 0.5) < 1e-5).all() for one in images):
            images.append(image)
    return np.array(images)
