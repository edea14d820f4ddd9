"""The cell and the listed atoms of a data block; what is no whole atom is refused."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pymatgen.core import Lattice

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.cif_blocks import DEFAULT, UNKNOWN, DataBlock
from crystal_diffusion_jax.structures.cif_content import stated_elements
from crystal_diffusion_jax.structures.cif_elements import (
    element_of_label,
    element_of_type,
    refuse_mixture_label,
)
from crystal_diffusion_jax.structures.cif_numbers import Number, number
from crystal_diffusion_jax.structures.conversion import lattice_defect
from crystal_diffusion_jax.structures.limits import MAX_FRACTIONAL

_CELL = [f"_cell_length_{axis}" for axis in "abc"]
_CELL += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
_COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
# Refined occupancies of full sites end a little off 1.
_OCCUPANCY_TOLERANCE = 5e-4


class ListedAtoms(NamedTuple):
    """The N atoms of a list.

    Attributes:
      labels: N names for messages.
      elements: N symbols, of which `D` is deuterium.
      positions: [N, 3] fractional coordinates.
      units: [N, 3] one unit of the last digit of each; 0 for a fraction such as 1/3.
    """

    labels: list[str]
    elements: list[str]
    positions: np.ndarray
    units: np.ndarray


def lattice_of(block: DataBlock) -> Lattice:
    """The cell.

    Raises:
      ValueError: it is incomplete or has a `lattice_defect`; the message is the reason.
    """
    if not all(block.column(key) for key in _CELL):
        raise ValueError("unparsable CIF: cell lengths or angles are missing")
    numbers = [number(block.get(key) or UNKNOWN) for key in _CELL]
    parameters = [given.value for given in numbers if given is not None]
    if len(parameters) < len(_CELL):
        raise ValueError("unparsable CIF: cell lengths and angles are not all numbers")
    possible = min(parameters) > 0 and max(parameters[3:]) < 180 and np.isfinite(parameters).all()
    lattice = Lattice.from_parameters(*parameters) if possible else Lattice(np.zeros((3, 3)))
    if defect := lattice_defect(lattice.matrix):
        raise ValueError(f"{defect}: lengths and angles are {parameters}")
    return lattice


def atoms_of(block: DataBlock) -> ListedAtoms:
    """The atoms that are listed.

    Raises:
      ValueError: one is no atom of a known element at a known place; the message is the reason.
    """
    columns = {tag: block.column(f"_atom_site_{tag}") for tag in _COLUMNS}
    lengths = {len(column) for column in columns.values() if column}
    if len(lengths) != 1:
        raise ValueError("unparsable CIF: the columns of atoms differ in length")
    _refuse_parts_of_atoms(block)
    coordinates = [_coordinates(columns[f"fract_{axis}"], axis) for axis in "xyz"]
    labels = columns["label"] or columns["type_symbol"]
    types = columns["type_symbol"] or [UNKNOWN] * len(labels)
    if not labels:
        raise ValueError("unparsable CIF: the atoms have neither labels nor type symbols")
    return ListedAtoms(
        labels,
        _elements(labels, types, block),
        np.array([[given.value for given in column] for column in coordinates]).T,
        np.array([[given.unit for given in column] for column in coordinates]).T,
    )


def _coordinates(column: Sequence[str], axis: str) -> list[Number]:
    if not column:
        raise ValueError(f"unparsable CIF: the atoms lack their fractional coordinate {axis}")
    numbers = []
    for text in column:
        if (given := number(text)) is None:
            raise ValueError(f"unparsable CIF: coordinate '{printable(text)}' is not a number")
        if abs(given.value) > MAX_FRACTIONAL:
            raise ValueError(f"coordinate beyond {MAX_FRACTIONAL:g}: '{printable(text)}'")
        numbers.append(given)
    return numbers


def _refuse_parts_of_atoms(block: DataBlock) -> None:
    """Refuses partial occupancies, alternatives, dummies, and hydrogen without coordinates."""
    for text in block.column("_atom_site_occupancy"):
        given = number("1" if text == DEFAULT else text)
        if given is None or abs(given.value - 1.0) > _OCCUPANCY_TOLERANCE:
            raise ValueError(f"partial occupancy: {printable(text)}")
    for text in block.column("_atom_site_attached_hydrogens"):
        given = number(text)
        if given is not None and given.value > 0:
            raise ValueError("hydrogen atoms are attached without coordinates")
    if "dum" in block.column("_atom_site_calc_flag"):
        raise ValueError("a dummy is among the atoms: _atom_site_calc_flag dum")
    groups = set(block.column("_atom_site_disorder_group")) - {UNKNOWN, DEFAULT, "0"}
    if len(groups) > 1 or any(group.startswith("-") for group in groups):
        raise ValueError(
            "disorder: alternative atoms, of the groups "
            f"{printable(', '.join(sorted(groups)))} in _atom_site_disorder_group"
        )


def _elements(labels: Sequence[str], types: Sequence[str], block: DataBlock) -> list[str]:
    for label in labels:
        refuse_mixture_label(label)
    present = stated_elements(block) if UNKNOWN in types or DEFAULT in types else frozenset()
    return [
        element_of_label(label, present) if kind in (UNKNOWN, DEFAULT) else element_of_type(kind)
        for label, kind in zip(labels, types, strict=True)
    ]
